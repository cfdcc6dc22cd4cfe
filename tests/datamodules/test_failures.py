"""One way of failing: a sentence and status 2, or a fault's traceback; nothing glued to a bar."""

import errno
import os
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datamodules.failures import refusal, told_in_one_sentence

HERE = [Path(__file__).parent]
Err = pytest.CaptureFixture[str]


def said(command: Callable[[], object], capsys: Err, status: int = 2) -> str:
    """What stderr ends with when a command fails."""
    with pytest.raises(SystemExit) as ended, told_in_one_sentence("error", HERE):
        command()
    assert ended.value.code == status
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


def refuse(message: str) -> None:
    """Raise a sentence."""
    raise ValueError(message)


def test_a_refusal_is_one_line(capsys: Err) -> None:
    assert said(lambda: refuse("a is 1:\n  give 2"), capsys) == "error: a is 1: give 2\n"


def test_a_refusal_stands_on_a_line_of_its_own_beside_a_bar(capsys: Err) -> None:
    def command() -> None:
        for number in tqdm(range(3)):
            if number == 1:
                refuse("1 is wrong")

    assert said(command, capsys).split("\n")[-2:] == ["error: 1 is wrong", ""]


@pytest.mark.parametrize("stream", [sys.__stdout__, sys.__stderr__])
def test_a_line_that_is_not_ended_is_ended_first(stream: object, capsys: Err) -> None:
    def command() -> None:
        print("40 %", end="\r", file=sys.stdout if stream is sys.__stdout__ else sys.stderr)
        refuse("it is wrong")

    lines = said(command, capsys).split("\n")
    assert "error: it is wrong" in lines


def test_of_many_causes_the_sentence_is_told() -> None:
    def wrap() -> None:
        try:
            refuse("the window is wrong")
        except ValueError as error:
            message = "Does not validate"
            raise TypeError(message) from error

    with pytest.raises(TypeError) as wrapped:
        wrap()
    assert refusal(wrapped.value, HERE) == "the window is wrong"


@pytest.mark.parametrize("fault", [TypeError, KeyError, AttributeError])
def test_faults_keep_their_traceback(fault: type[Exception]) -> None:
    with pytest.raises(fault), told_in_one_sentence("error", HERE):
        raise fault
    with pytest.raises(ValueError, match="invalid literal"), told_in_one_sentence("error", []):
        int("of a library")


def missing(folder: Path) -> object:
    """Read a file that is not there."""
    return (folder / "nodules.csv").read_text()


def below_a_file(folder: Path) -> object:
    """Make a folder in a file."""
    (folder / "out").touch()
    return (folder / "out/images").mkdir()


def a_file_as_folder(folder: Path) -> object:
    """Make a folder that is a file."""
    (folder / "out").touch()
    return (folder / "out").mkdir(exist_ok=True)


def a_folder(folder: Path) -> object:
    """Read a folder as a file."""
    return folder.read_text()


def full(folder: Path) -> object:
    """Write on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / ".123-last.ckpt"))


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        (missing, "nodules.csv does not exist: correct the path."),
        (below_a_file, "out/images has a file in its path where a folder is expected"),
        (a_file_as_folder, "out is a file, expected a folder: choose another path"),
        (a_folder, "is a folder, expected a file"),
        (full, "/last.ckpt does not fit on its disk, which is full: make room"),
    ],
)
def test_what_the_system_refuses_is_a_sentence(
    action: Callable[[Path], object], sentence: str, tmp_path: Path, capsys: Err
) -> None:
    assert f"{sentence}" in said(lambda: action(tmp_path), capsys)


def test_what_is_no_files_fault_has_its_mend() -> None:
    assert "fewer workers" in (refusal(BrokenProcessPool("ended"), []) or "")
    assert "smaller inputs" in (refusal(MemoryError("9 TiB"), []) or "")
    error = RuntimeError("CUDA out of memory")
    error.add_note("Lower the batch size.")
    assert refusal(error, []) == "Lower the batch size. (CUDA out of memory)"


class Faulty(Dataset[int]):
    """Raises in the processes that load."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def __getitem__(self, index: int) -> int:
        if self.error is FileNotFoundError:
            open("absent.mha").close()
        try:
            return {}[index]
        except KeyError as cause:
            message = "nodule 7 is empty:\nmark it"
            raise self.error(message) from cause

    def __len__(self) -> int:
        return 4


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError, "error: nodule 7 is empty: mark it\n"),
        (FileNotFoundError, "error: absent.mha does not exist: correct the path.\n"),
    ],
)
def test_errors_of_loading_processes_are_told_alike(
    error: type[Exception], sentence: str, capsys: Err
) -> None:
    loader = DataLoader(Faulty(error), num_workers=1)
    assert said(lambda: list(loader), capsys).endswith(sentence)


def test_faults_of_loading_processes_keep_their_traceback() -> None:
    loader = DataLoader(Faulty(TypeError), num_workers=1)
    with pytest.raises(TypeError, match="Original Traceback"), told_in_one_sentence("error", HERE):
        list(loader)


def test_control_c_ends_without_a_traceback(capsys: Err) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    def stop_as_lightning_does() -> None:
        try:
            stop()
        except KeyboardInterrupt:
            sys.exit(1)

    assert said(stop, capsys, 130) == ""
    assert said(stop_as_lightning_does, capsys, 130) == ""
