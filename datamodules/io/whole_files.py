"""Writing files that are either whole or not there."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LEFTOVER = re.compile(r"\.(\d+)-")
"""How the temporary names begin that files are written under: with their process."""


@contextmanager
def written_whole(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside `path`, and move what was written there into place.

    The temporary name keeps the extension, which many writers take the format from. If the block
    fails, what it wrote is removed and `path` stays as it was.

    Args:
        path: where the file is to be; its folder is created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_free(path: Path) -> None:
    """Check that nothing is where a folder is to be.

    Raises:
        FileExistsError: If there is something.
    """
    if path.exists():
        message = f"{path} exists already: give another folder, or move it away"
        raise FileExistsError(message)


@contextmanager
def new_folder(path: Path, mode: int = 0o777) -> Iterator[Path]:
    """Give a temporary folder beside `path`, which becomes `path` when all is written.

    If the block fails, what it wrote is removed.

    Args:
        path: where the folder is to be; nothing may be there.
        mode: who may read and write it, less the umask.

    Raises:
        FileExistsError: If there is something.
    """
    check_free(path)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(mode, parents=True)
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes of this machine have left of files in a run's folder.

    To be called before a run writes anything: what bears its own number is of an earlier process.

    Args:
        folder: the run's; it need not exist.
    """
    for path in folder.rglob(".*-*"):
        number = LEFTOVER.match(path.name)
        if number and path.is_file() and not is_another_process(int(number[1])):
            path.unlink(missing_ok=True)


def is_another_process(number: int) -> bool:
    """Whether a process of this number lives that is not this one."""
    if number == os.getpid():
        return False
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # of another user; no number of a process
        return True
    return True
