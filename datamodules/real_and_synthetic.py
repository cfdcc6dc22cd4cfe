"""Real training nodules with synthetic ones beside them, or in their place."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Subset

from datamodules.base import NoduleDataModule, NoduleDataset, hold_nothing_out
from datamodules.batch import SUBTYPES, NoduleBatch, Roi
from datamodules.patients import GENERATOR, UNKNOWN_PATIENTS, patient_key

Part = tuple[NoduleDataset, Sequence[int]]
"""A dataset and which of its nodules are meant."""


class JoinedDataset(NoduleDataset):
    """Nodules of several datasets, one after the other.

    Items have the attributes of all of them, NaN where one's are not known.
    """

    def __init__(self, parts: Sequence[Part], augmented_copies: int, seed: int) -> None:
        """Describe the nodules.

        Args:
            parts: the datasets, of the same ROI, and which of their nodules are meant.
            augmented_copies: deterministic versions of each nodule.
            seed: of the augmentation.
        """
        subtypes = [dataset.subtypes[k] for dataset, nodules in parts for k in nodules]
        super().__init__(subtypes, parts[0][0].roi_size, augmented_copies, seed)
        self.image_dtype = parts[0][0].image_dtype
        self.parts = list(parts)
        self.places = [(part, k) for part, (_, nodules) in enumerate(parts) for k in nodules]
        tables = [dataset.table.iloc[list(nodules)] for dataset, nodules in parts]
        self.table = pd.concat(tables, ignore_index=True)
        size = self.roi_size
        firsts = [dataset.read(0, size) for dataset, nodules in parts if len(nodules)]
        self.attributes = dict.fromkeys(name for item in firsts for name in item["attributes"])

    @property
    def patients(self) -> set[str]:
        """Everybody of whom the items show something."""
        return set().union(*[dataset.patients for dataset, _ in self.parts])

    def facts(self) -> Iterable[str]:
        """List the datasets and which of their nodules are meant."""
        for dataset, nodules in self.parts:
            yield dataset.fingerprint
            yield json.dumps([int(k) for k in nodules])

    def read(self, nodule: int, size: Sequence[int]) -> NoduleBatch:
        """Read one nodule."""
        part, k = self.places[nodule]
        item = self.parts[part][0].read(k, size)
        known = item["attributes"]
        unknown = torch.tensor(torch.nan)
        item["attributes"] = {name: known.get(name, unknown) for name in self.attributes}
        return item


class RealAndSyntheticDataModule(NoduleDataModule):
    """A real data set whose training split is filled up with synthetic nodules.

    Validation and test are the real ones alone. Refused are synthetic nodules in the images of
    patients who are not in the real training split, and those of a generator that was trained on
    patients of the validation or test split: `generator.json`, which is written with synthetic
    nodules, says on whom.
    """

    def __init__(
        self,
        real: NoduleDataModule,
        synthetic: NoduleDataModule | None = None,
        per_real: float = 1.0,
        equal_subtypes: bool = False,
        without_real: bool = False,
        roi: Roi | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        balance: bool = False,
        augmented_copies: int = 1,
        cache_dir: Path | None = Path(".cache/latents"),
    ) -> None:
        """Describe what is mixed.

        Args:
            real: the real data set; of its settings those of files, ROI and split count.
            synthetic: a folder of synthetic nodules (`LIDCDataModule`, or `FolderDataModule` for
                radiographs) with the ROI of `real`; null for none.
            per_real: synthetic nodules for each real training nodule.
            equal_subtypes: instead of `per_real`, give each subtype as many synthetic nodules as it
                has fewer real ones than the most frequent.
            without_real: leave out the real training nodules.
            roi: how regions are cut; null for the model's.
            batch_size: nodules per batch and process.
            num_workers: processes that read files; 0 reads in the training process.
            seed: of the choice among synthetic nodules, the order and the augmentation.
            balance: draw every subtype equally often in training (class-weighted sampling).
            augmented_copies: deterministic versions of each training nodule, the first not
                augmented (classical augmentation).
            cache_dir: folder for cached images; null for none.

        Raises:
            ValueError: If `per_real` is below 0, or nothing is left to train on.
        """
        super().__init__(roi, batch_size, num_workers, seed, balance, augmented_copies, cache_dir)
        if per_real < 0 or (without_real and synthetic is None):
            message = (
                f"per_real is {per_real} and without_real {without_real}: give at least 0, and "
                "synthetic nodules where there are no real ones"
            )
            raise ValueError(message)
        self.real, self.synthetic = real, synthetic
        self.per_real, self.equal_subtypes = per_real, equal_subtypes
        self.without_real = without_real
        for part in (real, synthetic):
            if part is not None and part.own_roi is None:
                part.own_roi = roi

    def build(self) -> dict[str, NoduleDataset]:
        """Read both sets and choose among the synthetic nodules.

        Raises:
            FileNotFoundError: If a table, or what the generator was trained on, is missing.
            ValueError: If ROIs differ, synthetic nodules must not be used with this split, or there
                are too few.
        """
        self.real.trainer = self.trainer
        self.real.setup()
        real = self.real.datasets["train"]
        parts: list[Part] = [] if self.without_real else [(real, range(len(real.subtypes)))]
        if self.synthetic is not None:
            parts.append(self._chosen(real, self.synthetic))
        held_out = {split: self.real.datasets[split] for split in ("val", "test")}
        train = JoinedDataset(parts, self.augmented_copies, self.seed)
        return {"train": train, **held_out, "predict": held_out["test"]}

    def real_batches(self) -> DataLoader[NoduleBatch]:
        """Return each real training nodule once, also where it is left out of training."""
        dataset = self.real.datasets["train"]
        plain = range(0, len(dataset), dataset.augmented_copies)
        return DataLoader(Subset(dataset, plain), batch_size=self.batch_size)

    def _chosen(self, real: NoduleDataset, source: NoduleDataModule) -> Part:
        """The synthetic nodules that are used."""
        settings: Any = source
        hold_nothing_out(source)
        source.trainer = self.trainer
        source.setup()
        synthetic = source.datasets["train"]
        ours = self.real.roi, real.image_dtype
        theirs = source.roi, synthetic.image_dtype
        if ours != theirs:
            message = (
                f"The synthetic nodules' ROI is {theirs[0]}, that of the real ones {ours[0]}: set "
                "both alike"
            )
            raise ValueError(message)
        self._check_patients(real, synthetic, settings.root / GENERATOR)
        order = np.random.default_rng((self.seed, 1)).permutation(len(synthetic.subtypes))
        if not self.equal_subtypes:
            wanted = round(self.per_real * len(real.subtypes))
            return synthetic, draw(order, wanted, "")
        codes = np.array(synthetic.subtypes)
        counts = {code: real.subtypes.count(code) for code in range(len(SUBTYPES))}
        most = max(counts.values())
        chosen = [
            k
            for code, count in counts.items()
            for k in draw(order[codes[order] == code], most - count, f"{SUBTYPES[code]} ")
        ]
        return synthetic, chosen

    def _check_patients(
        self, real: NoduleDataset, synthetic: NoduleDataset, generator: Path
    ) -> None:
        """Refuse what would show the model something of the patients it is tested on."""
        if strangers := synthetic.patients - real.patients:
            message = (
                f"{len(strangers)} patient(s) of the synthetic nodules, such as "
                f"{min(strangers)!r}, are not in the real training split: synthesize in images of "
                "training patients, under their patient_id"
            )
            raise ValueError(message)
        check_generator(generator, {k: self.real.datasets[k] for k in ("val", "test")})


def check_generator(generator: Path, held_out: Mapping[str, NoduleDataset]) -> None:
    """Refuse synthetic nodules of a generator that has seen patients of the other splits.

    Args:
        generator: `generator.json`, as it is written with synthetic nodules.
        held_out: the datasets that training must not know, by split.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the generator was trained on one of their patients, or does not say on whom.
    """
    if not generator.is_file():
        message = (
            f"{generator} is missing, so that it is not known on whom the generator was "
            "trained: synthesize again, or copy it along with nodules.csv"
        )
        raise FileNotFoundError(message)
    seen = set(json.loads(generator.read_text())["training_patients"])
    if UNKNOWN_PATIENTS in seen:
        message = (
            f"{generator} says that the generator began from weights that do not say on whom "
            "they were trained: train it again from the autoencoder on"
        )
        raise ValueError(message)
    for split, dataset in held_out.items():
        known = {patient_key(one): one for one in dataset.patients}
        if both := seen & known.keys():
            message = (
                f"The generator was trained on {len(both)} patient(s) of the {split} split, "
                f"such as {min(known[key] for key in both)!r}: train it on the same split, "
                "with the same seed and fractions"
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
