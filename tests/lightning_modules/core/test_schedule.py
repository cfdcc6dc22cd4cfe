"""The learning rate over a run, against its formula."""

import math

import pytest
import torch

from lightning_modules.core.schedule import warmup_cosine


def rates(warmup: int, total: float, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = warmup_cosine(optimizer, warmup, total)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_it_rises_to_the_peak_and_falls_as_a_cosine_to_zero() -> None:
    found = rates(warmup=4, total=20, steps=21)
    assert found[:4] == [0.5, 1.0, 1.5, 2.0]  # the first step learns as well
    cosine = [1 + math.cos(math.pi * (step - 4) / 16) for step in range(4, 21)]
    assert found[4:] == pytest.approx(cosine)
    assert found[20] == 0


def test_a_run_without_an_end_stays_at_the_peak() -> None:
    assert rates(warmup=2, total=math.inf, steps=5) == [1.0, 2.0, 2.0, 2.0, 2.0]
    assert rates(warmup=0, total=math.inf, steps=2) == [2.0, 2.0]
