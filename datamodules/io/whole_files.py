"""Writing files that are either whole or not there."""

import os
import re
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
