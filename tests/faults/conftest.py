"""Counts of what became of faulty inputs, by kind, on any number of processes."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from faulty import Case, Inputs, Verdict, judge

Attempt = Callable[[Case], None]


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def count(request: pytest.FixtureRequest, record_property: Callable[..., None]) -> Callable:
    """A function that counts a verdict under the kind of the test's file."""
    kind = request.path.stem.removeprefix("test_")

    def add(verdict: Verdict, number: int = 1) -> None:
        record_property("verdict", [kind, str(verdict), number])

    return add


@pytest.fixture
def attempt(inputs: Inputs, tmp_path: Path, count: Callable[..., None]) -> Attempt:
    """Run a case, count what happened, and fail if it must not."""

    def run(case: Case) -> None:
        inputs.copy(case.inputs, tmp_path)
        verdict, shown = judge(case, tmp_path)
        count(verdict)
        expected = Verdict.RIGHT if case.says is None else Verdict.CLEAR
        assert verdict == expected, f"{verdict}, expected {expected}\n{case.says}\n{shown}"

    return run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the counts."""
    counts: dict[str, Counter[str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") != "call":
                continue
            for name, value in report.user_properties:
                if name == "verdict":
                    kind, verdict, number = value
                    counts.setdefault(kind, Counter())[verdict] += number
    if not counts:
        return
    verdicts = [str(verdict) for verdict in Verdict]
    total: Counter[str] = sum(counts.values(), Counter())
    terminalreporter.section("what became of faulty inputs")
    terminalreporter.write_line(" | ".join(["kind", *verdicts]))
    for kind, found in [*sorted(counts.items()), ("all", total)]:
        terminalreporter.write_line(" | ".join([kind, *(str(found[v]) for v in verdicts)]))
