"""Prediction on several processes, in the batches of one."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import TYPE_CHECKING

from torch.utils.data import DistributedSampler

if TYPE_CHECKING:
    from torch.utils.data import Dataset


class BatchesInTurn(DistributedSampler[int]):
    """Gives the processes whole batches in turn: the first to the first, the second to the second.

    The last bits of what a network computes depend on the batch's size. It is a
    `DistributedSampler` so that Lightning leaves it in place; no item is repeated.
    """

    def __init__(
        self, dataset: Dataset[object], batch_size: int, num_replicas: int, rank: int
    ) -> None:
        """Describe what is divided.

        Args:
            dataset: with a length.
            batch_size: items of a batch.
            num_replicas: number of processes.
            rank: this process.
        """
        super().__init__(dataset, num_replicas, rank, shuffle=False)
        assert isinstance(dataset, Sized)
        step = batch_size * num_replicas
        firsts = range(rank * batch_size, len(dataset), step)
        self.items = [
            item for first in firsts for item in range(first, min(first + batch_size, len(dataset)))
        ]

    def __iter__(self) -> Iterator[int]:
        """Yield this process' items."""
        return iter(self.items)

    def __len__(self) -> int:
        """Return their number."""
        return len(self.items)
