"""Nodules as items for a loader, each in several augmented copies."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.augmentation import AUGMENTATION, augment, crop
from datamodules.batch import NoduleBatch
from datamodules.collections.base import NoduleSet
from datamodules.digest import sha256
from datamodules.items import nodule_item

if TYPE_CHECKING:
    import pandas as pd


class NoduleDataset(Dataset[NoduleBatch]):
    """Nodules in a fixed order, each in `augmented_copies` augmented copies.

    Item `i` is copy `i % augmented_copies` of nodule `i // augmented_copies`, as `NoduleBatch` has
    it without the batch axis, and a pure function of `i`: the same in every process, epoch and
    order. Copy 0 is the nodule as it is; the name of copy `v` ends in `-v{v}`.
    """

    def __init__(self, nodules: NoduleSet, augmented_copies: int = 1, seed: int = 0) -> None:
        """Describe the items.

        Args:
            nodules: what is read.
            augmented_copies: deterministic copies of each nodule, 1 or more.
            seed: of the augmentation.

        Raises:
            ValueError: If `augmented_copies` is below 1.
        """
        if augmented_copies < 1:
            message = f"augmented_copies is {augmented_copies}: give 1 for no augmentation, or more"
            raise ValueError(message)
        self.nodules = nodules
        self.augmented_copies = augmented_copies
        self.seed = seed
        # what was read last for augmentation: the copies of a nodule follow on each other
        self._wide: tuple[int, NoduleBatch] | None = None

    @property
    def table(self) -> "pd.DataFrame":
        """One nodule a row, with `patient_id`."""
        return self.nodules.table

    @property
    def subtypes(self) -> list[int]:
        """Of each nodule the position in `SUBTYPES`, or `UNKNOWN_SUBTYPE`."""
        return self.nodules.subtypes

    @property
    def patients(self) -> set[str]:
        """Everybody of whom the items show something."""
        return self.nodules.patients

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of everything that the items depend on."""
        nodules = self.nodules
        settings = [nodules.roi_size, self.augmented_copies, str(nodules.image_dtype)]
        if self.augmented_copies > 1:
            settings += [self.seed, AUGMENTATION, *(["upright"] if nodules.upright else [])]
        return sha256(json.dumps(settings), *nodules.facts())

    def read(self, nodule: int, size: Sequence[int]) -> NoduleBatch:
        """Read one nodule, without augmentation; see `NoduleSet.read`."""
        return nodule_item(self.nodules.read(nodule, size), nodule)

    def __len__(self) -> int:
        """Return the number of items, nodules times copies."""
        return len(self.nodules) * self.augmented_copies

    def __getitem__(self, index: int) -> NoduleBatch:
        """Return one item."""
        if not 0 <= index < len(self):
            message = f"Item {index} is asked for, but the dataset has {len(self)}"
            raise IndexError(message)
        nodules = self.nodules
        nodule, version = divmod(index, self.augmented_copies)
        if version == 0:
            item = self.read(nodule, nodules.roi_size)
        else:
            margin = [int(np.ceil(AUGMENTATION["margin"] * n)) for n in nodules.roi_size]
            size = [n + 2 * m for n, m in zip(nodules.roi_size, margin, strict=True)]
            generator = np.random.default_rng((self.seed, nodule, version))
            if self._wide is None or self._wide[0] != nodule:
                self._wide = nodule, self.read(nodule, size)
            item = crop(augment(self._wide[1], generator, nodules.upright), margin)
            item["name"] = f"{item['name']}-v{version}"  # type: ignore[typeddict-item]  # one name
            if np.issubdtype(nodules.image_dtype, np.integer):
                item["image"] = item["image"].round()
                if "underlay" in item:
                    item["underlay"] = item["underlay"].round()
        item["index"] = torch.tensor(index)
        return item
