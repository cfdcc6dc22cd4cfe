"""What all data modules share: loaders over splits of nodules, and cached latents."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import CombinedLoader, rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from datamodules.batch import NO_NODULE, SUBTYPES, UNKNOWN_SUBTYPE, NoduleBatch, Roi, subtype_name
from datamodules.batches_in_turn import BatchesInTurn
from datamodules.collections.base import NoduleSet
from datamodules.dataset import NoduleDataset
from datamodules.digest import sha256
from datamodules.latents import LatentCache
from datamodules.loading import load_batches
from datamodules.patients import patient_key
from datamodules.sampler import DrawnItems, SubtypeSampler
from datamodules.splits import SPLITS, Split

USED_IN = {
    "fit": ("train", "val", "test"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}
"""Datasets of each stage."""


class NoduleDataModule(LightningDataModule, ABC):
    """Loaders over patient-grouped splits of nodules, cached as latents if asked for.

    Training may have several parts, side by side: a training batch is then a mapping from each
    part's name to its batch. Validation, test and prediction use the first part alone.

    A checkpoint has the number of training nodules that were consumed. Training goes on behind
    them, whatever the batch size and the number of processes are now.

    Attributes:
        datasets: `train`, `val`, `test` and `predict`, once `setup` has built them; with several
            parts those of the first.
        parts: training datasets by the parts' names, which `build` sets (see `side_by_side` in
            datamodules/combined.py); empty where there is one alone.
    """

    def __init__(
        self,
        roi: Roi | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        balance: bool = True,
        augmented_copies: int = 1,
        cache_dir: Path | None = Path(".cache/latents"),
        batches_per_epoch: int = 250,
    ) -> None:
        """Set what all data modules share.

        Args:
            roi: how regions are cut; null for the model's.
            batch_size: nodules per batch and process, of each part.
            num_workers: processes that read files; 0 reads in the training process.
            seed: of the order and the augmentation.
            balance: draw every subtype equally often in training.
            augmented_copies: deterministic versions of each training nodule, the first not
                augmented.
            cache_dir: folder for cached latents; null for none. Old entries are never deleted.
            batches_per_epoch: of training, on each process, whatever the data; at its end there is
                validation. nnU-Net (Isensee et al. 2021) has 250.
        """
        super().__init__()
        least = {
            "batch_size": (batch_size, 1),
            "num_workers": (num_workers, 0),
            "batches_per_epoch": (batches_per_epoch, 1),
        }
        for name, (value, lowest) in least.items():
            if value < lowest:
                message = f"{name} is {value}: give at least {lowest}"
                raise ValueError(message)
        self.own_roi = roi
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.balance = balance
        self.augmented_copies = augmented_copies
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.batches_per_epoch = batches_per_epoch
        # of the checkpoint that training goes on from
        self._consumed = self._batches = 0
        self.datasets: dict[str, NoduleDataset] = {}
        self.parts: dict[str, NoduleDataset] = {}
        self._cached: dict[NoduleDataset, LatentCache] = {}

    @property
    def roi(self) -> Roi:
        """How regions are cut: as given, or as the model that is trained or used wants it.

        Raises:
            ValueError: If neither says it, or both do and differ.
        """
        model: Any = None if self.trainer is None else self.trainer.lightning_module
        wanted: Roi | None = getattr(model, "roi", None)
        found = wanted or self.own_roi
        if found is None:
            message = "There is no ROI: give data.init_args.roi, or a model that has one"
            raise ValueError(message)
        if self.own_roi not in (None, found):
            message = (
                f"The data's ROI is {self.own_roi}, the model's {wanted}: leave data.init_args.roi "
                "out, the model's is used"
            )
            raise ValueError(message)
        return found

    @abstractmethod
    def build(self) -> dict[str, NoduleDataset]:
        """Build the datasets `train`, `val`, `test` and `predict`; any may have no nodule."""

    def training_and_held_out(self, splits: Mapping[Split, NoduleSet]) -> dict[str, NoduleDataset]:
        """The datasets of a collection's splits; the training split alone is augmented."""
        return {
            split: NoduleDataset(
                splits[split], self.augmented_copies if split == "train" else 1, self.seed
            )
            for split in SPLITS
        }

    def setup(self, stage: str | None = None) -> None:
        """Build the datasets once, and say in a line what those hold that the stage uses."""
        if stage == TrainerFn.FITTING:
            self._consumed = self._batches = 0
        if self.datasets:
            return
        self.datasets = self.build()
        parts = {f"train {name}": part for name, part in self.parts.items()}
        known = {**self.datasets, **parts}
        if parts:
            del known["train"]  # the first of them
        used = USED_IN.get(stage or "", ("train", "val", "test", "predict"))
        told = [f"{k} {self.describe(part)}" for k, part in known.items() if k.split()[0] in used]
        if told:
            rank_zero_info(f"{'Data:':8}{'; '.join(told)}")

    def describe(self, dataset: NoduleDataset) -> str:
        """Say how many nodules there are, of how many patients, and of which subtypes."""
        counts = {
            subtype_name(code) or "unknown": dataset.subtypes.count(code)
            for code in (*range(len(SUBTYPES)), UNKNOWN_SUBTYPE, NO_NODULE)
        }
        listed = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        patients = f" of {len(dataset.patients)} patients" if dataset.subtypes else ""
        return f"{len(dataset.subtypes)} nodules{patients} ({listed or 'none'})"

    @property
    def training(self) -> dict[str, NoduleDataset]:
        """The datasets of which every training step gets a batch, by name."""
        return self.parts or {"train": self.datasets["train"]}

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the data: rows, files, ROI and who is in which split."""
        self.setup()
        named = {**self.datasets, **{f"part {name}": part for name, part in self.parts.items()}}
        return sha256(*[f"{name} {dataset.fingerprint}" for name, dataset in named.items()])

    @property
    def training_patients(self) -> set[str]:
        """Keys (`patient_key`) of everybody of whom training shows something."""
        return {patient_key(who) for part in self.training.values() for who in part.patients}

    def state_dict(self) -> dict[str, Any]:
        """Put into the checkpoint what data these are, and how far training has got in them."""
        return {
            "fingerprint": self.fingerprint,
            "seed": self.seed,
            "consumed": self.consumed,
            "batches": self._batches_so_far,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the data with those that the checkpoint was trained on; go on behind it.

        Raises:
            ValueError: If training is resumed with another seed, or on other data or splits.
        """
        fitting = self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        if fitting and state_dict["seed"] != self.seed:
            message = (
                f"The run was begun with the seed {state_dict['seed']}, and the config says "
                f"{self.seed}: give --seed_everything {state_dict['seed']} to go on, or another "
                "trainer.default_root_dir to begin anew"
            )
            raise ValueError(message)
        if fitting:
            self._consumed, self._batches = state_dict["consumed"], state_dict["batches"]
        if state_dict["fingerprint"] == self.fingerprint:
            return
        message = (
            "The checkpoint was trained on data with fingerprint "
            f"{state_dict['fingerprint'][:12]}, these have {self.fingerprint[:12]}"
        )
        if fitting:
            message += ": resume with the same files, ROI and splits, or start anew with init_from"
            raise ValueError(message)
        rank_zero_warn(f"{message}: its training patients may be among these")

    def cache_latents(
        self,
        encode: Callable[[NoduleBatch], dict[str, Tensor]],
        key: str,
        rank: int,
        world_size: int,
        barrier: Callable[[], None],
    ) -> dict[str, int]:
        """Let the training and validation loaders give cached latents.

        To be called on every process, after `setup` and before the loaders are made.

        Args:
            encode: a batch to its `latent_mean`, `latent_logvar` and `context`,
                `(B, C, *latent)`.
            key: of the codec's weights and the window; the data's fingerprint is added here.
            rank: this process, out of `world_size`.
            world_size: number of processes.
            barrier: waits for all processes.

        Returns:
            `hits` (items found), `misses` (items encoded now, by all processes), `entries` (their
            sum) and `bytes` (on disk).

        Raises:
            ValueError: If `cache_dir` is not set.
        """
        if self.cache_dir is None:
            message = "cache_dir is null: give a folder, or do not cache latents"
            raise ValueError(message)
        report = {"hits": 0, "misses": 0, "entries": 0, "bytes": 0}
        cached = [("train", part) for part in self.training.values()]
        for split, dataset in [*cached, ("val", self.datasets["val"])]:
            if not len(dataset):
                continue
            cache = LatentCache.build(
                dataset,
                encode,
                self.cache_dir / sha256("with checksums", key, dataset.fingerprint, split),
                batch_size=self.batch_size,
                rank=rank,
                world_size=world_size,
                barrier=barrier,
                num_workers=self.num_workers,
            )
            self._cached[dataset] = cache
            report["hits" if cache.hit else "misses"] += len(cache)
            report["entries"] += len(cache)
            report["bytes"] += cache.nbytes
        return report

    def statistics_batches(self) -> DataLoader[NoduleBatch]:
        """Return each training nodule once, as it is, in the same order on every process."""
        plain = [
            Subset(self._cached.get(part, part), range(0, len(part), part.augmented_copies))
            for part in self.training.values()
        ]
        return DataLoader(ConcatDataset(plain), batch_size=self.batch_size)

    def real_batches(self) -> DataLoader[NoduleBatch]:
        """The same, of real nodules alone: how frequent anything is among patients."""
        return self.statistics_batches()

    @property
    def draw_weights(self) -> Tensor:
        """How often each nodule of the split train is drawn, `(nodules,)`, next to the others."""
        codes = self.datasets["train"].subtypes
        _, group, counts = np.unique(codes, return_inverse=True, return_counts=True)
        return torch.tensor(1 / counts[group] if self.balance else np.ones(len(codes)))

    @property
    def consumed(self) -> int:
        """Number of training nodules that steps were taken with so far, of each part.

        It counts all processes, and the run that this one goes on from.
        """
        world = self.trainer.world_size if self.trainer else 1
        return self._consumed + (self._batches_so_far - self._batches) * self.batch_size * world

    @property
    def _batches_so_far(self) -> int:
        """Batches of the whole run, on each process, as Lightning counts them."""
        if self.trainer is None:
            return 0
        loop: Any = self.trainer.fit_loop.epoch_loop
        processed: int = loop.batch_progress.total.processed
        return processed

    @property
    def training_batches(self) -> int:
        """Number of batches of an epoch, on each process.

        Raises:
            ValueError: If there is no training nodule.
        """
        for name, part in self.training.items():
            if not len(part):
                message = f"The training split has no nodule ({name}): give more data"
                raise ValueError(message)
        return self.batches_per_epoch

    def train_dataloader(self) -> DataLoader[NoduleBatch] | CombinedLoader:
        """Return the draws of `SubtypeSampler`, behind those that were consumed."""
        count, trainer = self.training_batches * self.batch_size, self.trainer
        ranks = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        loaders = {}
        for name, part in self.training.items():
            order = (part.subtypes, part.augmented_copies, self.balance, self.seed)
            sampler = SubtypeSampler(*order, lambda: self.consumed, count, *ranks)
            items = DrawnItems(self._cached.get(part, part))
            loaders[name] = self._loader(items, sampler=sampler)
        return CombinedLoader(loaders, "min_size") if self.parts else loaders["train"]

    def val_dataloader(self) -> DataLoader[NoduleBatch] | list[Any]:
        """Return all validation nodules in their order; an empty list if there are none."""
        dataset = self.datasets["val"]
        return self._loader(self._cached.get(dataset, dataset)) if len(dataset) else []

    def test_dataloader(self) -> DataLoader[NoduleBatch] | list[Any]:
        """Return all test nodules in their order; an empty list if there are none."""
        return self._loader(self.datasets["test"]) if len(self.datasets["test"]) else []

    def predict_dataloader(self) -> DataLoader[NoduleBatch] | list[Any]:
        """Return all nodules to be synthesized in their order; an empty list if none.

        On several processes the batches are those of one, and each process takes some of them.

        Raises:
            ValueError: If there are fewer batches than processes.
        """
        dataset, trainer = self.datasets["predict"], self.trainer
        if not len(dataset):
            return []
        world, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        if world == 1:
            return self._loader(dataset)
        if (batches := -(-len(dataset) // self.batch_size)) < world:
            message = (
                f"{len(dataset)} nodules to be synthesized are {batches} batch(es) of "
                f"{self.batch_size} for {world} processes: lower batch_size, or give fewer devices"
            )
            raise ValueError(message)
        return self._loader(dataset, sampler=BatchesInTurn(dataset, self.batch_size, world, rank))

    def _loader(self, items: Dataset[NoduleBatch], **settings: Any) -> DataLoader[NoduleBatch]:
        return load_batches(
            items,
            self.batch_size,
            self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            **settings,
        )
