"""Synthetic nodules as files."""

import csv
from typing import Any

import numpy as np
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from callbacks.ranks import gather_rows
from datamodules.batch import SUBTYPES, NoduleBatch, Synthesis
from datamodules.files import written_whole
from datamodules.studies import Volume, write_volume

COLUMNS = (
    "nodule_id",
    "patient_id",
    "image",
    "mask",
    "subtype",
    "diameter_mm",
    "seed",
    "evaluations",
    "synthetic",
)


class NiftiWriter(Callback):
    """Write each predicted nodule as NIfTI in HU with the source's geometry, mask beside it.

    The folder `synthetic` of the run then holds a data set of the form that LIDCDataModule reads,
    its table `nodules.csv` last; every file and row is marked as synthetic.
    """

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a new table."""
        self.rows: list[dict[str, Any]] = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: NoduleBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write a batch."""
        synthesis: Synthesis = outputs
        folder = f"{trainer.default_root_dir}/synthetic"
        for row, name in enumerate(batch["name"]):
            nodule_id = f"synthetic-{name}"
            files = {
                "image": (synthesis["image"], np.int16),
                "mask": (batch["mask"], np.uint8),
            }
            for kind, (values, dtype) in files.items():
                array = np.rint(values[row, 0].float().cpu().numpy()).astype(dtype)
                volume = Volume(
                    array,
                    tuple(batch["spacing_mm"][row].tolist()),
                    tuple(batch["origin_mm"][row].tolist()),
                    batch["direction"][row].cpu().numpy(),
                )
                path = f"{folder}/{kind}s/{nodule_id}.nii.gz"
                write_volume(path, volume, description="synthetic nodule, noduleforge")
            self.rows.append(
                {
                    "nodule_id": nodule_id,
                    # the background's, so that it crosses no split when real data are added
                    "patient_id": batch["patient_id"][row],
                    "image": f"images/{nodule_id}.nii.gz",
                    "mask": f"masks/{nodule_id}.nii.gz",
                    "subtype": SUBTYPES[int(batch["subtype"][row])],
                    "diameter_mm": f"{float(batch['attributes']['diameter_mm'][row]):.2f}",
                    "seed": synthesis["seed"],
                    "evaluations": synthesis["evaluations"],
                    "synthetic": "true",
                }
            )

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table, of all ranks."""
        rows = gather_rows(self.rows)
        if not trainer.is_global_zero:
            return
        path = f"{trainer.default_root_dir}/synthetic/nodules.csv"
        with written_whole(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        print(f"{len(rows)} synthetic nodules: {path}")
