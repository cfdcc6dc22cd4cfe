"""Any CT volumes with label masks to a patch store."""

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from datamodules.hounsfield import INT16_HU, check_hu
from datamodules.identifiers import check_readings, identifiers
from datamodules.io.dicom import is_series, read_study
from datamodules.io.masks import labels_of, read_mask
from datamodules.io.volumes import Grid, Volume
from datamodules.tables import empty_cells, raise_together, read_table
from noduleforge.prepare.cases import Rows, file_facts, stems
from noduleforge.prepare.store import Cut, make_store, row, settings_of, write_nodule

COLUMNS = ("patient_id", "image", "mask")

COMPUTED = {"nodule_id", "diameter_mm", "x_mm", "y_mm", "z_mm"}
"""What a store's table says of each nodule besides."""

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
    goes on where it was stopped, tries again what failed, and makes anew what has changed in the
    table or in the files.

    Args:
        table: a CSV file with the columns `patient_id`, `image` (MetaImage, NIfTI, NRRD, or a
            folder with one DICOM series, or one of its files) and `mask` (an image file on the same
            grid), relative to the table's folder; other columns, such as `subtype`, go to all
            nodules of the row, with `given_` before their names where the store has a column of
            that name. An image is of one patient, and patients that read the same (`P1`, `p01`) are
            refused.
        out: folder to write.
        separate: whether a mask's nodules are its `labels`, or its connected `components`. Shares
            from 0 to 1 are inside from one half on.
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
    found["patient_id"] = identifiers(found["patient_id"])
    raise_together(empty_cells(found, COLUMNS, table))
    check_readings(found["patient_id"], str(table), "patient_id")
    cut = Cut(size, spacing_mm, whole)
    cases = list_cases(table, found, out, cut, separate)
    make_store(out, settings_of(cut, separate=separate), cases, [], workers)


class Labels(NamedTuple):
    """What the values of a label map mean.

    Attributes:
        nodules: those of nodules.
        known: all that it may have.
    """

    nodules: tuple[int, ...]
    known: tuple[int, ...]


def list_cases(
    table: Path,
    rows: pd.DataFrame,
    out: Path,
    cut: Cut,
    separate: Separate,
    labels: Labels | None = None,
) -> list["Scan"]:
    """The volumes of a table with their masks.

    Args:
        table: to whose folder images and masks are relative.
        rows: with `patient_id`, `image`, `mask` and others.
        out: the store's folder.
        cut: what to write.
        separate: which voxels of a mask are one nodule.
        labels: what its values mean; None where all but 0 are nodules.

    Raises:
        ValueError: If an image is given to two patients.
    """
    scans = by_file(table, own_names(rows))
    beginnings = stems({image: rows[0]["patient_id"] for image, rows in scans.items()})
    return [
        Scan(out, table.parent, image, tuple(rows), stem, cut, separate, labels)
        for (image, rows), stem in zip(scans.items(), beginnings, strict=True)
    ]


def own_names(table: pd.DataFrame) -> pd.DataFrame:
    """Put `given_` before the columns that would be taken for what is computed."""
    names = {}
    for name in COMPUTED & {*table.columns}:
        names[name] = f"given_{name}"
        while names[name] in table:
            names[name] = f"given_{names[name]}"
    return table.rename(columns=names)


