"""The `noduleforge` command: help, arguments, and errors as one line."""

from pathlib import Path

import pytest

from noduleforge import cli


def test_help_shows_every_argument(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["prepare", "sample", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for argument in ("--out", "--count", "--requests", "--size", "--spacing_mm", "--seed"):
        assert argument in text
    assert "Number of nodules" in text


def test_arguments_reach_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def prepare(out: Path, count: int = 600) -> None:
        calls.append((out, count))

    monkeypatch.setattr(cli, "COMMANDS", {"prepare": {"sample": prepare}})
    assert cli.main(["prepare", "sample", "--out", "here", "--count", "3"]) is None
    assert calls == [(Path("here"), 3)]


@pytest.mark.parametrize("error", [ValueError, FileExistsError, FileNotFoundError])
def test_user_errors_are_one_line(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def prepare(out: Path) -> None:
        raise error(f"{out} is wrong:\nmend it.")

    monkeypatch.setattr(cli, "COMMANDS", {"prepare": {"sample": prepare}})
    with pytest.raises(SystemExit) as stop:
        cli.main(["prepare", "sample", "--out", "here"])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.err == "noduleforge: error: here is wrong: mend it.\n"
    assert captured.out == ""


def test_faults_of_ours_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(out: Path) -> None:
        raise TypeError("a fault")

    monkeypatch.setattr(cli, "COMMANDS", {"prepare": {"sample": prepare}})
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
