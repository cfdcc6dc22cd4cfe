"""A run on several processes ends as that one of them does which refuses something."""

import os
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from callbacks import processes
from callbacks.processes import EndsTogether


def trainer_with(*statuses: int) -> Any:
    """A trainer that has started processes, which have ended."""
    started = [
        subprocess.Popen([sys.executable, "-c", f"raise SystemExit({status})"])
        for status in statuses
    ]
    for one in started:
        one.wait()
    strategy = SimpleNamespace(launcher=SimpleNamespace(procs=started))
    return SimpleNamespace(strategy=strategy, world_size=1 + len(started))


def test_an_error_that_comes_of_a_refusal_elsewhere_is_not_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "WAIT_S", 0.3)
    closed: Any = RuntimeError("Connection closed by peer")
    with pytest.raises(SystemExit) as ended:
        EndsTogether().on_exception(trainer_with(0, 2), SimpleNamespace(), closed)  # type: ignore[arg-type]
    assert ended.value.code == 2
    for trainer in (trainer_with(0, 1), trainer_with()):  # a fault of theirs, or of our own
        EndsTogether().on_exception(trainer, SimpleNamespace(), closed)  # type: ignore[arg-type]


def test_an_error_of_its_own_is_told_at_once() -> None:
    error = ValueError("nodule 7 is empty")
    EndsTogether().on_exception(trainer_with(2), SimpleNamespace(), error)  # type: ignore[arg-type]


def test_a_process_that_waits_in_vain_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "WAIT_S", 0.1)
    statuses: list[int] = []
    done = threading.Event()

    def leave(status: int) -> None:
        statuses.append(status)
        done.set()

    monkeypatch.setattr(os, "_exit", leave)
    trainer = trainer_with(2)
    waits = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    trainer.strategy.launcher.procs.append(waits)
    EndsTogether().setup(trainer, SimpleNamespace(), "fit")  # type: ignore[arg-type]
    assert done.wait(30)
    assert statuses == [2]
    assert waits.wait(30) < 0