def by_file(table: Path, rows: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """The rows of each image, whichever way its path is written, by the first of these.

    Raises:
        ValueError: If an image is given to two patients, who could be in two splits.
    """
    written: dict[str, str] = {}
    scans: dict[str, list[dict[str, Any]]] = {}
    for given in rows.to_dict("records"):
        image = written.setdefault(os.path.realpath(table.parent / given["image"]), given["image"])
        scan = scans.setdefault(image, [])
        scan.append({str(name): value for name, value in given.items()})
        if scan[0]["patient_id"] != given["patient_id"]:
            message = (
                f"{table}: image {image} is given to both patient {scan[0]['patient_id']!r} and "
                f"{given['patient_id']!r}: give each image to one patient"
            )
            raise ValueError(message)
    return scans


@dataclass(frozen=True)
class Scan:
    """One volume and its masks, to be prepared in a process of its own."""

    out: Path
    root: Path
    image: str
    masks: tuple[dict[str, Any], ...]
    stem: str
    cut: Cut
    separate: Separate
    labels: Labels | None = None

    def facts(self) -> object:
        """The rows of the table and the files that they name."""
        files = [self.image, *(given["mask"] for given in self.masks)]
        return [
            self.image,
            self.masks,
            self.labels,
            [file_facts(self._whole(name)) for name in files],
        ]

    def _whole(self, name: str) -> Path:
        """Where all of a file is: of one of a series, in its folder."""
        path = self.root / name
        with suppress(ValueError, OSError):  # damaged or too long: it fails when it is read
            return path.parent if path.is_file() and is_series(path) else path
        return path

    def __call__(self) -> Rows:
        """Write the nodules; return rows for the tables and the report."""
        rows = Rows()
        scan = read_ct(self.root / self.image, self.image, rows)
        if scan is None:
            return rows
        for given in self.masks:
            try:
                labels = self._labels(given["mask"], scan.grid)
            except (OSError, ValueError) as error:
                rows.report.append(row("mask", given["mask"], str(error)))
                rows.failed = True
                continue
            boxes = ndimage.find_objects(labels)
            if not boxes:
                rows.report.append(row("mask", given["mask"], "is empty"))
            for label, box in enumerate(boxes, start=1):
                name = f"{self.stem}_{len(rows.nodules) + 1}"
                inside = labels[box] == label
                start = [axis.start for axis in box]
                files = write_nodule(
                    self.out, name, scan, self.stem, inside, start, self.cut, rows.nodules
                )
                identity = {"nodule_id": name, "patient_id": given["patient_id"]}
                more = {name: value for name, value in given.items() if name not in COLUMNS}
                rows.nodules.append({**identity, **files, **more})
        return rows

    def _labels(self, name: str, grid: Grid) -> NDArray[Any]:
        """The number of the nodule that each voxel belongs to, 0 where there is none."""
        path = self.root / name
        mask = read_mask(path) if self.labels is None else read_labels(path, self.labels)
        if not mask.grid.matches(grid):
            message = f"lies on another grid than {self.image}: resample it onto the image"
            raise ValueError(message)
        return mask.array if self.separate == "labels" else components(mask.array)


def read_labels(path: Path, labels: Labels) -> Volume:
    """Read a label map, its nodules alone.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or has a value that is not known.
    """
    given = read_study(path)
    found = np.unique(given.array)
    if unknown := [f"{value:g}" for value in found if value not in labels.known]:
        message = f"has the value(s) {', '.join(unknown[:10])}, which are no labels of its set"
        raise ValueError(message)
    array = np.where(np.isin(given.array, labels.nodules), given.array, 0)
    return replace(given, array=labels_of(array))


def read_ct(path: Path, name: str, rows: Rows) -> Volume | None:
    """Read a CT in HU that files can hold, and report what is wrong with it.

    Args:
        path: image file, or a DICOM series: its folder or one of its files.
        name: what it is called in the report.
        rows: of the case.

    Returns:
        The CT; None if there is none in HU, which is a failure of the case.
    """
    try:
        scan = read_study(path)
        if fault := check_hu(scan.array):
            raise ValueError(fault)
    except (OSError, ValueError) as error:
        rows.report.append(row("image", name, str(error)))
        rows.failed = True
        return None
    low, high = INT16_HU
    if beyond := int(((scan.array < low) | (scan.array > high)).sum()):
        what = f"{beyond} voxel(s) beyond {low} to {high} HU are written as the nearer of both"
        rows.report.append(row("image", name, what))
        scan = replace(scan, array=scan.array.clip(low, high))
    return scan


def components(mask: NDArray[Any]) -> NDArray[np.int32]:
    """Number the parts of a mask that touch at a face, an edge or a corner."""
    return ndimage.label(mask != 0, np.ones((3,) * mask.ndim))[0].astype(np.int32)
