"""Whole studies with their synthetic nodules, written as their sources are."""

import csv
from pathlib import Path
from typing import Any, cast

import numpy as np
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn

from callbacks.before_after import index_page
from callbacks.edited_study import INSERTED, EditedStudy, Names, remove_leftovers
from callbacks.writer import write_generator
from datamodules.batch import NoduleBatch, Synthesis, Synthesizes
from datamodules.insertion.edits import Edit
from datamodules.insertion.requests import InsertionPlan
from datamodules.io.volumes import Volume
from datamodules.io.whole_files import written_whole

COLUMNS = (
    *("nodule_id", "patient_id", "image", "mask", "subtype", "diameter_mm"),
    *("x_mm", "y_mm", "z_mm", "seed", "evaluations", "checkpoint", "status", "reason", "synthetic"),
)
"""Columns of the manifest."""

FAILED = "failed"
"""Status of a request that could not be fulfilled."""

UNFINISHED = "the run ended before its study was complete: run the same command again, to its end"


class StudyWriter(Callback):
    """Put synthetic nodules into their studies and write these, for `InsertionDataModule`.

    In the run's folder: `studies/`, each in its source's form and geometry (a DICOM series stays
    one, image files keep format, type and scaling); `masks/`, one NIfTI for each nodule, and for
    DICOM one SEG for each study; `pictures/`, each nodule before and after in three planes, and
    `index.html`, a page of them all; and `nodules.csv`, a row for each request with the reason of
    each that failed, which LIDCDataModule reads with
    `select: status == 'inserted'`. A study is written when its last nodule is synthesized; one
    that is written is not made again when the command is run again.
    """

    def __init__(self, names: Names = "pseudonyms", pictures: int = 1000) -> None:
        """Say how files are named, and what is drawn.

        Args:
            names: after `pseudonyms`, which say nothing about a study to who has not the site's
                secret, or after the `studies`' own file names.
            pictures: the first so many nodules of a run are drawn; to draw one takes longer than to
                insert it.

        Raises:
            ValueError: If `pictures` is below 0.
        """
        if pictures < 0:
            message = f"pictures is {pictures}: give the number of nodules to draw, or 0 for none"
            raise ValueError(message)
        self.names, self.pictures = names, pictures

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that there is one process and that the data are requests.

        Raises:
            ValueError: If not.
        """
        data = getattr(trainer, "datamodule", None)
        plan = getattr(data, "plan", None)
        if not isinstance(plan, InsertionPlan):
            message = (
                "StudyWriter needs data.class_path InsertionDataModule or "
                "RadiographInsertionDataModule, "
                f"not {type(data).__name__}"
            )
            raise ValueError(message)
        if trainer.world_size > 1:
            message = (
                f"StudyWriter runs in one process, not {trainer.world_size}: set trainer.devices "
                "to 1, and divide the table of requests by study"
            )
            raise ValueError(message)
        self.plan = plan
        self.waiting = {row["name"]: row for row in plan.waiting}
        self.drawn = {*list(self.waiting)[: self.pictures]}
        self.left: dict[str, list[str]] = {}
        for name, row in self.waiting.items():
            self.left.setdefault(row["key"], []).append(name)
        self.open: dict[str, EditedStudy] = {}
        self.broken: dict[str, str] = {}
        self.rows = [*plan.done, *(failure(name, why) for name, why in plan.failed.items())]
        self.root = Path(trainer.default_root_dir)
        remove_leftovers(self.root)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: NoduleBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Put what was synthesized into its study, and write the studies that are complete."""
        synthesis: Synthesis = outputs
        change = (synthesis.image - synthesis.background).float().cpu().numpy()
        for number, name in enumerate(batch["name"]):
            volume = Volume(
                change[number, 0],
                tuple(batch["spacing_mm"][number].tolist()),
                tuple(batch["origin_mm"][number].tolist()),
                batch["direction"][number].cpu().numpy(),
            )
            mask = batch["mask"][number, 0].cpu().numpy().astype(np.uint8)
            diameter = float(batch["attributes"]["diameter_mm"][number])
            row = {**self.waiting.pop(name), "diameter_mm": diameter}
            self.insert(Edit({**row, "provenance": synthesis.provenance}, volume, mask))

    def insert(self, edit: Edit) -> None:
        """Put a nodule into its study; a study that is faulty does not stop the others."""
        key = edit.row["key"]
        try:
            if key not in self.open and key not in self.broken:
                source = self.plan.table.parent / edit.row["study"]
                rank = edit.change.array.ndim
                self.open[key] = EditedStudy(source, edit.row, self.root, rank, self.names)
            if key in self.open:
                self.open[key].insert(edit, drawn=edit.row["name"] in self.drawn)
                if edit.row["name"] == self.left[key][-1]:
                    self.rows += self.open[key].finish()
                    del self.open[key]
        except (ValueError, FileNotFoundError) as error:
            rank_zero_warn(f"{edit.row['study']} is left out: {error}")
            if key in self.open:
                self.open.pop(key).discard()
            self.broken[key] = str(error)
            self.rows += [failure(name, str(error)) for name in self.left[key]]

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave nothing half done behind."""
        for study in getattr(self, "open", {}).values():
            study.discard()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the manifest, also where nothing was left to synthesize.

        Raises:
            ValueError: If not one nodule is in its study.
        """
        for study in self.open.values():  # as where trainer.limit_predict_batches ends the run
            study.discard()
        told = {row["nodule_id"] for row in self.rows}
        left = [name for name in self.plan.names if f"synthetic-{name}" not in told]
        self.rows += [failure(name, UNFINISHED) for name in left]
        order = {f"synthetic-{name}": number for number, name in enumerate(self.plan.names)}
        self.rows.sort(key=lambda row: order[row["nodule_id"]])
        provenance = cast(Synthesizes, pl_module).provenance
        write_generator(self.root, provenance, self.plan.shape_patients)
        path = self.root / "nodules.csv"
        with written_whole(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
        inserted = [row for row in self.rows if row["status"] == INSERTED]
        with written_whole(self.root / "index.html") as page:
            page.write_text(index_page(inserted, self.root))
        if not inserted:
            first = self.rows[0]
            message = (
                f"Not one of {len(self.rows)} nodules could be inserted; {path} says why of each, "
                f"such as {first['nodule_id']}: {first['reason']}"
            )
            raise ValueError(message)
        print(f"{len(inserted)} of {len(self.rows)} nodules inserted: {path}, index.html")


def failure(name: str, why: str) -> dict[str, Any]:
    """A failed request's row of the manifest."""
    row = {"nodule_id": f"synthetic-{name}", "status": FAILED, "reason": why}
    return {**dict.fromkeys(COLUMNS, ""), **row}
