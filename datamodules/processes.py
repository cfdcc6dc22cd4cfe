"""Processes that a command starts beside itself: they end when it ends them, and with it.

A terminal sends Control-C, and SLURM SIGTERM, to all processes of a job. Whoever was stopped with
the others could not finish a step, or leave no file half-written: the command alone answers.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.context import ForkContext, ForkProcess, SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

LOOK_EVERY_S = 1

if TYPE_CHECKING:
    Base = BaseProcess
else:
    Base = object


class _Loyal(Base):
    """A process that obeys no signal but its parent's SIGTERM, and does not outlive its parent."""

    def start(self) -> None:
        # what is blocked here is so in the new process, from its first moment
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def run(self) -> None:
        threading.Thread(target=_wait_for_the_end, daemon=True).start()
        super().run()


def _wait_for_the_end() -> None:
    process = parent_process()
    parent = process.pid if process else None
    while os.getppid() == parent:
        received = signal.sigtimedwait({signal.SIGTERM}, LOOK_EVERY_S)
        if received and received.si_pid == parent:
            break
    os._exit(0)


class _Forked(_Loyal, ForkProcess):
    pass


class _Spawned(_Loyal, SpawnProcess):
    pass


class _Forking(ForkContext):
    Process = _Forked


class _Spawning(SpawnContext):
    Process = _Spawned


LINUX = sys.platform == "linux"
"""Other systems have no `sigtimedwait`, and start processes in their own way there."""

LOADERS = _Forking() if LINUX else None
"""The `multiprocessing_context` of loaders."""


@contextmanager
def processes(number: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end without a word, and without what still waits, when the command is stopped.

    Args:
        number: of processes.
    """
    pool = ProcessPoolExecutor(number, _Spawning() if LINUX else get_context("spawn"))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
