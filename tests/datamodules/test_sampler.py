"""The order of training is a pure function of seed and epoch."""

import numpy as np
import pytest

from datamodules.sampler import SubtypeSampler

SUBTYPES = [0] * 90 + [1] * 8 + [2] * 2


def test_sampler_is_pure() -> None:
    sampler = SubtypeSampler(SUBTYPES, 3, True, seed=1)
    sampler.set_epoch(4)
    order = list(sampler)
    assert order == list(sampler)
    again = SubtypeSampler(SUBTYPES, 3, True, seed=1)
    list(again)
    again.set_epoch(4)
    assert list(again) == order
    again.set_epoch(5)
    assert list(again) != order
    assert len(order) == len(sampler) == 100
    assert set(order) <= set(range(300))


def test_balanced_draws_every_subtype_as_often() -> None:
    sampler = SubtypeSampler(SUBTYPES, 2, True, seed=0)
    counts, augmented_copies = np.zeros(3), np.zeros(2)
    for epoch in range(50):
        sampler.set_epoch(epoch)
        for item in sampler:
            counts[SUBTYPES[item // 2]] += 1
            augmented_copies[item % 2] += 1
    np.testing.assert_allclose(counts / 5000, 1 / 3, atol=0.03)
    np.testing.assert_allclose(augmented_copies / 5000, 1 / 2, atol=0.03)


def test_unbalanced_draws_every_nodule_once() -> None:
    sampler = SubtypeSampler(SUBTYPES, 2, False, seed=0)
    assert sorted(item // 2 for item in sampler) == list(range(100))


@pytest.mark.parametrize("balance", [True, False])
def test_processes_share_one_order(balance: bool) -> None:
    parts = [list(SubtypeSampler(SUBTYPES[:99], 2, balance, 0, 2, rank)) for rank in range(2)]
    assert len(parts[0]) == len(parts[1]) == 50
    if not balance:
        assert {item // 2 for part in parts for item in part} == set(range(99))
