"""What becomes of a faulty input: cases, commands run in this process, and one judge."""

import io
import re
import shlex
import shutil
import zlib
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import pytest
from faulty_inputs import INPUTS

SENTENCE = re.compile(r"^(?:noduleforge: )?error: (?P<said>.+)$")
"""How both commands begin the one line that they end with."""

MEND = re.compile(
    r"\b(?:accepts|add|adjust|allow|ask|change|check|choose|close|copy|correct|declare|double|"
    r"expected|export|fill|give|install|leave|lists|lower|make|map|mark|merge|move|must be|name|"
    r"put|raise|regenerate|remove|rename|repair|replace|resample|run|save|say|see|set|start|"
    r"synthesize|test|train|unpack|use|widen|write)\b",
    re.IGNORECASE,
)
"""What a sentence must hold, to say how the fault is mended."""

LEFTOVERS = re.compile(r"^\.(?:\d+|building)-")


class Verdict(StrEnum):
    """What a command did with an input; only the first two may be."""

    CLEAR = "clear refusal"
    RIGHT = "right"
    VAGUE = "vague refusal"
    SILENT = "silent acceptance"
    TRACEBACK = "traceback"
    OUTSIDE = "wrote outside its folder"
    LEFTOVER = "left something half-written"
    WRONG = "refused what is right"


Check = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """An input, a command, and what must happen.

    Attributes:
        name: says what is wrong with the input.
        inputs: of `faulty_inputs.INPUTS`, which says the command too.
        spoil: puts the fault into the folder `in`; the working directory is the folder above.
        says: words that the refusal must have: the file or value, at least. None where the input is
            right.
        options: more words of the command line.
        told_in: a file of the run that says it in place of the last line, where the others of
            several inputs are right.
        right: checks the result, where the input is right; gets the folder of the run.
    """

    name: str
    inputs: str
    spoil: Check
    says: tuple[str, ...] | None = None
    options: str = ""
    told_in: str = ""
    right: Check | None = None


@dataclass
class Ended:
    """How a command ended.

    Attributes:
        status: of the exit; None if an exception came out that is no exit.
        error: that exception.
        lines: what it wrote to stderr.
    """

    status: int | None
    error: BaseException | None = None
    lines: list[str] = field(default_factory=list)

    @property
    def said(self) -> str:
        """The sentence that it ended with; empty if there is none, or more than one."""
        found = [SENTENCE.match(line) for line in self.lines]
        last = found[-1] if found else None
        return last["said"] if last and sum(one is not None for one in found) == 1 else ""


def run(words: list[str], folder: Path) -> Ended:
    """Run a command in this process, with a folder as its working directory."""
    from lightning_modules.cli import main as lightning
    from noduleforge.cli import main as noduleforge

    command = {"lightning": lightning, "noduleforge": noduleforge}[words[0]]
    out, err = io.StringIO(), io.StringIO()
    status: int | None = 0
    error: BaseException | None = None
    with chdir(folder), redirect_stdout(out), redirect_stderr(err):
        try:
            command(words[1:])
        except SystemExit as ended:
            code = ended.code
            status = code if isinstance(code, int) else int(code is not None)
        except BaseException as raised:
            status, error = None, raised
    lines = [line for line in re.split(r"[\r\n]+", err.getvalue()) if line.strip()]
    return Ended(status, error, lines)


def contents(folder: Path, apart: str = "") -> dict[str, int]:
    """Checksums of all files in a folder but those of one within."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parts[0] != apart and path.is_file():
            found[str(name)] = zlib.crc32(path.read_bytes())
    return found


def judge(case: Case, folder: Path) -> tuple[Verdict, str]:
    """Run a case in a folder that has its `in`; say what happened, and what shows it."""
    with chdir(folder):
        case.spoil(Path("in"))
    words = shlex.split(f"{INPUTS[case.inputs].command} {case.options}")
    before = contents(folder, "out")
    ended = run(words, folder)
    shown = f"{shlex.join(words)}\n{ended.status}: {ended.said or ended.lines[-8:]}"
    if ended.error is not None or any("Traceback" in line for line in ended.lines):
        return Verdict.TRACEBACK, f"{shown}\n{ended.error!r}"
    if (after := contents(folder, "out")) != before:
        changed = sorted(name for name, _ in before.items() ^ after.items())
        return Verdict.OUTSIDE, f"{shown}\n{changed}"
    out = folder / "out"
    if left := [path.name for path in out.rglob(".*") if LEFTOVERS.match(path.name)]:
        return Verdict.LEFTOVER, f"{shown}\n{left}"
    if ended.status == 0 and not contents(out):
        return Verdict.SILENT, f"{shown}\nnothing was done"
    if case.says is None:
        if ended.status != 0:
            return Verdict.WRONG, shown
        if case.right is not None:
            with chdir(folder):
                case.right(out)
        return Verdict.RIGHT, shown
    return _refusal(case, ended, out), shown


def _refusal(case: Case, ended: Ended, out: Path) -> Verdict:
    """What the refusal of an input that is faulty is worth."""
    told = ended.said
    if case.told_in:
        path = out / case.told_in
        told += path.read_text() if path.is_file() else ""
    elif ended.status == 0:
        return Verdict.SILENT
    clear = all(word in told for word in case.says or ()) and MEND.search(told)
    if ended.status == 0:
        return Verdict.CLEAR if clear else Verdict.SILENT
    return Verdict.CLEAR if ended.status == 2 and ended.said and clear else Verdict.VAGUE


class Inputs:
    """Right inputs, each made once in a process and copied for each case."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def copy(self, name: str, to: Path) -> Path:
        """Copy inputs to a new folder `in` beneath `to`."""
        made = self.folder / INPUTS[name].make.__name__
        if not made.exists():
            made.mkdir(parents=True)
            with chdir(made), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                (made / "in").mkdir()
                INPUTS[name].make(Path("in"))
        shutil.copytree(made / "in", to / "in", symlinks=True)
        (to / "beside").mkdir()
        (to / "beside/victim.txt").write_text("must stay as it is")
        return to


def cases(table: list[Case]) -> pytest.MarkDecorator:
    """Parametrize a test with cases; those that need trained models are left to `make faults`."""
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(
                case, id=case.name, marks=() if INPUTS[case.inputs].quick else pytest.mark.faults
            )
            for case in table
        ],
    )
