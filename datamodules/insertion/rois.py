"""The region of a study around a nodule that is asked for, and the nodule's shape in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.batch import Roi
from datamodules.insertion.rows import histogram_of
from datamodules.io.masks import read_mask
from datamodules.io.volumes import Volume, resample, resample_mask


@dataclass(frozen=True)
class Region:
    """A request that can be fulfilled: what the model sees of the study.

    Attributes:
        row: the request as its table has it, with `name`, `study` and `index`.
        image: the ROI, in HU or a radiograph's units.
        mask: on the ROI's grid, uint8, 1 inside the nodule that is asked for.
        histogram: the HU histogram that is asked for, if any.
        erased: on the ROI's grid, uint8, 1 in a nodule that is to be erased first, if any.
    """

    row: dict[str, Any]
    image: Volume
    mask: NDArray[np.uint8]
    histogram: tuple[float, ...]
    erased: NDArray[np.uint8] | None = None


def cut(
    study: Volume,
    row: dict[str, Any],
    root: Path,
    roi: Roi,
    margin: int,
    fill: float,
) -> Region:
    """Cut the ROI of one request.

    Args:
        study: the whole study.
        row: the request.
        root: folder that the request's files are relative to.
        roi: the region that the model sees.
        margin: voxels around the nodule that must fit into the ROI.
        fill: what lies outside the study.

    Raises:
        FileNotFoundError: If the mask is missing.
        ValueError: If the request cannot be fulfilled; says why.
    """
    rank = study.array.ndim
    size, spacing_mm = roi.shape(rank), roi.spacing_mm
    shape = None
    if isinstance(row.get("mask"), str):
        shape = read_mask(root / row["mask"])
        if shape.array.ndim != rank or not shape.array.any():
            message = f"{row['mask']} is empty or not {rank}D: give a mask with the nodule in it"
            raise ValueError(message)
    point = position(study, row, shape)
    index = study.grid.index(point)
    if any(not -0.5 <= i <= n - 0.5 for i, n in zip(index, study.array.shape, strict=True)):
        message = (
            f"its position {np.round(point, 1).tolist()} mm lies outside the study: give another"
        )
        raise ValueError(message)
    # the voxel of the study that holds the position, so that equal spacing copies values
    center = study.grid.world([float(np.floor(i + 0.5)) for i in index])
    image = resample(study, center, size, (spacing_mm,) * rank, fill=fill)
    if shape is None:
        mask = ball(row, size, spacing_mm)
    elif _has_position(row, rank):
        mask = recentred(shape, size, spacing_mm)
    else:  # where it lies, voxel by voxel
        mask = resample_mask(shape, center, size, (spacing_mm,) * rank).array
    erased = None
    if isinstance(row.get("erase"), str):
        there = read_mask(root / row["erase"])
        if not there.grid.matches(study.grid):
            message = f"{row['erase']} lies on another grid than the study: resample it"
            raise ValueError(message)
        erased = resample_mask(there, center, size, (spacing_mm,) * rank).array
    reach = np.argwhere(mask if erased is None else mask | erased)
    if reach.min() < margin or (reach >= np.array(size) - margin).any():
        message = (
            f"the nodule and its margin of {margin * spacing_mm:g} mm do not fit into the ROI of "
            f"{min(size) * spacing_mm:g} mm: ask for a smaller one, or train with a larger ROI"
        )
        raise ValueError(message)
    corners = np.stack([reach.min(axis=0) - margin, reach.max(axis=0) + margin])
    places = np.array([study.grid.index(image.grid.world(corner.tolist())) for corner in corners])
    if (places < -0.5).any() or (places > np.array(study.array.shape) - 0.5).any():
        message = "the nodule and its margin reach beyond the study: give another position"
        raise ValueError(message)
    return Region(row, image, mask, histogram_of(row), erased)


def position(study: Volume, row: dict[str, Any], shape: Volume | None) -> Sequence[float]:
    """World position of a request: millimetres, voxel, or where a mask on the study's grid is."""
    rank = study.array.ndim
    world, voxel = _places(rank)
    point = [float(row.get(name, np.nan)) for name in world]
    index = [float(row.get(name, np.nan)) for name in voxel]
    for names, values in ((world, point), (voxel, index)):
        if np.isfinite(values).any() and not np.isfinite(values).all():
            message = f"has only some of {', '.join(names)}: give all, or none of them"
            raise ValueError(message)
    if np.isfinite(point).all():
        return point
    if np.isfinite(index).all():
        return study.grid.world(index)
    if shape is not None and shape.grid.matches(study.grid):
        return study.grid.world([float(axis.mean()) for axis in np.nonzero(shape.array)])
    message = (
        f"has no position: give {', '.join(world)} or {', '.join(voxel)}, or a mask on the "
        "study's grid"
    )
    raise ValueError(message)


