"""Synthetic nodules as files."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from callbacks.data_card import check_card, write_data_card
from callbacks.distributed import gather_in_order
from callbacks.generation import code_version
from datamodules.batch import (
    NoduleBatch,
    Provenance,
    Synthesis,
    Synthesizes,
    subtype_name,
)
from datamodules.file_names import is_file_name, safe_file_name
from datamodules.io.checksums import write_json
from datamodules.io.volumes import Volume, write_volume
from datamodules.io.whole_files import written_whole
from datamodules.patients import GENERATOR, patient_key
from datamodules.ratings import RATINGS

COLUMNS = (
    *("nodule_id", "patient_id", "image", "mask", "subtype", "diameter_mm"),
    *("seed", "evaluations", "synthetic", *RATINGS),
)


def write_generator(folder: Path, provenance: Provenance, shapes_of: Iterable[str] = ()) -> None:
    """Write which checkpoint synthesized, and the keys of all patients that it was trained on.

    `RealAndSyntheticDataModule` refuses nodules of a generator that has seen patients of the test
    split.

    Args:
        folder: where to write.
        provenance: of the synthetic nodules.
        shapes_of: patients whose nodules' outlines were asked for: these show something of them.
    """
    facts = {
        "checkpoint": provenance.checkpoint,
        "code": code_version(),
        "training_patients": sorted({*provenance.training_patients, *map(patient_key, shapes_of)}),
    }
    with written_whole(folder / GENERATOR) as temporary:
        write_json(temporary, facts)


class NiftiWriter(Callback):
    """Write each predicted nodule as NIfTI in HU with the source's geometry, mask beside it.

    The folder `synthetic` of the run then holds a data set of the form that LIDCDataModule reads,
    its table `nodules.csv` last, `generator.json` and a data card, `README.md`; every file and row
    is marked as synthetic.
    """

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a new table.

        Raises:
            FileExistsError: If its folder has a `README.md` of somebody else.
        """
        check_card(Path(trainer.default_root_dir) / "synthetic")
        self.rows: list[tuple[int, dict[str, Any]]] = []

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
        request = synthesis.request
        folder = f"{trainer.default_root_dir}/synthetic"
        for row, name in enumerate(request["name"]):
            nodule_id, code = f"synthetic-{name}", int(request["subtype"][row])
            if not is_file_name(nodule_id):
                nodule_id = safe_file_name(nodule_id)
            files = {
                "image": (synthesis.image, np.int16),
                "mask": (request["mask"], np.uint8),
            }
            for kind, (values, dtype) in files.items():
                array = np.rint(values[row, 0].float().cpu().numpy()).astype(dtype)
                volume = Volume(
                    array,
                    tuple(request["spacing_mm"][row].tolist()),
                    tuple(request["origin_mm"][row].tolist()),
                    request["direction"][row].cpu().numpy(),
                )
                path = f"{folder}/{kind}s/{nodule_id}.nii.gz"
                write_volume(path, volume, description="synthetic nodule, noduleforge")
            item = int(batch["index"][row])
            self.rows.append(
                (
                    item,
                    {
                        "nodule_id": nodule_id,
                        # the background's, so that it crosses no split when real data are added
                        "patient_id": request["patient_id"][row],
                        "image": f"images/{nodule_id}.nii.gz",
                        "mask": f"masks/{nodule_id}.nii.gz",
                        "subtype": subtype_name(code),
                        "diameter_mm": f"{float(batch['attributes']['diameter_mm'][row]):.2f}",
                        "seed": synthesis.provenance.seed,
                        "evaluations": synthesis.provenance.evaluations,
                        "synthetic": "true",
                        # those of the nodule that was asked for, where they are known
                        **{
                            rating: f"{value:g}"
                            for rating, values in request["attributes"].items()
                            if rating in RATINGS and np.isfinite(value := float(values[row]))
                        },
                    },
                )
            )

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table, of all ranks."""
        rows = gather_in_order(self.rows)
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir) / "synthetic"
        provenance = cast(Synthesizes, pl_module).provenance
        write_generator(folder, provenance)
        write_data_card(folder, rows, len(rows), provenance)
        path = folder / "nodules.csv"
        with written_whole(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        print(f"{len(rows)} synthetic nodules: {path}")
