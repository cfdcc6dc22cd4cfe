"""Processes share out the batches of one."""

import pytest
from torch.utils.data import DataLoader

from datamodules.batches_in_turn import BatchesInTurn


@pytest.mark.parametrize("count", [3, 4, 9, 13, 16])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_batches_are_those_of_one_process(count: int, processes: int) -> None:
    items = list(range(count))
    expected = [batch.tolist() for batch in DataLoader(items, 2)]  # type: ignore[arg-type]
    found = []
    for rank in range(processes):
        sampler = BatchesInTurn(items, 2, processes, rank)  # type: ignore[arg-type]
        loader = DataLoader(items, 2, sampler=sampler)  # type: ignore[arg-type]
        mine = [batch.tolist() for batch in loader]
        assert len(loader) == len(mine)
        assert mine == expected[rank::processes]
        found += mine
    assert sorted(found) == expected
