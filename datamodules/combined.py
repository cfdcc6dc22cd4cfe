"""Several sets of nodules at once, one batch of each in every step."""

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader

from datamodules.base import (
    SPLITS,
    NoduleDataModule,
    NoduleDataset,
    check_no_patient_crosses,
)
from datamodules.batch import NoduleBatch
from datamodules.digest import sha256


class CombinedDataModule(LightningDataModule):
    """Batches of several data modules, side by side in training.

    A training batch is a mapping from each part's name to its batch; an epoch ends with the
    shortest part. Validation, test and prediction use the first part alone.
    """

    def __init__(self, parts: dict[str, NoduleDataModule]) -> None:
        """Name the parts.

        Args:
            parts: data modules of the same ROI, by name.

        Raises:
            ValueError: If there is none, or their ROIs differ.
        """
        super().__init__()
        rois = {name: part.own_roi for name, part in parts.items()}
        if len(set(rois.values())) != 1:
            message = f"The parts' ROIs are {rois}: give one part or more, all alike."
            raise ValueError(message)
        self.parts = parts
        self.first = next(iter(parts.values()))
        self.cache_dir: Path | None = self.first.cache_dir

    def setup(self, stage: str | None = None) -> None:
        """Set up the parts.

        Raises:
            ValueError: If a patient is in different splits of two parts.
        """
        patients: dict[str, list[str]] = {split: [] for split in SPLITS}
        for part in self.parts.values():
            part.trainer = self.trainer
            part.setup(stage)
            for split, members in patients.items():
                members.extend(part.datasets[split].table["patient_id"])
        check_no_patient_crosses(patients)

    @property
    def datasets(self) -> Mapping[str, NoduleDataset]:
        """The first part's, which validation, test and prediction use."""
        return self.first.datasets

    @property
    def batch_size(self) -> int:
        """The first part's."""
        return self.first.batch_size

    @property
    def num_workers(self) -> int:
        """The first part's."""
        return self.first.num_workers

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of all parts."""
        return sha256(*[f"{name} {part.fingerprint}" for name, part in self.parts.items()])

    @property
    def training_patients(self) -> set[str]:
        """Those of all parts."""
        return set().union(*[part.training_patients for part in self.parts.values()])

    def state_dict(self) -> dict[str, Any]:
        """Put the parts' fingerprints into the checkpoint."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare each part with what the checkpoint was trained on.

        Raises:
            ValueError: If training is resumed on other parts, data or splits.
        """
        if set(state_dict) != set(self.parts):
            message = (
                f"The checkpoint was trained on the parts {sorted(state_dict)}, the config has "
                f"{sorted(self.parts)}: give the same."
            )
            raise ValueError(message)
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])

    def cache_latents(
        self,
        encode: Callable[[NoduleBatch], dict[str, Tensor]],
        key: str,
        rank: int,
        world_size: int,
        barrier: Callable[[], None],
    ) -> Mapping[str, int]:
        """Cache the latents of every part; see `NoduleDataModule.cache_latents`."""
        reports = [
            part.cache_latents(encode, key, rank, world_size, barrier)
            for part in self.parts.values()
            if part.cache_dir is not None
        ]
        return {name: sum(report[name] for report in reports) for name in reports[0]}

    def statistics_batches(self) -> DataLoader[NoduleBatch]:
        """Return each training nodule of every part once, as it is."""
        nodules = [part.statistics_batches().dataset for part in self.parts.values()]
        return DataLoader(ConcatDataset(nodules), batch_size=self.first.batch_size)

    @property
    def training_batches(self) -> int:
        """Number of batches of an epoch, on each process."""
        return min(part.training_batches for part in self.parts.values())

    def train_dataloader(self) -> CombinedLoader:
        """Return batches of all parts, by name."""
        loaders = {name: part.train_dataloader() for name, part in self.parts.items()}
        return CombinedLoader(loaders, "min_size")

    def val_dataloader(self) -> Any:
        """Return the first part's validation nodules."""
        return self.first.val_dataloader()

    def test_dataloader(self) -> Any:
        """Return the first part's test nodules."""
        return self.first.test_dataloader()

    def predict_dataloader(self) -> Any:
        """Return where the first part wants nodules."""
        return self.first.predict_dataloader()
