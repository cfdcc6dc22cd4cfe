"""Any CT volumes with label masks to a patch store."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from datamodules.hounsfield import check_hu
from datamodules.io.dicom import read_study
from datamodules.io.volumes import read_volume
from datamodules.tables import read_table
from noduleforge.prepare.store import (
    Cut,
    Rows,
    case_key,
    file_name,
    make_store,
    row,
    settings_of,
    write_nodule,
)

COLUMNS = ("patient_id", "image", "mask")

Separate = Literal["labels", "components"]


def prepare_volumes(
    table: Path,
    out: Path,
    separate: Separate = "labels",
    size: int = 64,
    spacing_mm: float = 1.0,
    whole: bool = False,
    workers: int = 2,
) -> None:
    """Make the patch store that LIDCCollection reads from CT volumes and masks of their nodules.

    Writes `nodules.csv`, `images/` (HU), `masks/` and `report.csv`. The same command, run again,
    goes on where it was stopped.

    Args:
        table: a CSV file with the columns `patient_id`, `image` (MetaImage, NIfTI, NRRD, or a
            folder with one DICOM series) and `mask` (an image file on the same grid), relative to
            the table's folder; other columns, such as `subtype`, go to all nodules of the row.
        out: folder to write.
        separate: whether a mask's nodules are its `labels`, or its connected `components`.
        size: voxels along each edge of a patch; fewer where the volume ends.
        spacing_mm: spacing of a patch.
        whole: write whole volumes instead of patches, at their own spacing.
        workers: number of processes.

    Raises:
        FileNotFoundError: If there is no such table.
        FileExistsError: If `out` holds something else.
        ValueError: If the table lacks a column or a cell, a number is out of range, or not one
            nodule could be prepared.
    """
    if not table.is_file():
        message = f"{table} does not exist: give a table of volumes and masks"
        raise FileNotFoundError(message)
    found = read_table(table, dict.fromkeys(COLUMNS, str), COLUMNS)
    empty = found[list(COLUMNS)].isna().any(axis=1)
    if empty.any():
        lines = ", ".join(str(number + 2) for number in found.index[empty])
        message = f"{table} has an empty cell in line(s) {lines}: fill in {', '.join(COLUMNS)}"
        raise ValueError(message)
    cut = Cut(size, spacing_mm, whole)
    cases = {
        str(image): Scan(
            out, table.parent, str(image), tuple(rows.to_dict("records")), cut, separate
        )
        for image, rows in found.groupby("image", sort=False)
    }
    make_store(out, settings_of(cut, separate=separate), cases, [], workers)


@dataclass(frozen=True)
class Scan:
    """One volume and its masks, to be prepared in a process of its own."""

    out: Path
    root: Path
    image: str
    masks: tuple[Any, ...]
    cut: Cut
    separate: Separate

    def __call__(self) -> Rows:
        """Write the nodules; return rows for the tables and the report."""
        rows: Rows = {"nodules": [], "outlines": [], "report": []}
        try:
            scan = read_study(self.root / self.image)
            if fault := check_hu(scan.array):
                raise ValueError(fault)
        except (FileNotFoundError, ValueError) as error:
            rows["report"].append(row("image", self.image, str(error)))
            return rows
        for given in self.masks:
            try:
                mask = read_volume(self.root / given["mask"])
                if not mask.grid.matches(scan.grid):
                    message = f"lies on another grid than {self.image}: resample it onto the image"
                    raise ValueError(message)
            except (FileNotFoundError, ValueError) as error:
                rows["report"].append(row("mask", given["mask"], str(error)))
                continue
            labels = mask.array if self.separate == "labels" else components(mask.array)
            boxes = ndimage.find_objects(labels.astype(np.int32))
            if not any(boxes):
                rows["report"].append(row("mask", given["mask"], "is empty"))
            for label, box in enumerate(boxes, start=1):
                if box is None:
                    continue
                patient, key = str(given["patient_id"]), case_key(self.image)
                name = f"{file_name(patient)}_{key}_{len(rows['nodules']) + 1}"
                inside = labels[box] == label
                start = [axis.start for axis in box]
                whole = f"{file_name(patient)}_{key}"
                files = write_nodule(self.out, name, scan, whole, inside, start, self.cut)
                more = {name: value for name, value in given.items() if name not in COLUMNS}
                identity = {"nodule_id": name, "patient_id": patient}
                rows["nodules"].append({**identity, **files, **more})
        return rows


def components(mask: NDArray[Any]) -> NDArray[np.int32]:
    """Number the parts of a mask that touch at a face, an edge or a corner."""
    return ndimage.label(mask != 0, np.ones((3,) * mask.ndim))[0].astype(np.int32)
