"""Processes that prepare cases side by side."""

import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context


@contextmanager
def processes(number: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end without a word, and without what still waits, when the command is stopped.

    Args:
        number: of processes.
    """
    ignored = (signal.SIGINT, signal.SIG_IGN)  # Control-C reaches all: the command alone answers
    pool = ProcessPoolExecutor(number, get_context("spawn"), signal.signal, ignored)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