def _places(rank: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Columns of a position in the world, and in the study's voxels."""
    return ("x_mm", "y_mm", "z_mm")[:rank], ("z", "y", "x")[-rank:]


def _has_position(row: dict[str, Any], rank: int) -> bool:
    """Whether a request says where its nodule comes, or leaves it to the mask."""
    return any(np.isfinite(float(row.get(name, np.nan))) for name in sum(_places(rank), ()))


def ball(row: dict[str, Any], shape: tuple[int, ...], spacing_mm: float) -> NDArray[np.uint8]:
    """A ball (in 2D a disc) of the diameter that is asked for, in the ROI's middle."""
    diameter = float(row.get("diameter_mm", np.nan))
    if not 0 < diameter < np.inf:
        message = f"diameter_mm is {diameter}: give a number above 0, or a mask"
        raise ValueError(message)
    axes = np.meshgrid(*[(np.arange(n) - n // 2) * spacing_mm for n in shape], indexing="ij")
    distance = np.sqrt(sum(axis**2 for axis in axes))
    mask: NDArray[np.uint8] = (distance <= diameter / 2).astype(np.uint8)
    return mask


def recentred(shape: Volume, size: tuple[int, ...], spacing_mm: float) -> NDArray[np.uint8]:
    """A mask's nodule on the ROI's grid, its centre in the middle."""
    center = shape.grid.world([float(axis.mean()) for axis in np.nonzero(shape.array)])
    array: NDArray[np.uint8] = resample_mask(shape, center, size, (spacing_mm,) * len(size)).array
    return array


class Places:
    """Where the nodules of one study lie, so that no two are asked for at the same place.

    Boxes are kept by the cells of a coarse lattice that they touch: each is compared with its
    neighbours alone, however many there are.
    """

    def __init__(self, cell_mm: float) -> None:
        """Begin with none.

        Args:
            cell_mm: edge of a cell, about that of the largest box.
        """
        self.cell_mm = cell_mm
        self.taken: list[tuple[str, NDArray[Any], NDArray[Any]]] = []
        self.cells: dict[tuple[int, ...], list[int]] = {}

    def take(self, region: Region) -> None:
        """Take a nodule's place.

        Raises:
            ValueError: If its box meets that of an earlier one; names that.
        """
        low, high = extent(region)
        ends = [np.floor(end / self.cell_mm).astype(int) for end in (low, high)]
        touched = list(product(*map(range, ends[0].tolist(), (ends[1] + 1).tolist())))
        for number in sorted({one for cell in touched for one in self.cells.get(cell, ())}):
            name, lower, higher = self.taken[number]
            if (low <= higher).all() and (lower <= high).all():
                message = f"is at the place of {name}: give another position"
                raise ValueError(message)
        for cell in touched:
            self.cells.setdefault(cell, []).append(len(self.taken))
        self.taken.append((region.row["name"], low, high))


def extent(region: Region) -> tuple[NDArray[Any], NDArray[Any]]:
    """World positions of opposite corners of the box that is changed, lower and higher."""
    reach = np.argwhere(region.mask if region.erased is None else region.mask | region.erased)
    corners = [region.image.grid.world(end(axis=0).tolist()) for end in (reach.min, reach.max)]
    return np.min(corners, axis=0), np.max(corners, axis=0)
