"""The learning rate over a run, against its formula."""

import copy
import math
from typing import Any

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


def train(settings: dict[str, float], course: tuple[int, int], states: Any, steps: int) -> Any:
    """Rates, weight and states of some steps, begun anew or taken up from the states of others."""
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], **settings)
    scheduler = warmup_cosine(optimizer, *course)
    if states is not None:
        weight.data.copy_(states[0])
        optimizer.load_state_dict(states[1])
        scheduler.load_state_dict(states[2])
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        (weight * torch.tensor([1.0, 3.0])).sum().backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    states = (weight.detach().clone(), optimizer.state_dict(), scheduler.state_dict())
    return rates, groups, copy.deepcopy(states)


SETTINGS = {"lr": 0.1, "weight_decay": 0.01}


def test_a_run_that_is_taken_up_is_the_same_to_the_bit() -> None:
    rates, _, (weight, *_) = train(SETTINGS, (3, 20), None, 9)
    first, _, states = train(SETTINGS, (3, 20), None, 4)
    second, _, (taken_up, *_) = train(SETTINGS, (3, 20), states, 5)
    assert first + second == rates
    assert torch.equal(taken_up, weight)


@pytest.mark.parametrize(
    ("settings", "course"),
    [
        ({"lr": 0.02}, (3, 20)),
        ({"weight_decay": 0.5}, (3, 20)),
        ({}, (8, 20)),
        ({}, (3, 40)),
        ({"lr": 0.3, "weight_decay": 0.0}, (1, 12)),
    ],
)
def test_changed_settings_count_at_once(
    settings: dict[str, float], course: tuple[int, int]
) -> None:
    """The rates of the steps that are left are those of a run that had the settings all along."""
    changed = SETTINGS | settings
    expected, groups, _ = train(changed, course, None, 10)
    _, _, states = train(SETTINGS, (3, 20), None, 4)
    rates, found, again = train(changed, course, states, 6)
    assert rates == expected[4:]
    assert found == groups
    # what was changed is what the next checkpoint holds
    assert again[1]["param_groups"][0]["weight_decay"] == changed["weight_decay"]
    assert again[2]["base_lrs"] == [changed["lr"]]


def test_moments_are_taken_up_and_kernels_are_not() -> None:
    """A checkpoint of another machine does not say which kernels this one's optimizer uses."""
    _, _, states = train({**SETTINGS, "foreach": True}, (3, 20), None, 4)
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], **SETTINGS, fused=True)
    warmup_cosine(optimizer, 3, 20)
    optimizer.load_state_dict(states[1])
    (group,) = optimizer.param_groups
    assert group["fused"]
    assert not group["foreach"]
    saved, (taken,) = states[1]["state"][0], optimizer.state.values()
    assert torch.equal(taken["exp_avg"], saved["exp_avg"])
    assert taken["step"] == 4
