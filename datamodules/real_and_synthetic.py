"""Real training nodules with synthetic ones beside them, or in their place."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from datamodules.base import NoduleDataModule
from datamodules.batch import SUBTYPES, NoduleBatch, Roi
from datamodules.collections.base import NoduleCollection, NoduleSet, Patch
from datamodules.dataset import NoduleDataset
from datamodules.patients import GENERATOR, check_generator
from datamodules.splits import TRAINING_ALONE, check_fractions

Part = tuple[NoduleSet, Sequence[int]]
"""A set of nodules and which of them are meant."""


class JoinedNodules(NoduleSet):
    """Nodules of several sets, one after the other.

    Regions have the attributes of all of them, NaN where one's are not known.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        """Describe the nodules.

        Args:
            parts: the sets, of the same ROI, and which of their nodules are meant.
        """
        tables = [nodules.table.iloc[list(chosen)] for nodules, chosen in parts]
        subtypes = [nodules.subtypes[k] for nodules, chosen in parts for k in chosen]
        super().__init__(pd.concat(tables, ignore_index=True), subtypes, parts[0][0].roi_size)
        self.image_dtype = parts[0][0].image_dtype
        self.parts = list(parts)
        self.places = [(nodules, k) for nodules, chosen in parts for k in chosen]
        firsts = [nodules.read(0, self.roi_size) for nodules, chosen in parts if len(chosen)]
        self.attributes = dict.fromkeys(name for patch in firsts for name in patch.attributes)

    @property
    def patients(self) -> set[str]:
        """Everybody of whom something is shown."""
        return set().union(*[nodules.patients for nodules, _ in self.parts])

    def facts(self) -> Iterable[str]:
        """List the sets and which of their nodules are meant."""
        for nodules, chosen in self.parts:
            yield NoduleDataset(nodules).fingerprint
            yield json.dumps([int(k) for k in chosen])

    def read(self, nodule: int, size: Sequence[int]) -> Patch:
        """Read one nodule."""
        nodules, k = self.places[nodule]
        patch = nodules.read(k, size)
        known = {name: patch.attributes.get(name, np.nan) for name in self.attributes}
        return replace(patch, attributes=known)


class RealAndSyntheticDataModule(NoduleDataModule):
    """A real data set whose training split is filled up with synthetic nodules.

    Validation and test are the real ones alone. Refused are synthetic nodules in the images of
    patients who are not in the real training split, and those of a generator that was trained on
    patients of the validation or test split: `generator.json`, which is written with synthetic
    nodules, says on whom.
    """

    def __init__(
        self,
        real: NoduleCollection,
        synthetic: NoduleCollection | None = None,
        per_real: float = 1.0,
        equal_subtypes: bool = False,
        without_real: bool = False,
        fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
        roi: Roi | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        split_seed: int = 0,
        balance: bool = False,
        augmented_copies: int = 1,
        cache_dir: Path | None = Path(".cache/latents"),
        batches_per_epoch: int = 250,
    ) -> None:
        """Describe what is mixed.

        Args:
            real: the real nodules.
            synthetic: a folder of synthetic nodules (`LIDCCollection`, or `FolderCollection` for
                radiographs), all of which are for training; null for none.
            per_real: synthetic nodules for each real training nodule.
            equal_subtypes: instead of `per_real`, give each subtype as many synthetic nodules as it
                has fewer real ones than the most frequent.
            without_real: leave out the real training nodules.
            fractions: shares of the real patients for train, val and test.
            roi: how regions are cut; null for the model's.
            batch_size: nodules per batch and process.
            num_workers: processes that read files; 0 reads in the training process.
            seed: of the choice among synthetic nodules, the order and the augmentation.
            split_seed: another seed gives another split of the real nodules.
            balance: draw every subtype equally often in training (class-weighted sampling).
            augmented_copies: deterministic versions of each training nodule, the first not
                augmented (classical augmentation).
            cache_dir: folder for cached images; null for none.
            batches_per_epoch: of training, on each process, whatever the data.

        Raises:
            ValueError: If a setting is out of its range, or nothing is left to train on.
        """
        super().__init__(
            roi,
            batch_size,
            num_workers,
            seed,
            balance,
            augmented_copies,
            cache_dir,
            batches_per_epoch,
        )
        check_fractions(fractions)
        if per_real < 0 or (without_real and synthetic is None):
            message = (
                f"per_real is {per_real} and without_real {without_real}: give at least 0, and "
                "synthetic nodules where there are no real ones"
            )
            raise ValueError(message)
        self.real, self.synthetic = real, synthetic
        self.per_real, self.equal_subtypes = per_real, equal_subtypes
        self.without_real = without_real
        self.fractions, self.split_seed = fractions, split_seed
        self.real_training: NoduleDataset | None = None

    def build(self) -> dict[str, NoduleDataset]:
        """Read both sets and choose among the synthetic nodules.

        Raises:
            FileNotFoundError: If a table, or what the generator was trained on, is missing.
            ValueError: If the sets cannot be joined, synthetic nodules must not be used with this
                split, or there are too few.
        """
        splits = self.real.splits(self.roi, self.fractions, self.split_seed)
        real = splits["train"]
        parts: list[Part] = [] if self.without_real else [(real, range(len(real)))]
        if self.synthetic is not None:
            made = self.synthetic.splits(self.roi, TRAINING_ALONE, self.split_seed)["train"]
            check_alike(real, made)
            check_images(real, made)
            held_out = {split: splits[split].patients for split in ("val", "test")}
            check_generator(self.synthetic.root / GENERATOR, held_out)
            parts.append((made, self._chosen(real, made)))
        self.real_training = NoduleDataset(real)
        return {
            "train": NoduleDataset(JoinedNodules(parts), self.augmented_copies, self.seed),
            "val": NoduleDataset(splits["val"]),
            "test": (test := NoduleDataset(splits["test"])),
            "predict": test,
        }

    def real_batches(self) -> DataLoader[NoduleBatch]:
        """Return each real training nodule once, also where it is left out of training."""
        self.setup()
        assert self.real_training is not None  # made by `setup`
        return DataLoader(self.real_training, batch_size=self.batch_size)

    def _chosen(self, real: NoduleSet, synthetic: NoduleSet) -> list[int]:
        """The synthetic nodules that are used."""
        order = np.random.default_rng((self.seed, 1)).permutation(len(synthetic))
        if not self.equal_subtypes:
            return draw(order, round(self.per_real * len(real)), "")
        codes = np.array(synthetic.subtypes)
        counts = {code: real.subtypes.count(code) for code in range(len(SUBTYPES))}
        most = max(counts.values())
        return [
            k
            for code, count in counts.items()
            for k in draw(order[codes[order] == code], most - count, f"{SUBTYPES[code]} ")
        ]


def check_alike(real: NoduleSet, synthetic: NoduleSet) -> None:
    """Refuse to join CT with radiographs.

    Raises:
        ValueError: If dimensions or the types of images differ.
    """
    ours, theirs = (
        f"{len(nodules.roi_size)}D images of {nodules.image_dtype.__name__}"
        for nodules in (real, synthetic)
    )
    if ours != theirs:
        message = (
            f"The synthetic nodules are {theirs}, the real ones {ours}: give synthetic nodules of "
            "the same kind"
        )
        raise ValueError(message)


def check_images(real: NoduleSet, synthetic: NoduleSet) -> None:
    """Refuse synthetic nodules in images that show others than the real training patients.

    Raises:
        ValueError: If there are such.
    """
    if strangers := synthetic.patients - real.patients:
        message = (
            f"{len(strangers)} patient(s) of the synthetic nodules, such as "
            f"{min(strangers)!r}, are not in the real training split: synthesize in images of "
            "training patients, under their patient_id"
        )
        raise ValueError(message)


def draw(order: NDArray[np.int64], wanted: int, kind: str) -> list[int]:
    """The first of the synthetic nodules in this order.

    Args:
        order: of all that there are.
        wanted: how many of them.
        kind: of these nodules, for the error.

    Raises:
        ValueError: If there are too few.
    """
    if wanted > len(order):
        message = (
            f"{wanted} {kind}synthetic nodules are needed, but there are {len(order)}: synthesize "
            "more, or ask for fewer"
        )
        raise ValueError(message)
    return [int(k) for k in order[:wanted]]
