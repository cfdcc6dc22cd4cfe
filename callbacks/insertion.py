"""Whole studies with their synthetic nodules, written as their sources are."""

import csv
import warnings
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from callbacks.before_after import index_page
from callbacks.data_card import check_card, write_data_card
from callbacks.distributed import gather_rows, patient_group
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

WAITING = 16
"""Studies that may wait to be written before the synthesis waits for them."""

UNFINISHED = "the run ended before its study was complete: run the same command again, to its end"


class StudyWriter(Callback):
    """Put synthetic nodules into their studies and write these, for `InsertionDataModule`.

    In the run's folder: `studies/`, each in its source's form and geometry (a DICOM series stays
    one, image files keep format, type and scaling); `masks/`, one NIfTI for each nodule, and for
    DICOM one SEG for each study; `pictures/`, each nodule before and after in three planes, and
    `index.html`, a page of them all; a data card, `README.md`, with the share of requests that was
    refused; and `nodules.csv`, a row for each request with the reason of each that failed, which
    LIDCDataModule reads with `select: status == 'inserted'`. A study is written when its last
    nodule is synthesized, by threads, while the next ones are; one that is written is not written
    again when the command is run again. On several processes each writes its own studies, and the
    first the manifest.
    """

    def __init__(self, names: Names = "pseudonyms", pictures: int = 1000) -> None:
        """Say how files are named, and what is drawn.

        Args:
            names: after `pseudonyms`, which say nothing about a study to who has not the site's
                secret, or after the `studies`' own file names.
            pictures: the nodules of the first so many requests are drawn; to draw one takes longer
                than to insert it.

        Raises:
            ValueError: If `pictures` is below 0.
        """
        if pictures < 0:
            message = f"pictures is {pictures}: give the number of nodules to draw, or 0 for none"
            raise ValueError(message)
        self.names, self.pictures = names, pictures

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the data are requests, and that no text of somebody else is overwritten.

        Raises:
            FileExistsError: If the run's folder has another `README.md`.
            ValueError: If the data are no requests.
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
        check_card(Path(trainer.default_root_dir))
        self.plan = plan
        self.root = Path(trainer.default_root_dir)
        if trainer.is_global_zero:  # no process writes before all are set up
            remove_leftovers(self.root)
        self.group = patient_group()
        self.drawn = {*plan.names[: self.pictures]}
        self.edits: dict[str, list[Edit]] = {}
        self.rows: list[dict[str, Any]] = []
        self.pool = ThreadPoolExecutor(plan.threads, "write")
        self.written: deque[Future[list[dict[str, Any]]]] = deque()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: NoduleBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take what was synthesized, and have the studies written that are complete."""
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
            row = {**self.plan.waiting.pop(name), "diameter_mm": diameter}
            self.take(Edit({**row, "provenance": synthesis.provenance}, volume, mask))
        while len(self.written) > WAITING:
            self.rows += self.written.popleft().result()

    def take(self, edit: Edit) -> None:
        """Keep a nodule until its study has all of them, and have that written."""
        key = edit.row["key"]
        if key in self.plan.done:
            return
        edits = self.edits.setdefault(key, [])
        edits.append(edit)
        if not any(name in self.plan.waiting for name in self.plan.studies[key]):
            self.written.append(self.pool.submit(self.write, self.edits.pop(key)))

    def write(self, edits: list[Edit]) -> list[dict[str, Any]]:
        """Write a study with its nodules; one that is faulty does not stop the others.

        Returns:
            Its requests' rows of the manifest.
        """
        first = edits[0].row
        named = self.plan.studies[first["key"]]
        failed = [failure(name, why) for name in named if (why := self.plan.failed.get(name))]
        source, rank = self.plan.table.parent / first["study"], edits[0].change.array.ndim
        try:
            with EditedStudy(source, first, self.root, rank, self.names) as study:
                for edit in edits:
                    study.insert(edit, drawn=edit.row["name"] in self.drawn)
                return study.finish(failed)
        except (ValueError, FileNotFoundError) as error:
            warnings.warn(f"{first['study']} is left out: {error}", stacklevel=1)
            return failed + [failure(edit.row["name"], str(error)) for edit in edits]

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Wait for the studies that are being written, and leave nothing half done behind."""
        if hasattr(self, "pool"):
            self.pool.shutdown(cancel_futures=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the manifest, also where nothing was left to synthesize.

        Raises:
            ValueError: If not one nodule is in its study.
        """
        for study in self.written:
            self.rows += study.result()
        self.pool.shutdown()
        told = [failure(name, why) for name, why in self.plan.failed.items()]
        told = [*gather_rows([*told, *self.rows], self.group), *chain(*self.plan.done.values())]
        if not trainer.is_global_zero:
            return
        known = {row["nodule_id"]: row for row in told}
        rows = [
            known.get(f"synthetic-{name}") or failure(name, UNFINISHED) for name in self.plan.names
        ]
        provenance = cast(Synthesizes, pl_module).provenance
        write_generator(self.root, provenance, self.plan.shape_patients)
        path = self.root / "nodules.csv"
        with written_whole(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        inserted = [row for row in rows if row["status"] == INSERTED]
        write_data_card(self.root, inserted, len(rows), provenance)
        with written_whole(self.root / "index.html") as page:
            page.write_text(index_page(inserted, self.root))
        if not inserted:
            first = rows[0]
            message = (
                f"Not one of {len(rows)} nodules could be inserted; {path} says why of each, "
                f"such as {first['nodule_id']}: {first['reason']}"
            )
            raise ValueError(message)
        print(f"{len(inserted)} of {len(rows)} nodules inserted: {path}, index.html")


def failure(name: str, why: str) -> dict[str, Any]:
    """A failed request's row of the manifest."""
    row = {"nodule_id": f"synthetic-{name}", "status": FAILED, "reason": why}
    return {**dict.fromkeys(COLUMNS, ""), **row}
