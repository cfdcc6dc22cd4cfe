"""Whole studies with their synthetic nodules, written as their sources are."""

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn

from callbacks.before_after import before_and_after, index_page
from callbacks.study_files import FILES, Placed
from callbacks.writer import write_generator
from datamodules.batch import NoduleBatch, Synthesis, Synthesizes
from datamodules.insertion.edits import Edit, apply, box_of
from datamodules.insertion.requests import InsertionPlan, finished_file
from datamodules.io.volumes import Volume, write_volume
from datamodules.io.whole_files import written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = (
    *("nodule_id", "patient_id", "image", "mask", "subtype", "diameter_mm"),
    *("x_mm", "y_mm", "z_mm", "seed", "evaluations", "checkpoint", "status", "reason", "synthetic"),
)
"""Columns of the manifest."""

INSERTED, FAILED = "inserted", "failed"


class StudyWriter(Callback):
    """Put synthetic nodules into their studies and write these, for `InsertionDataModule`.

    In the run's folder: `studies/`, each in its source's form and geometry (a DICOM series stays
    one, image files keep their format); `masks/`, one NIfTI for each nodule, and for DICOM one SEG
    for each study; `pictures/`, each nodule before and after in three planes, and `index.html`, a
    page of them all; and `nodules.csv`, a row for each request, which LIDCDataModule reads with
    `select: status == 'inserted'`. A study is written when its last nodule is synthesized; one
    that is written is not made again when the command is run again.
    """

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
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
        self.waiting: dict[str, dict[str, dict[str, Any]]] = {}
        for row in plan.waiting:
            self.waiting.setdefault(row["key"], {})[row["name"]] = row
        self.edits: dict[str, list[Edit]] = {}
        self.rows = [*plan.done, *(failure(name, why) for name, why in plan.failed.items())]
        self.root = Path(trainer.default_root_dir)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: NoduleBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what was synthesized, and write the studies that are complete."""
        synthesis: Synthesis = outputs
        change = (synthesis.image - synthesis.background).float().cpu().numpy()
        for number, name in enumerate(batch["name"]):
            key = next(key for key, rows in self.waiting.items() if name in rows)
            row = self.waiting[key].pop(name)
            volume = Volume(
                change[number, 0],
                tuple(batch["spacing_mm"][number].tolist()),
                tuple(batch["origin_mm"][number].tolist()),
                batch["direction"][number].cpu().numpy(),
            )
            mask = batch["mask"][number, 0].cpu().numpy().astype(np.uint8)
            diameter = float(batch["attributes"]["diameter_mm"][number])
            row = {**row, "diameter_mm": diameter, "provenance": synthesis.provenance}
            self.edits.setdefault(key, []).append(Edit(row, volume, mask))
            if not self.waiting[key]:
                self.rows += self.finish_or_fail(key, self.edits.pop(key))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the manifest."""
        order = {name: n for n, name in enumerate(self.plan.names)}
        self.rows.sort(key=lambda row: order.get(row["nodule_id"].removeprefix("synthetic-"), 0))
        provenance = cast(Synthesizes, pl_module).provenance
        write_generator(self.root, provenance, self.plan.shape_patients)
        path = self.root / "nodules.csv"
        with written_whole(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
        inserted = [row for row in self.rows if row["status"] == INSERTED]
        with written_whole(self.root / "index.html") as page:
            page.write_text(index_page(inserted))
        print(f"{len(inserted)} of {len(self.rows)} nodules inserted: {path}, index.html")

    def finish_or_fail(self, key: str, edits: list[Edit]) -> list[dict[str, Any]]:
        """Write one study; one that cannot be read or written again does not stop the others."""
        try:
            return self.finish(key, edits)
        except (ValueError, FileNotFoundError) as error:
            rank_zero_warn(f"{edits[0].row['study']} is left out: {error}")
            return [failure(edit.row["name"], str(error)) for edit in edits]

    def finish(self, key: str, edits: list[Edit]) -> list[dict[str, Any]]:
        """Write one study; return its rows of the manifest."""
        source = self.plan.table.parent / edits[0].row["study"]
        files = FILES[edits[0].change.array.ndim]
        study = files.read(source, edits[0].row)
        placed: Placed = {}
        pictures: dict[str, Figure] = {}
        for edit in edits:
            before = study.array[box_of(study, edit.change)].copy()
            box, mask = placed[edit.row["name"]] = apply(study, edit)
            facts = f"{edit.row.get('subtype') or 'nodule'}, {edit.row['diameter_mm']:.1f} mm"
            title = f"synthetic-{edit.row['name']}: {facts}"
            parts = (before, study.array[box], mask)
            pictures[edit.row["name"]] = before_and_after(*parts, study.spacing_mm, title)
        # named so that it says what it is where the format has no header
        name = f"synthetic-{Path(edits[0].row['study']).name.split('.')[0]}-{key[:6]}"
        who = edits[0].row["patient_id"]
        image = files.write(source, study, self.root, name, placed, key, who)
        for of_nodule, picture in pictures.items():
            with written_whole(self.root / f"pictures/synthetic-{of_nodule}.png") as path:
                picture.savefig(path, dpi=110)
        rows = [self.row(edit, image) for edit in edits]
        for row, (box, mask) in zip(rows, placed.values(), strict=True):
            whole = np.zeros(study.array.shape, np.uint8)
            whole[box] = mask
            volume = Volume(whole, study.spacing_mm, study.origin_mm, study.direction)
            write_volume(self.root / row["mask"], volume, "mask of a synthetic nodule, noduleforge")
        with written_whole(finished_file(self.root, key)) as path:
            path.write_text(json.dumps(rows))
        return rows

    def row(self, edit: Edit, image: str) -> dict[str, Any]:
        """An inserted nodule's row of the manifest."""
        row, roi = edit.row, edit.change
        center = roi.grid.world([n // 2 for n in roi.array.shape])
        return {
            "nodule_id": f"synthetic-{row['name']}",
            "patient_id": row["patient_id"],
            "image": image,
            "mask": f"masks/synthetic-{row['name']}.nii.gz",
            "subtype": row.get("subtype", ""),
            "diameter_mm": round(row["diameter_mm"], 2),
            **{f"{axis}_mm": round(at, 3) for axis, at in zip("xyz", center, strict=False)},
            "seed": row["index"],
            "evaluations": row["provenance"].evaluations,
            "checkpoint": row["provenance"].checkpoint,
            "status": INSERTED,
            "reason": "",
            "synthetic": "true",
        }


def failure(name: str, why: str) -> dict[str, Any]:
    """A failed request's row of the manifest."""
    row = {"nodule_id": f"synthetic-{name}", "status": FAILED, "reason": why}
    return {**dict.fromkeys(COLUMNS, ""), **row}
