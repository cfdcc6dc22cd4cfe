"""The baseline that needs no model: real nodules in other places."""

import math
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from lightning import LightningModule
from torch.utils.data import default_collate

from datamodules.base import NoduleDataModule
from datamodules.batch import NoduleBatch, Provenance, Synthesis
from lightning_modules.core.inpainting import feather, paste


class CopyPaste(LightningModule):
    """Puts a real training nodule in the place of another, for `lightning predict`.

    Copy-paste augmentation (Ghiasi et al. 2021) for nodules: each nodule that is asked for gives
    way, with its surroundings, to another patient's training nodule in one of its augmented
    versions, whose mask, subtype and ratings it gets. The background radiograph's lung
    begins beyond a soft margin around both masks.

    Args:
        margin_voxels: over which the donor's surroundings turn into the background radiograph's.
        seed: of the choice of donors.
    """

    def __init__(self, margin_voxels: int = 3, seed: int = 0) -> None:
        super().__init__()
        self.margin_voxels, self.seed = margin_voxels, seed
        self.patients: set[str] = set()

    def on_predict_start(self) -> None:
        """Take the training nodules as donors."""
        data = cast(NoduleDataModule, self.trainer.datamodule)  # type: ignore[attr-defined]
        self.donors, self.patients = data.datasets["train"], data.training_patients

    @property
    def window(self) -> tuple[float, float]:
        """No intensity is mapped."""
        return -math.inf, math.inf

    @property
    def provenance(self) -> Provenance:
        """No weights, and all donors' patients."""
        return Provenance("copy-paste", self.seed, 0, tuple(sorted(self.patients)))

    def donor(self, index: int, patient: str, seed: int) -> NoduleBatch:
        """The nodule that replaces the one with this index.

        Args:
            index: of the nodule that is replaced.
            patient: of whom the donor must not be.
            seed: of the choice.

        Raises:
            ValueError: If all training nodules are of this patient.
        """
        order = np.random.default_rng((seed, index)).permutation(len(self.donors))
        rows = self.donors.table["patient_id"].tolist()
        for k in order.tolist():
            if rows[k // self.donors.augmented_copies] != patient:
                return self.donors[k]
        message = (
            f"All training nodules are of the patient {patient}: copy-paste needs another one."
        )
        raise ValueError(message)

    def predict_step(self, batch: NoduleBatch, batch_idx: int) -> Synthesis:
        """The batch's images with other nodules, as `NiftiWriter` writes them."""
        return self.sample(batch)

    def sample(self, batch: NoduleBatch, seed: int | None = None) -> Synthesis:
        """Put a donor in the place of each nodule of the batch.

        Args:
            batch: images and masks.
            seed: overrides the seed of the settings.
        """
        seed = self.seed if seed is None else seed
        chosen = [
            self.donor(index, patient, seed)
            for index, patient in zip(batch["index"].tolist(), batch["patient_id"], strict=True)
        ]
        donors: NoduleBatch = default_collate(chosen)
        image, mask = (donors[key].to(self.device) for key in ("image", "mask"))
        weight = feather(torch.maximum(mask, batch["mask"]), self.margin_voxels)
        request: NoduleBatch = {**batch, "mask": mask}
        request["subtype"], request["attributes"] = donors["subtype"], donors["attributes"]
        no_bins = torch.zeros(len(chosen), 0, device=self.device)
        return Synthesis(
            image=paste(batch["image"], image, weight),
            background=batch["image"],
            request=request,
            requested_histogram=no_bins,
            generated_histogram=no_bins,
            bin_centers=no_bins[0],
            window=self.window,
            provenance=replace(self.provenance, seed=seed),
        )
