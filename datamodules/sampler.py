"""Which training nodules are drawn, and the number that each draw has over the whole run."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, DistributedSampler, TensorDataset

from datamodules.batch import NoduleBatch


class Draw(NamedTuple):
    """A training nodule is drawn.

    Attributes:
        number: 0, 1, 2, ... over the whole run, on all processes together.
        item: of the dataset.
    """

    number: int
    item: int


class DrawnItems(Dataset[NoduleBatch]):
    """A dataset's items by `Draw`, whose number they carry as `draw`."""

    def __init__(self, items: Dataset[NoduleBatch]) -> None:
        """Take a dataset that has a length."""
        self.items = items

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)  # type: ignore[arg-type]

    def __getitem__(self, draw: Draw | int) -> NoduleBatch:
        """Return one item; in an order of Lightning's (`overfit_batches`) it is its own draw."""
        number, item = draw if isinstance(draw, Draw) else (draw, draw)
        return {**self.items[item], "draw": torch.tensor(number)}


class SubtypeSampler(DistributedSampler[Draw]):
    """Draws nodules for training; the n-th draw is a pure function of the seed and n.

    A pass over the data has as many draws as there are nodules, each in a version drawn by chance,
    so that `augmented_copies` changes their variety and not their number. Balanced, every draw
    first draws a subtype, each as likely as the others, then a nodule of it, with replacement;
    otherwise a pass has every nodule once. On several processes each takes every n-th draw. It is
    a `DistributedSampler` so that Lightning leaves it in place.
    """

    def __init__(
        self,
        subtypes: Sequence[int],
        augmented_copies: int,
        balance: bool,
        seed: int,
        first: Callable[[], int],
        count: int,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        """Describe what to draw from.

        Args:
            subtypes: of each nodule, of which there is one at least; unknown ones are a subtype of
                their own.
            augmented_copies: items per nodule.
            balance: draw every subtype equally often.
            seed: of the order.
            first: says, whenever an epoch begins, how many draws have been consumed.
            count: draws of an epoch, of each process.
            num_replicas: number of processes.
            rank: this process.
        """
        codes = np.array(subtypes)
        data = TensorDataset(torch.from_numpy(codes))
        super().__init__(data, num_replicas, rank, shuffle=True, seed=seed)
        self.augmented_copies = augmented_copies
        self.groups = [np.flatnonzero(codes == code) for code in np.unique(codes)]
        self.balance = balance
        self.first, self.count = first, count
        self._pass = lru_cache(1)(self._draw_pass)

    def __len__(self) -> int:
        """Return the number of draws of an epoch, of this process."""
        return self.count

    def __iter__(self) -> Iterator[Draw]:
        """Yield this process's draws, behind those that were consumed."""
        first = self.first() + self.rank
        last = first + self.count * self.num_replicas
        return (self[number] for number in range(first, last, self.num_replicas))

    def __getitem__(self, number: int) -> Draw:
        """Return the draw of a number."""
        of_pass, place = divmod(number, sum(map(len, self.groups)))
        return Draw(number, int(self._pass(of_pass)[place]))

    def _draw_pass(self, of_pass: int) -> NDArray[np.int64]:
        """The items of a pass over the data."""
        generator = np.random.default_rng((self.seed, of_pass))
        size = sum(map(len, self.groups))
        if self.balance:
            group = generator.integers(len(self.groups), size=size)
            sizes = np.array([len(members) for members in self.groups])
            place = generator.integers(sizes[group])
            nodules = np.concatenate(self.groups)[(sizes.cumsum() - sizes)[group] + place]
        else:
            nodules = generator.permutation(size)
        copies = generator.integers(self.augmented_copies, size=size)
        items: NDArray[np.int64] = nodules * self.augmented_copies + copies
        return items
