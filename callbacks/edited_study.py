"""One study, its synthetic nodules put in one after the other, and the files that come of it."""

import json
import os
import shutil
from pathlib import Path
from threading import Lock
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from callbacks.before_after import before_and_after
from callbacks.study_files import FILES, Placed
from datamodules.batch import HEALTHY
from datamodules.insertion.edits import Edit, apply, box_of
from datamodules.insertion.requests import finished_file
from datamodules.io.lazy_studies import StudyVoxels, empty_mask, write_nifti
from datamodules.io.paths import name_of
from datamodules.io.volumes import Volume, write_volume
from datamodules.io.whole_files import written_whole
from datamodules.pseudonyms import study_name

BUILDING = ".building-"
"""Begins the name of a folder where the files of a study that is not finished are."""

DRAWING = Lock()
"""Held while a picture is drawn, as Matplotlib is not made for several threads."""

Names = Literal["pseudonyms", "studies"]
"""What the files of synthetic studies are called after."""

INSERTED = "inserted"
"""Status of a nodule that is in its study."""


def remove_leftovers(root: Path) -> None:
    """Remove what a run that was killed has left half done.

    Args:
        root: the run's folder.
    """
    for folder in root.glob(f"{BUILDING}*"):
        shutil.rmtree(folder)


class EditedStudy:
    """A study that gets its nodules.

    All files are written into a folder of their own and moved to their places together, so that a
    study that cannot be finished leaves nothing behind.
    """

    def __init__(
        self, source: Path, row: dict[str, Any], root: Path, rank: int, names: Names
    ) -> None:
        """Read the study.

        Args:
            source: of the study.
            row: the first of its requests.
            root: the run's folder.
            rank: the number of its axes.
            names: what its files are called after.

        Raises:
            FileNotFoundError: If it is missing.
            ValueError: If it is damaged.
        """
        self.source, self.root = source, root
        called = study_name(source) if names == "pseudonyms" else name_of(source)
        # so that it says what it is where the format has no header
        self.name = f"synthetic-{called}-{row['key'][:6]}"
        self.key, self.patient = row["key"], row["patient_id"]
        self.files = FILES[rank]
        self.study = self.files.read(source, row)
        self.folder = root / f"{BUILDING}{self.key}"
        self.placed: Placed = {}
        self.edits: list[tuple[dict[str, Any], tuple[float, ...]]] = []

    def __enter__(self) -> Self:
        """Begin; whatever happens, nothing half done is left behind."""
        return self

    def __exit__(self, *stopped: object) -> None:
        """Remove what was not moved to its place."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def insert(self, edit: Edit, drawn: bool) -> None:
        """Put a nodule in.

        Args:
            edit: the nodule.
            drawn: whether it gets a picture.
        """
        before = self.study.array[box_of(self.study, edit.change)].copy()
        self.placed[edit.row["name"]] = apply(self.study, edit)
        roi = edit.change
        center = roi.grid.world([n // 2 for n in roi.array.shape])
        self.edits.append((edit.row, center))
        if drawn:
            self._draw(edit, before)

    def _draw(self, edit: Edit, before: NDArray[Any]) -> None:
        """Draw the last nodule, given what its ROI was before."""
        name = edit.row["name"]
        box, mask = self.placed[name]
        facts = f"{edit.row.get('subtype') or 'nodule'}, {edit.row['diameter_mm']:.1f} mm"
        parts = (before, self.study.array[box], mask)
        title = f"synthetic-{name}: {facts}"
        with DRAWING, written_whole(self.folder / f"pictures/synthetic-{name}.png") as path:
            picture = before_and_after(*parts, self.study.spacing_mm, title)
            picture.savefig(path, dpi=110)

    def finish(self, failed: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Write the study and its masks.

        Args:
            failed: rows of the manifest of requests that it could not fulfil.

        Returns:
            All its requests' rows of the manifest.

        Raises:
            ValueError: If the source cannot be read again.
        """
        erased = {row["name"] for row, _ in self.edits if row.get("subtype") == HEALTHY}
        nodules = {name: place for name, place in self.placed.items() if name not in erased}
        image = self.files.write(
            self.source, self.study, self.folder, self.name, nodules, self.key, self.patient
        )
        rows = [manifest_row(row, center, image) for row, center in self.edits]
        for row, (box, mask) in zip(rows, self.placed.values(), strict=True):
            what = "healthy lung" if row["subtype"] == HEALTHY else "a nodule"
            write_mask(
                self.folder / row["mask"],
                self.study,
                box,
                mask,
                f"mask of {what}, synthetic, noduleforge",
            )
        self._move()
        with written_whole(finished_file(self.root, self.key)) as path:
            path.write_text(json.dumps(rows + failed))
        return rows + failed

    def _move(self) -> None:
        """Move all files to their places in the run's folder."""
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                place = self.root / path.relative_to(self.folder)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, place)


def write_mask(
    path: Path, study: Volume, box: tuple[slice, ...], mask: NDArray[np.uint8], description: str
) -> None:
    """Write a mask on a study's grid, of a large study a few slices at a time.

    Args:
        path: where to.
        study: on whose grid.
        box: where the mask lies in it.
        mask: what is 1 there.
        description: goes into the header.
    """
    if isinstance(study.array, StudyVoxels):
        voxels = empty_mask(study)
        voxels[box] = mask
        write_nifti(path, voxels, study, description)
        return
    whole = np.zeros(study.array.shape, np.uint8)
    whole[box] = mask
    volume = Volume(whole, study.spacing_mm, study.origin_mm, study.direction)
    write_volume(path, volume, description)


def manifest_row(row: dict[str, Any], center: tuple[float, ...], image: str) -> dict[str, Any]:
    """An inserted nodule's row of the manifest.

    Args:
        row: the request, with the `provenance` of what was synthesized.
        center: world position of the nodule.
        image: path of the study in the run's folder.
    """
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
