"""The `noduleforge` command: help, arguments, errors as one line, and what it does not import."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

import pytest

from noduleforge import cli, lightning_command

COMMANDS = {
    name: command
    for word, known in cli.COMMANDS.items()
    for name, command in (
        {f"{word} {member}": command for member, command in known.commands.items()}
        if isinstance(known, cli.Group)
        else {word: known}
    ).items()
}

Cook = Callable[[Callable[..., Any]], None]


@pytest.fixture
def cook(monkeypatch: pytest.MonkeyPatch) -> Cook:
    """Makes a function the command `prepare sample`."""

    def make(function: Callable[..., Any]) -> None:
        kitchen = ModuleType("kitchen")
        kitchen.cook = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "kitchen", kitchen)
        group = cli.Group({"sample": cli.Command("kitchen", "cook", "Cook.")}, "Prepare.")
        monkeypatch.setattr(cli, "COMMANDS", {"prepare": group})

    return make


def test_help_shows_every_argument(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["prepare", "sample", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for argument in ("--out", "--count", "--requests", "--size", "--spacing_mm", "--seed"):
        assert argument in text
    assert "Number of nodules" in text


def test_arguments_reach_the_function(cook: Cook) -> None:
    calls = []

    def prepare(out: Path, count: int = 600) -> None:
        calls.append((out, count))

    cook(prepare)
    assert cli.main(["prepare", "sample", "--out", "here", "--count", "3"]) is None
    assert calls == [(Path("here"), 3)]


@pytest.mark.parametrize("error", [ValueError, FileExistsError, FileNotFoundError])
def test_user_errors_are_one_line(
    error: type[Exception], cook: Cook, capsys: pytest.CaptureFixture
) -> None:
    def prepare(out: Path) -> None:
        raise error(f"{out} is wrong:\nmend it.")

    cook(prepare)
    with pytest.raises(SystemExit) as stop:
        cli.main(["prepare", "sample", "--out", "here"])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.err == "noduleforge: error: here is wrong: mend it.\n"
    assert captured.out == ""


def test_faults_of_ours_keep_their_traceback(cook: Cook) -> None:
    def prepare(out: Path) -> None:
        raise TypeError("a fault")

    cook(prepare)
    with pytest.raises(TypeError, match="a fault"):
        cli.main(["prepare", "sample", "--out", "here"])


@pytest.mark.parametrize("args", [[], ["prepare"], ["prepare", "sample"], ["cook"]])
def test_incomplete_commands_end_with_status_2(args: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(args)
    assert stop.value.code == 2


def test_refused_value_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["prepare", "sample", "--out", str(tmp_path / "out"), "--count", "0"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "noduleforge: error: count is 0; expected 1 or more.\n"


@pytest.mark.parametrize("words", [["--help"], ["prepare", "--help"]])
def test_an_overview_names_every_command(words: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 0
    text = capsys.readouterr().out
    known = cli.COMMANDS["prepare"].commands if words[1:] else cli.COMMANDS  # type: ignore[union-attr]
    for name, command in known.items():
        assert name in text
        assert command.help in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_documented_function(name: str) -> None:
    function = COMMANDS[name].load()
    assert function.__name__ == COMMANDS[name].function
    assert "Args:" in (function.__doc__ or "")


HEAVY = {"torch", "lightning", "monai", "matplotlib", "pandas", "torchio", "highdicom"}
LOADED = """
import sys
from noduleforge.cli import main
try:
    main(sys.argv[1:])
finally:
    print(*sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "words",
    [["--help"], ["prepare", "--help"], ["inspect", "--help"], ["readers", "serve", "--help"]],
)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert "usage: noduleforge" in done.stdout
    assert set(done.stderr.split()) & HEAVY == set()


def test_control_c_during_imports_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the `lightning` command, whose libraries take seconds."""

    def interrupt(*_: Any) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "lightning_modules.cli", raising=False)
    monkeypatch.setattr(sys, "meta_path", [SimpleNamespace(find_spec=interrupt)])
    with pytest.raises(SystemExit) as ended:
        lightning_command.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "Stopped before anything was done.\n"
