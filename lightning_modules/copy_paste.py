"""The baseline that needs no model: real nodules in other places."""

from typing import Any, cast

import numpy as np
import torch
from lightning import LightningModule
from torch.utils.data import default_collate

from datamodules.base import NoduleDataModule
from datamodules.batch import NoduleBatch
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
        self.init_from = "copy-paste"
        self.patients: set[str] = set()

    def on_predict_start(self) -> None:
        """Take the training nodules as donors."""
        data = cast(NoduleDataModule, self.trainer.datamodule)  # type: ignore[attr-defined]
        self.donors, self.patients = data.datasets["train"], data.training_patients

    def donor(self, index: int, patient: str) -> NoduleBatch:
        """The nodule that replaces the one with this index.

        Raises:
            ValueError: If all training nodules are of this patient.
        """
        order = np.random.default_rng((self.seed, index)).permutation(len(self.donors))
        rows = self.donors.table["patient_id"].tolist()
        for k in order.tolist():
            if rows[k // self.donors.augmented_copies] != patient:
                return self.donors[k]
        message = (
            f"All training nodules are of the patient {patient}: copy-paste needs another one."
        )
        raise ValueError(message)

    def predict_step(self, batch: NoduleBatch, batch_idx: int) -> dict[str, Any]:
        """The batch's images with other nodules, as `NiftiWriter` writes them."""
        chosen = [
            self.donor(index, patient)
            for index, patient in zip(batch["index"].tolist(), batch["patient_id"], strict=True)
        ]
        donors: NoduleBatch = default_collate(chosen)
        image, mask = (donors[key].to(self.device) for key in ("image", "mask"))
        weight = feather(torch.maximum(mask, batch["mask"]), self.margin_voxels)
        request = {**batch, "mask": mask}
        request |= {key: donors[key] for key in ("subtype", "attributes")}
        return {
            "image": paste(batch["image"], image, weight),
            "background": batch["image"],
            "request": request,
            "seed": self.seed,
            "evaluations": 0,
        }
