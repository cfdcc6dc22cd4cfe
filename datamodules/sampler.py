"""In which order training nodules are drawn, also where training goes on after a stop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DistributedSampler, TensorDataset

if TYPE_CHECKING:
    from lightning import Trainer


class SubtypeSampler(DistributedSampler[int]):
    """Draws nodules for training; the order is a pure function of seed and epoch.

    An epoch has as many draws as there are nodules, each in a version drawn by chance, so that
    `augmented_copies` changes the variety of an epoch and not its length. Balanced, every draw
    first draws a subtype, each as likely as the others, then a nodule of it, with replacement;
    otherwise every nodule is drawn once. On several processes each takes every n-th draw, and
    all the same number. It is a `DistributedSampler` so that Lightning leaves it in place.

    Attributes:
        given: an epoch, and how many of its items this process has had already: training that
            resumes in the middle of it goes on behind them.
    """

    given: tuple[int, int] = (-1, 0)

    def __init__(
        self,
        subtypes: Sequence[int],
        augmented_copies: int,
        balance: bool,
        seed: int,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        """Describe what to draw from.

        Args:
            subtypes: of each nodule; unknown ones are a subtype of their own.
            augmented_copies: items per nodule.
            balance: draw every subtype equally often.
            seed: of the order.
            num_replicas: number of processes.
            rank: this process.
        """
        codes = torch.tensor(list(subtypes), dtype=torch.int64)
        super().__init__(TensorDataset(codes), num_replicas, rank, shuffle=True, seed=seed)
        self.augmented_copies = augmented_copies
        self.groups = (
            [np.flatnonzero(codes.numpy() == code) for code in np.unique(codes.numpy())]
            if balance
            else [np.arange(len(codes))]
        )
        self.balance = balance

    def __iter__(self) -> Iterator[int]:
        """Yield this process's items of the epoch set by `set_epoch`."""
        generator = np.random.default_rng((self.seed, self.epoch))
        if self.balance:
            group = generator.integers(len(self.groups), size=self.total_size)
            place = generator.integers(np.array([len(members) for members in self.groups])[group])
            drawn = zip(group, place, strict=True)
            nodules = np.array([self.groups[g][p] for g, p in drawn])
        else:
            order = generator.permutation(self.groups[0])
            nodules = np.resize(order, self.total_size)
        augmented_copies = generator.integers(self.augmented_copies, size=self.total_size)
        items = nodules * self.augmented_copies + augmented_copies
        ours = items[self.rank :: self.num_replicas].tolist()
        epoch, had = self.given
        return iter(ours[had:] if self.epoch == epoch else ours)


def go_on(sampler: SubtypeSampler, trainer: Trainer, batches: int, batch_size: int) -> None:
    """Place a sampler where training resumes.

    Lightning counts on from the batch where it was stopped, but neither skips the data nor, before
    worker processes have begun to read, tells the sampler which epoch it is.

    Args:
        sampler: of the training loader.
        trainer: that trains, or goes on.
        batches: of an epoch, on each process.
        batch_size: nodules per batch and process.
    """
    loop: Any = trainer.fit_loop
    epoch: int = loop.epoch_progress.current.processed
    had: int = loop.epoch_loop.batch_progress.current.processed
    sampler.set_epoch(epoch)
    if not loop.is_resuming:
        return
    if had < batches:
        sampler.given = (epoch, had * batch_size)
    elif loop.epoch_progress.current.started != epoch:  # saved after the epoch's last batch
        sampler.set_epoch(epoch + 1)
