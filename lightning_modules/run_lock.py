"""One command of a kind at a time in a run's folder."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

COMMANDS = ("fit", "validate", "test", "predict")
"""Each has its own lock: testing a run that is trained meanwhile is as it should be."""


@contextmanager
def run_locked(folder: Path, command: str) -> Iterator[bool]:
    """Keep other processes from running a command in a folder that this one runs it in.

    The lock is the system's (`lockf`): it ends with the process, however that ends, and with the
    machine; loaders' processes do not inherit it. It holds between machines where the file system
    passes it on, as NFS does unless it is mounted with `nolock` or `local_lock`.

    Args:
        folder: of the run; it is created.
        command: of `COMMANDS`.

    Yields:
        Whether another command runs there.

    Raises:
        ValueError: If the same does, naming where.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # opened for appending: what the process says that has the lock stays
    with _lock_file(folder, command).open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            message = (
                f"{folder} is written by another lightning {command} ({file.read().strip()}): wait "
                "for it, stop it, or give another trainer.default_root_dir."
            )
            raise ValueError(message) from error
        except OSError as error:
            rank_zero_warn(
                f"The file system of {folder} has no locks ({error.strerror}): see to it that no "
                f"second lightning {command} writes there."
            )
        file.truncate(0)
        file.write(
            f"process {os.getpid()} on {socket.gethostname()}, since "
            f"{datetime.now():%Y-%m-%d %H:%M}\n"
        )
        file.flush()
        try:
            yield any(_is_locked(_lock_file(folder, c)) for c in COMMANDS if c != command)
        finally:
            file.truncate(0)  # the file stays: another process may have opened it just now


def _lock_file(folder: Path, command: str) -> Path:
    return folder / f".{command}.lock"


def _is_locked(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
