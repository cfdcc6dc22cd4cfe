"""What is drawn is a pure function of the seed and the number of the draw."""

from typing import Any

import numpy as np
import pytest

from datamodules.sampler import Draw, SubtypeSampler

SUBTYPES = [0] * 90 + [1] * 8 + [2] * 2


def sampler(
    balance: bool, first: int = 0, count: int = 100, seed: int = 0, **settings: Any
) -> SubtypeSampler:
    return SubtypeSampler(SUBTYPES, 3, balance, seed, lambda: first, count, **settings)


def draws(balance: bool, *args: int, **settings: Any) -> list[Draw]:
    return list(sampler(balance, *args, **settings))


@pytest.mark.parametrize("balance", [True, False])
def test_draws_depend_on_seed_and_number_alone(balance: bool) -> None:
    whole = draws(balance, 0, 350)
    assert [draw.number for draw in whole] == list(range(350))
    assert all(0 <= draw.item < 300 for draw in whole)
    for first, count in ((0, 350), (7, 20), (95, 10), (301, 49)):
        assert draws(balance, first, count) == whole[first : first + count]
    assert sampler(balance)[317] == whole[317]
    assert draws(balance, 0, 350, seed=1) != whole
    passes = [[draw.item for draw in whole[start : start + 100]] for start in (0, 100, 200)]
    assert passes[0] != passes[1] != passes[2]


def test_every_epoch_begins_behind_what_was_consumed() -> None:
    consumed = 0
    made = SubtypeSampler(SUBTYPES, 1, True, 0, lambda: consumed, 4)
    for consumed in (0, 3, 1000):
        assert [draw.number for draw in made] == list(range(consumed, consumed + 4))
    assert len(made) == 4


def test_balanced_draws_every_subtype_as_often() -> None:
    counts, copies = np.zeros(3), np.zeros(3)
    for draw in draws(True, 0, 5000):
        counts[SUBTYPES[draw.item // 3]] += 1
        copies[draw.item % 3] += 1
    np.testing.assert_allclose(counts / 5000, 1 / 3, atol=0.03)
    np.testing.assert_allclose(copies / 5000, 1 / 3, atol=0.03)
    of_solid = np.bincount([d.item // 3 for d in draws(True, 0, 50_000) if d.item // 3 < 90])
    assert of_solid.min() > 0.7 * of_solid.mean()  # every nodule of a subtype as well


def test_unbalanced_draws_every_nodule_once_in_a_pass() -> None:
    whole = draws(False, 0, 300)
    for start in (0, 100, 200):
        nodules = [draw.item // 3 for draw in whole[start : start + 100]]
        assert sorted(nodules) == list(range(100))


@pytest.mark.parametrize("balance", [True, False])
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_one_order(balance: bool, processes: int) -> None:
    """Together they have the same batches as one process, whatever their number."""
    parts = [
        draws(balance, 5, 60 // processes, num_replicas=processes, rank=rank)
        for rank in range(processes)
    ]
    whole = draws(balance, 5, 60)
    for rank, part in enumerate(parts):
        assert part == whole[rank::processes]
