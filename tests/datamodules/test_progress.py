"""Bars on a terminal, lines elsewhere."""

import io
import re

import pytest

from datamodules import progress
from datamodules.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, which pass as a test says."""
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def test_a_log_gets_a_line_each_half_minute(clock: list[float]) -> None:
    """700 steps of 2 seconds each, from step 100 on."""
    log = io.StringIO()
    remark = iter(range(1000))
    bar = Progress(
        desc="training", total=700, initial=100, unit="step", file=log,
        remark=lambda: f"loss {next(remark)}",
    )  # fmt: skip
    for _ in range(50):
        clock[0] += 2
        bar.update()
    bar.close()
    lines = log.getvalue().splitlines()
    assert lines == [
        "training: 115 of 700 steps, loss 0, 2 s a step, 19:30 left",
        "training: 130 of 700 steps, loss 1, 2 s a step, 19:00 left",
        "training: 145 of 700 steps, loss 2, 2 s a step, 18:30 left",
        "training: 150 of 700 steps, loss 3, 2 s a step, 18:20 left",
    ]


@pytest.mark.parametrize(
    ("unit", "total", "seconds", "line"),
    [
        ("study", 4, 20.0, "x: 4 of 4 studies, 20 s a study, 01:20 in all"),
        ("batch", 200, 0.5, "x: 200 of 200 batches, 2 batches/s, 01:40 in all"),
        ("step", None, 0.25, "x: 150 steps, 4 steps/s"),
    ],
)
def test_units(unit: str, total: int | None, seconds: float, line: str, clock: list[float]) -> None:
    log = io.StringIO()
    bar = Progress(desc="x", total=total, unit=unit, file=log)
    for _ in range(total or 150):
        clock[0] += seconds
        bar.update()
    bar.close()
    assert log.getvalue().splitlines()[-1] == line


def test_what_is_short_says_nothing_in_a_log() -> None:
    log = io.StringIO()
    assert list(Progress(range(5), "x", file=log)) == list(range(5))
    with Progress(total=3, file=log) as bar:
        bar.update(3)
    assert log.getvalue() == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    terminal = Terminal()
    list(Progress(range(5), "x", file=terminal, mininterval=0, remark=lambda: "loss 3"))
    drawn = terminal.getvalue()
    assert re.search(r"\rx: 100%\|.*\| 5/5 \[.*, loss 3\]", drawn)
    assert drawn.count("\n") == 1
