"""The benchmark of speed: what it says, that it ends, and that nothing is left out silently."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import speed
from timing import plan, report
from timing.clock import Machine, ratio, spread
from timing.plan import Measurement

ROOT = Path(__file__).parents[2]


def machine(seconds: float = 60) -> Machine:
    return Machine("cpu", "tiny", time.monotonic() + seconds)


def test_steps_are_timed_in_turn() -> None:
    called: list[str] = []
    steps = {name: lambda name=name: called.append(name) for name in "ab"}
    times = machine().in_turn(steps, 3)
    assert "".join(called) == "ab" + 3 * "ab"  # the first do not count
    assert [len(times[name]) for name in "ab"] == [3, 3]


def test_there_is_one_round_where_time_is_up() -> None:
    times = machine(0).in_turn({"a": lambda: time.sleep(0.01)}, 9)
    (seconds,) = times["a"]
    assert seconds >= 0.01


def test_quartiles_and_ratios_of_rounds() -> None:
    assert spread([1, 2, 3, 4, 5]) == {"median": 3, "low": 2, "high": 4, "rounds": 5}
    assert spread([1, 2]) == {"median": 1.5, "low": 1.25, "high": 1.75, "rounds": 2}
    assert spread([7]) == {"median": 7, "low": 7, "high": 7, "rounds": 1}
    assert ratio([2, 6, 4], [1, 2, 4])["median"] == 2  # of 2, 3 and 1


def forever(machine: Machine) -> Any:
    yield {"what": "before"}
    time.sleep(60)


def fails(machine: Machine) -> Any:
    raise ValueError(machine.sizes)


def killed(machine: Machine) -> Any:
    os.kill(os.getpid(), 9)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (fails, "failed: ValueError: tiny"),
        (killed, "its process was ended (-9): memory may be short"),
    ],
)
def test_what_fails_says_why(function: Any, told: str) -> None:
    rows = list(speed.rows_of(Measurement("x", function, least=0), "cpu", "tiny", 60))
    assert rows == [{"skipped": told}]


def test_what_takes_too_long_is_stopped_and_its_rows_are_kept() -> None:
    begin = time.monotonic()
    rows = list(speed.rows_of(Measurement("x", forever, least=0), "cpu", "tiny", 5))
    told = "not done after 5 s, its share of the time: stopped"
    assert rows == [{"what": "before"}, {"skipped": told}]
    assert time.monotonic() - begin < 30


def test_what_has_too_little_time_is_not_begun() -> None:
    rows = list(speed.rows_of(Measurement("x", forever, least=5), "cpu", "tiny", 4))
    assert rows == [{"skipped": "needs 5 s, its share is 4 s"}]


def quick(machine: Machine) -> Any:
    return [{"left": machine.left}]


def test_time_that_one_leaves_goes_to_the_next() -> None:
    plan = [Measurement("a", quick, share=3, least=0), Measurement("b", quick, least=0)]
    first, second = speed.measured(plan, "cpu", "tiny", time.monotonic() + 100)
    assert first["left"] == pytest.approx(0.85 * 75, abs=5)
    assert second["left"] == pytest.approx(0.85 * 100, abs=10)


def test_tables_have_the_columns_of_their_rows() -> None:
    rows = [
        {"measurement": "a", "what": "x", "ms": {"median": 2.5, "low": 1, "high": 3, "rounds": 9}},
        {"measurement": "a", "what": "y", "skipped": "why"},
    ]
    lines = report.table(rows).splitlines()
    assert lines[2:6] == [
        "| what | ms | skipped |",
        "|---|---|---|",
        "| x | 2.5 (1 to 3) |  |",
        "| y |  | why |",
    ]


@pytest.mark.slow
def test_the_command_measures_and_ends_in_time(tmp_path: Path) -> None:
    seconds = 240  # it ends long before on a machine that is not busy
    words = [str(ROOT / "benchmarks/speed.py"), "--device", "cpu", "--sizes", "tiny"]
    begin = time.monotonic()
    ended = subprocess.run(
        [sys.executable, *words, "--seconds", str(seconds)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert time.monotonic() - begin < seconds + 5
    printed, tables = ended.stdout.split("\n\n", 1)
    rows = [json.loads(line) for line in printed.splitlines()]
    assert {row["measurement"] for row in rows} == {each.kind for each in plan.tiny()}
    for row in rows:
        assert f"### {row['measurement']}" in tables
        assert not str(row.get("skipped", "")).startswith("failed"), (row, ended.stderr)
    (trained,) = [row for row in rows if row["measurement"] == "training"]
    assert all(trained[name]["median"] > 0 for name in ("bare_ms", "step_ms", "fit_ms")), trained
    assert {row["skipped"].split()[0] for row in rows if "skipped" in row} <= {"needs", "not"}
    assert not list(tmp_path.iterdir())  # nothing is left behind
