"""One way of failing: a sentence and status 2 for what somebody can mend, else a traceback.

Both commands end here. What is raised as a sentence is told as that sentence; what the system says
of a file is put into one; Control-C ends with status 130 and no words.
"""

from __future__ import annotations

import errno
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO, cast

OF_FILES = {
    errno.ENOENT: "does not exist: correct the path",
    errno.EEXIST: "is a file, expected a folder: choose another path, or move it away",
    errno.ENOTDIR: "has a file in its path where a folder is expected: choose another path",
    errno.EISDIR: "is a folder, expected a file: correct the path",
    errno.EACCES: "may not be read or written: change its permissions, or choose another path",
    errno.EPERM: "may not be read or written: change its permissions, or choose another path",
    errno.EROFS: "lies on a disk that cannot be written: choose another path",
    errno.ENOSPC: "does not fit on its disk, which is full: make room, and run the command again",
    errno.EDQUOT: "is over what you may store: make room, and run the command again",
    errno.ENAMETOOLONG: "has a name longer than the disk allows: give a shorter one",
    errno.ELOOP: "is a symbolic link that leads back to itself: correct it",
    errno.EMFILE: "cannot be opened beside so many files: raise the limit with ulimit -n",
    errno.EIO: "cannot be read or written, as its disk fails: copy it to another",
}
"""What the system's refusals mean for a file, and how to mend them."""

OF_A_WORKER = re.compile(r"Caught \w+ in .*\nOriginal Traceback")
"""How PyTorch begins the error of a process that loads data; a traceback follows, as text."""

OTHER_WEIGHTS = re.compile(r"Error\(s\) in loading state_dict for (\w+)")
"""How it begins where a checkpoint is of another network."""

LOST_WORKER = re.compile(r"DataLoader worker \(pid")
"""How it begins where such a process was killed."""

NOISE = re.compile(
    r"Does not validate|Subtypes:|Errors:|Given value|- Expected a <class 'N|"
    r"- Import path \S+ does not correspond to a subclass"
)
"""Lines of jsonargparse's messages that speak of types and repeat values."""

Kinds = tuple[type[BaseException], ...]


@contextmanager
def told_in_one_sentence(
    program: str, packages: Sequence[Path], anywhere: Kinds = ()
) -> Iterator[None]:
    """Run a command, and end it in the one way if it fails.

    Args:
        program: stands before the sentence.
        packages: folders of code that raises sentences.
        anywhere: kinds of errors that are for users, whoever raises them.
    """
    out, err = _Lines(sys.stdout), _Lines(sys.stderr)
    with redirect_stdout(cast(TextIO, out)), redirect_stderr(cast(TextIO, err)):
        try:
            yield
        except KeyboardInterrupt as stopped:
            raise SystemExit(128 + signal.SIGINT) from stopped
        except SystemExit as ended:
            if isinstance(ended.__context__, KeyboardInterrupt):  # Lightning ends it with status 1
                raise SystemExit(128 + signal.SIGINT) from ended
            raise
        except Exception as error:
            if (sentence := refusal(error, packages, anywhere)) is None:
                raise
            traceback.clear_frames(error.__traceback__)  # ends progress bars that are drawn there
            out.end_line()
            err.end_line()
            err.write(f"{program}: {one_line(sentence)}\n")
            raise SystemExit(2) from error


def refusal(error: BaseException, packages: Sequence[Path], anywhere: Kinds = ()) -> str | None:
    """The sentence for users in an error or its causes; None if it is a fault of the code.

    What a class refuses when a config makes it comes wrapped in jsonargparse's error, and what a
    process refuses that loads data in PyTorch's.

    Args:
        error: what was raised.
        packages: as of `told_in_one_sentence`.
        anywhere: likewise.
    """
    cause: BaseException | None = error
    while cause is not None:
        if sentence := _sentence(cause, packages, anywhere):
            return sentence
        cause = cause.__cause__
    return None


def one_line(message: str) -> str:
    """A message as one line, without what jsonargparse says of types and values."""
    lines = (line.strip() for line in message.splitlines())
    kept = (line.removeprefix("- ") for line in lines if not NOISE.match(line))
    return " ".join(" ".join(kept).split())


def _sentence(error: BaseException, packages: Sequence[Path], anywhere: Kinds) -> str | None:
    """What an error itself, apart from its causes, tells a user."""
    text = str(error)
    if notes := getattr(error, "__notes__", ()):  # a guard has put into words what helps
        return " ".join((*notes, f"({text})"))
    if isinstance(error, MemoryError):
        return f"Memory has run out ({text}): give smaller inputs, or fewer workers."
    if isinstance(error, BrokenExecutor):
        return "A process was ended from outside, as memory may have run out: give fewer workers."
    if isinstance(error, OSError) and error.errno is not None:
        return _of_file(error.errno, str(error.filename or "A file"), str(error.strerror))
    if other := OTHER_WEIGHTS.match(text):
        return (
            f"The checkpoint's weights do not fit {other[1]} as it is configured: give the config "
            "that it was trained with, or another checkpoint."
        )
    if LOST_WORKER.match(text):
        return f"{one_line(text)} Lower num_workers, as memory may have run out."
    if not isinstance(error, (ValueError, OSError, RuntimeError, *anywhere)):
        return None
    if OF_A_WORKER.match(text):
        return _of_worker(text, packages)
    # none if it was never raised
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)[-1:]]
    return text if isinstance(error, anywhere) or _within(files, packages) else None


def _of_file(number: int, name: str, reason: str) -> str:
    """A sentence for what the system refuses, with a file's own name where it was temporary."""
    name = re.sub(r"(^|/)\.\d+-", r"\1", name)
    return f"{name} {OF_FILES[number]}." if number in OF_FILES else f"{name}: {reason}."


def _of_worker(text: str, packages: Sequence[Path]) -> str | None:
    """The sentence in the text of a traceback, which begins with causes."""
    for part in reversed(text.split("Traceback (most recent call last):\n")):
        files = re.findall(r'^  File "(.*)", line \d+', part, re.MULTILINE)
        said = re.search(r"^[\w.]+: (.*?)(?:\n\n|\Z)", part, re.MULTILINE | re.DOTALL)
        if said and (of_system := re.match(r"\[Errno (\d+)\] (.*?)(?:: '(.*)')?$", said[1])):
            number, reason, name = of_system.groups()
            return _of_file(int(number), name or "A file", reason)
        if said and _within(files[-1:], packages):
            return said[1]
    return None


def _within(files: Sequence[str], packages: Sequence[Path]) -> bool:
    return any(Path(file).is_relative_to(package) for file in files for package in packages)


class _Lines:
    """A stream that knows whether its last line is ended, as those of progress bars are not."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.ended = stream, True

    def write(self, text: str) -> int:
        self.ended = text.endswith("\n") if text else self.ended
        return self.stream.write(text)

    def end_line(self) -> None:
        if not self.ended:
            self.write("\n")
        self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["stream"], name)
