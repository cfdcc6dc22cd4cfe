"""Data sets that readers are shown, cut to one region around each nodule."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from datamodules.batch import NO_NODULE, Roi, subtype_name
from datamodules.collections import FolderCollection, LIDCCollection, NoduleCollection
from datamodules.collections.base import NoduleSet, Patch
from datamodules.io.dicom import read_study_grid
from datamodules.io.volumes import Grid
from datamodules.progress import Progress
from datamodules.ratings import CHARACTERISTICS, characteristics
from datamodules.splits import TRAINING_ALONE
from datamodules.tables import read_table
from noduleforge.readers.tasks import ATTRIBUTES

PATCH_SIDE = {2: 512, 3: 128}
"""Up to so many voxels along an axis an image is a patch around one nodule, by its dimensions."""

MARGIN = 2
"""Voxels on each side of a patch that are not shown: the nodule's centroid need not be its middle.
"""

INSERTED = "status == 'inserted'"


class Source(NamedTuple):
    """Nodules that can be shown.

    Attributes:
        nodules: where their regions are read.
        table: one nodule a row, `row` its position in `nodules`: `name`, `patient_id`,
            `diameter_mm`, `surroundings` (mean intensity beside the nodule), `x_mm`, `y_mm`,
            `z_mm` (world position; z is NaN in 2D) and what is known of `ATTRIBUTES`.
    """

    nodules: NoduleSet
    table: pd.DataFrame

    def read(self, row: int) -> Patch:
        """The region of a row of `nodules`."""
        return self.nodules.read(row, self.nodules.roi_size)


def collection_of(given: NoduleCollection | Path) -> NoduleCollection:
    """The nodules of a folder with `nodules.csv`: CT, or radiographs where the masks are 2D.

    Of requests for insertion only those are taken that were fulfilled.

    Raises:
        FileNotFoundError: If there is no such table.
        ValueError: If it is no table of nodules.
    """
    if not isinstance(given, Path):
        return given
    table = read_table(given / "nodules.csv", str, ("image", "mask"))
    select = INSERTED if "status" in table else None
    chosen = table if select is None else table[table["status"] == "inserted"]
    if chosen.empty:
        message = f"{given / 'nodules.csv'} has no row with status inserted: insert nodules first"
        raise ValueError(message)
    dimensions = len(read_study_grid(given / chosen["mask"].iloc[0]).shape)
    if dimensions == 2:
        return FolderCollection(given, select=select)
    return LIDCCollection(given, select=select)


def region_of_patches(given: NoduleCollection | Path) -> Roi:
    """The region that patches of a data set can show, a little less than they hold.

    Raises:
        ValueError: If its images are no patches of one spacing.
    """
    grid = _first_grid(given) if isinstance(given, Path) else None
    if grid is None or max(grid.shape) > PATCH_SIDE[len(grid.shape)] or np.ptp(grid.spacing_mm):
        message = (
            f"The images of {given} are no patches around single nodules at one spacing: say with "
            "--roi.size (voxels) and --roi.spacing_mm how much of them is shown"
        )
        raise ValueError(message)
    size = tuple(side - 2 * MARGIN for side in grid.shape)
    return Roi(size[0] if len({*size}) == 1 else size, grid.spacing_mm[0])


def _first_grid(root: Path) -> Grid:
    table = read_table(root / "nodules.csv", str, ("image",))
    return read_study_grid(root / table["image"].iloc[0])


def read_source(given: NoduleCollection | Path, roi: Roi, kind: str) -> Source:
    """Describe all nodules of a data set whose region lies within their image.

    Args:
        given: the data set.
        roi: the region.
        kind: what its nodules are called in messages.

    Raises:
        FileNotFoundError: If files are missing.
        ValueError: If they are faulty, or no nodule is left.
    """
    nodules = collection_of(given).splits(roi, TRAINING_ALONE, 0)["train"]
    rows, beyond = [], 0
    for k in Progress(range(len(nodules)), desc=kind, unit="nodule"):
        if nodules.subtypes[k] == NO_NODULE:
            continue
        patch = nodules.read(k, nodules.roi_size)
        if leaves_image(patch.image.array):
            beyond += 1
            continue
        rows.append({"row": k, **_facts(patch)})
    if beyond:
        print(f"{beyond} {kind} nodule(s) are left out: their region reaches beyond their image")
    if not rows:
        message = (
            f"No {kind} nodule has a region of {nodules.roi_size} voxels at {roi.spacing_mm} mm "
            "within its image: give a smaller --roi.size"
        )
        raise ValueError(message)
    return Source(nodules, pd.DataFrame(rows))


def leaves_image(array: NDArray[np.generic]) -> bool:
    """Whether a side of a region has one value throughout, as padding has."""
    sides = (np.take(array, end, axis) for axis in range(array.ndim) for end in (0, -1))
    return any(bool(np.ptp(side) == 0) for side in sides)


def _facts(patch: Patch) -> dict[str, object]:
    mask = patch.mask > 0
    beside = ~ndimage.binary_dilation(mask, iterations=2)
    array = patch.image.array
    middle = patch.image.grid.world([side // 2 for side in array.shape])
    known = dict(patch.attributes)
    if not {*CHARACTERISTICS} <= {*known}:
        known = characteristics(known)
    return {
        "name": patch.name,
        "patient_id": patch.patient_id,
        "diameter_mm": patch.attributes["diameter_mm"],
        "surroundings": float(array[beside].mean()) if beside.any() else float(array.mean()),
        "x_mm": middle[0],
        "y_mm": middle[1],
        "z_mm": middle[2] if len(middle) == 3 else np.nan,
        "subtype": subtype_name(patch.subtype),
        **{name: known[name] for name in ATTRIBUTES if name in known},
    }
