"""CT whose nodules a table gives as points: LUNA25, tables like NLST's, and what LUNA16 shares."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datamodules.identifiers import check_readings, identifiers
from datamodules.io.paths import ENDINGS, name_of
from datamodules.io.volumes import Grid
from datamodules.tables import check_numbers, empty_cells, raise_together, read_table
from noduleforge.prepare.agreed import Placed, Whose, write_rated
from noduleforge.prepare.cases import Rows, file_facts, stems
from noduleforge.prepare.consensus import Marking, agreement_mask, group_markings
from noduleforge.prepare.outlines import Drawing, rasterize
from noduleforge.prepare.store import Cut, make_store, row, settings_of
from noduleforge.prepare.volumes import own_names, read_ct

WHOSE = ("patient_id", "image")
POSITION = ("x_mm", "y_mm", "z_mm")
KNOWN = (*WHOSE, *POSITION, "diameter_mm")

LUNA25 = {
    "patient_id": "PatientID",
    "image": "SeriesInstanceUID",
    "x_mm": "CoordX",
    "y_mm": "CoordY",
    "z_mm": "CoordZ",
}
"""Our names of the columns of LUNA25's table."""

LUNA25_KEEP = ("NoduleID", "label")
"""What else of it says something of nodules and nothing of people."""

Coordinates = Literal["lps", "ras", "voxels"]

SAME_NODULE_MM = 3.0
"""A point nearer to an outline's centre than this, or than its radius, is of the same nodule."""

SAME_SLICE = 0.25
"""A line may lie so many slices beside one."""


class Point(NamedTuple):
    """One nodule of a table.

    Attributes:
        name: how messages call it.
        position: x, y, z, in the coordinates of the table.
        diameter_mm: None where unknown.
        more: columns that the store keeps.
    """

    name: str
    position: tuple[float, float, float]
    diameter_mm: float | None
    more: dict[str, Any]


def prepare_points(
    table: Path,
    images: Path,
    out: Path,
    columns: dict[str, str] | None = None,
    keep: list[str] | None = None,
    coordinates: Coordinates = "lps",
    balls: bool = False,
    diameter_mm: float | None = None,
    size: int = 64,
    spacing_mm: float = 1.0,
    whole: bool = False,
    workers: int = 2,
) -> None:
    """Make the patch store that LIDCCollection reads from a table of nodules' centres.

    A centre and a diameter are no outline: a nodule's mask is the ball of that diameter, and only
    if it is asked for. Where there are masks, `prepare volumes` takes them.

    Args:
        table: a CSV file, one nodule a row, with the columns `patient_id`, `image` (a name, such as
            a series UID, or a path below `images`), `x_mm`, `y_mm`, `z_mm`, and `diameter_mm` if
            it is known.
        images: folder with the volumes (MetaImage, NIfTI, NRRD, or folders of DICOM series), also
            in folders below, by these names.
        out: folder to write.
        columns: our column names to the table's, where they differ.
        keep: other columns that `nodules.csv` is to have; no other is taken over.
        coordinates: `lps` is the world of DICOM and ITK in mm, `ras` that of NIfTI, `voxels`
            columns, rows and slices from 0.
        balls: make a ball of each nodule.
        diameter_mm: of the balls of nodules whose diameter the table does not say.
        size: voxels along each edge of a patch; fewer where the volume ends.
        spacing_mm: spacing of a patch.
        whole: write whole volumes instead of patches, at their own spacing.
        workers: number of processes.

    Raises:
        FileNotFoundError: If there is no such table or folder.
        FileExistsError: If `out` holds something else.
        ValueError: If no balls are asked for, the table lacks a column or a cell, names a nodule
            twice, or not one nodule could be prepared.
    """
    if not balls:
        message = (
            f"{table} gives centres, which are no outlines: ask with --balls true for balls in "
            "their place, or give masks to `noduleforge prepare volumes`"
        )
        raise ValueError(message)
    if diameter_mm is not None and not 0 < diameter_mm < np.inf:
        message = f"diameter_mm is {diameter_mm}: give a number above 0, or none"
        raise ValueError(message)
    points = read_points(table, columns or {}, keep or [], diameter_mm)
    cut = Cut(size, spacing_mm, whole)
    cases, report = list_scans(
        points, images, out, cut, {}, MadeOf(coordinates, balls=True, agreement=1.0)
    )
    settings = settings_of(cut, coordinates=coordinates, balls=balls)
    make_store(out, settings, cases, report, workers)


def prepare_luna25(
    root: Path,
    out: Path,
    table: Path | None = None,
    balls: bool = False,
    diameter_mm: float | None = None,
    size: int = 64,
    spacing_mm: float = 1.0,
    whole: bool = False,
    workers: int = 2,
) -> None:
    """Make the patch store that LIDCCollection reads from LUNA25.

    LUNA25 says where nodules are and whether they are malignant (`label`), not how large: balls, if
    they are asked for, are all of one diameter. Dates, age and sex are left out.

    Args:
        root: folder with the volumes, named after their series.
        out: folder to write.
        table: LUNA25's table; by default the one CSV file in `root`.
        balls: make a ball of each nodule.
        diameter_mm: of the balls.
        size: voxels along each edge of a patch; fewer where the volume ends.
        spacing_mm: spacing of a patch.
        whole: write whole volumes instead of patches, at their own spacing.
        workers: number of processes.

    Raises:
        FileNotFoundError: If there is no such folder, or not one table in it.
        FileExistsError: If `out` holds something else.
        ValueError: As `prepare_points`.
    """
    prepare_points(
        only_table(root) if table is None else table,
        root,
        out,
        LUNA25,
        list(LUNA25_KEEP),
        "lps",
        balls,
        diameter_mm,
        size,
        spacing_mm,
        whole,
        workers,
    )


def only_table(folder: Path) -> Path:
    """The one CSV file in a folder.

    Raises:
        FileNotFoundError: If there is none, or several.
    """
    found = sorted(folder.glob("*.csv"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        message = f"{folder} should hold one CSV file, and holds {names}: say with --table which"
        raise FileNotFoundError(message)
    return found[0]


def read_points(
    path: Path,
    columns: Mapping[str, str],
    keep: Sequence[str],
    diameter_mm: float | None = None,
    needed: Sequence[str] = (*WHOSE, *POSITION),
) -> pd.DataFrame:
    """Read a table of nodules' centres.

    Args:
        path: a CSV file.
        columns: our names to the table's; what is not named is looked for under our name.
        keep: columns of its own to keep.
        diameter_mm: where the table says none; None for unknown.
        needed: columns that must be filled.

    Returns:
        The rows with our names and the columns to keep.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a name is unknown, a column is missing, a cell is empty or no number, or two
            rows give one place.
    """
    if unknown := [name for name in columns if name not in KNOWN]:
        message = f"columns names {', '.join(unknown)}, which is unknown: use names out of {KNOWN}"
        raise ValueError(message)
    theirs = {name: columns.get(name, name) for name in KNOWN}
    table = read_table(
        path,
        {theirs[name]: str for name in WHOSE},
        [*(theirs[name] for name in needed), *keep, *columns.values()],
    )
    found = [name for name in KNOWN if theirs[name] in table]
    own = own_names(table[[name for name in keep if name not in {theirs[n] for n in found}]])
    table = table[[theirs[name] for name in found]].set_axis(found, axis=1)
    for name in {*WHOSE} & {*table.columns}:
        table[name] = identifiers(table[name])
    raise_together(empty_cells(table, needed, path))
    check_numbers(table, POSITION, path)
    if "diameter_mm" not in table:
        table["diameter_mm"] = np.nan
    check_numbers(table, ["diameter_mm"], path, finite=False)
    table["diameter_mm"] = table["diameter_mm"].astype(float).fillna(diameter_mm or np.nan)
    places = ["image", *POSITION]
    raise_together(
        [
            f"{path}: diameter_mm is {table['diameter_mm'].iloc[at]} in line {at + 2}: give a "
            "number above 0"
            for at in np.flatnonzero(~(table["diameter_mm"].isna() | (table["diameter_mm"] > 0)))
        ]
        + [
            f"{path}: line {at + 2} gives the same place in {table['image'].iloc[at]} as a line "
            "before: remove one"
            for at in np.flatnonzero(table.duplicated(places))
        ]
    )
    return pd.concat([table, own], axis=1)


@dataclass(frozen=True)
class MadeOf:
    """How masks are made.

    Attributes:
        coordinates: of the points.
        balls: whether a nodule without an outline becomes a ball; otherwise it is left out.
        agreement: share of the readers that must have a voxel.
    """

    coordinates: Coordinates
    balls: bool
    agreement: float


def list_scans(
    table: pd.DataFrame,
    images: Path,
    out: Path,
    cut: Cut,
    drawings: Mapping[str, Sequence[Drawing]],
    made_of: MadeOf,
) -> tuple[list["PointedScan"], list[dict[str, str]]]:
    """The scans that a table of points names, and a report of those that are not there.

    Args:
        table: of `read_points`.
        images: folder with the volumes.
        out: the store's folder.
        cut: what to write.
        drawings: by image, the readers' outlines.
        made_of: how masks are made.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If an image is of two patients or there twice, or patients read the same.
    """
    check_readings(table["patient_id"], "the table of nodules", "patient_id")
    files = find_images(images, {*table["image"]})
    report, patients, points = [], {}, {}
    for image, rows in table.groupby("image", sort=True):
        name = str(image)
        owners = sorted(set(rows["patient_id"]))
        if len(owners) > 1:
            message = f"image {name} is of patients {', '.join(owners)}: give each image to one"
            raise ValueError(message)
        if name not in files:
            what = f"is not in {images.name}: {len(rows)} nodule(s) left out"
            report.append(row("image", name, what))
            continue
        patients[name] = owners[0]
        points[name] = tuple(_points(rows))
    cases = [
        PointedScan(
            out, stem, files[name], name, patients[name], points[name],
            tuple(drawings.get(name, ())), cut, made_of,
        )
        for name, stem in zip(patients, stems(patients), strict=True)
    ]  # fmt: skip
    return cases, report


def _points(rows: pd.DataFrame) -> Iterable[Point]:
    for number, given in zip(rows.index, rows.to_dict("records"), strict=True):
        x, y, z = (float(given[axis]) for axis in POSITION)
        diameter = None if pd.isna(given["diameter_mm"]) else float(given["diameter_mm"])
        more = {str(n): None if pd.isna(v) else v for n, v in given.items() if n not in KNOWN}
        name = f"of line {int(str(number)) + 2} at {x:g}, {y:g}, {z:g}"
        yield Point(name, (x, y, z), diameter, more)


def find_images(folder: Path, wanted: set[str]) -> dict[str, Path]:
    """Where the images are that have these names, or lie under these paths.

    Args:
        folder: to look in, also in folders below.
        wanted: paths below `folder`, or names without an ending.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If two have one name.
    """
    if not folder.is_dir():
        message = f"{folder} is no folder: give the one with the images"
        raise FileNotFoundError(message)
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if not (path.is_dir() or path.name.lower().endswith(ENDINGS)):
            continue
        for name in {name_of(path), path.relative_to(folder).as_posix()} & wanted:
            if (before := found.setdefault(name, path)) != path:
                message = f"{before} and {path} are both {name}: keep one"
                raise ValueError(message)
    return found


@dataclass(frozen=True)
class PointedScan:
    """One volume, its points and its readers' outlines, to be prepared in a process of its own."""

    out: Path
    stem: str
    path: Path
    name: str
    patient_id: str
    points: tuple[Point, ...]
    drawings: tuple[Drawing, ...]
    cut: Cut
    made_of: MadeOf

    def facts(self) -> object:
        """The points and outlines, and the files of the volume."""
        return [
            self.name,
            self.patient_id,
            self.points,
            [drawing.facts() for drawing in self.drawings],
            file_facts(self.path),
        ]

    def __call__(self) -> Rows:
        """Write the nodules; return rows for the tables and the report."""
        rows = Rows()
        scan = read_ct(self.path, self.name, rows)
        if scan is None:
            return rows
        markings = list(self._markings(scan.grid, rows))
        groups = group_markings(markings, scan.spacing_mm, scan.spacing_mm[0])
        nodules = [[markings[k] for k in members] for members in groups]
        outlined = self._outlined(scan.grid, nodules)
        whose = Whose(self.out, self.stem, self.stem, self.patient_id, self.name)
        for number, point in enumerate(self.points):
            told = f"{self.name} {point.name}"
            index = self._index(scan.grid, point)
            if not inside(scan.grid, index):
                rows.report.append(row("nodule", told, "lies outside its image"))
                continue
            if number in outlined:
                readers, source = nodules[outlined[number]], "readers"
                placed = agreement_mask(readers, self.made_of.agreement)
            elif fault := self._without_outline(point):
                rows.report.append(row("nodule", told, fault))
                continue
            else:
                readers, source = [], "ball"
                placed = ball(scan.grid, index, point.diameter_mm or 0)
                rows.report.append(row("nodule", told, "has no outline: its mask is a ball"))
            given = {} if point.diameter_mm is None else {"given_diameter_mm": point.diameter_mm}
            more = {"outline": source, **given, **point.more}
            write_rated(whose, told, scan, placed, readers, self.cut, rows, more)
        return rows

    def _without_outline(self, point: Point) -> str | None:
        """Why a nodule that nobody outlined is left out, if it is."""
        if not self.made_of.balls:
            return "has no outline, and balls are not asked for (--balls true)"
        if point.diameter_mm is None:
            return "has no diameter for its ball (--diameter_mm)"
        return None

    def _index(self, grid: Grid, point: Point) -> NDArray[np.float64]:
        """Where a point lies, in voxels z, y, x."""
        x, y, z = point.position
        if self.made_of.coordinates == "voxels":
            return np.array([z, y, x])
        sign = -1 if self.made_of.coordinates == "ras" else 1
        return np.array(grid.index((sign * x, sign * y, z)))

    def _markings(self, grid: Grid, rows: Rows) -> Iterable[Marking]:
        """The outlines on the volume's grid; their pixels are the volume's columns and rows."""
        x, y, _ = grid.origin_mm
        for drawing in self.drawings:
            name = f"{self.patient_id} {drawing.name}"
            at = np.array([grid.index((x, y, line.z_mm))[0] for line in drawing.contours])
            slices = np.rint(at).astype(int)
            off = (np.abs(at - slices) > SAME_SLICE) | (slices < 0) | (slices >= grid.shape[0])
            if off.any():
                what = f"{int(off.sum())} of its slices are missing from the image"
                rows.report.append(row("outline", name, what))
                continue
            try:
                mask, start = rasterize(drawing.contours, slices.tolist())
            except ValueError as error:
                rows.report.append(row("outline", name, str(error)))
                continue
            if mask.any():
                yield Marking(mask, start, drawing.reader, drawing.ratings, drawing.name)
            else:
                rows.report.append(row("outline", name, "has no voxel inside its lines"))

    def _outlined(self, grid: Grid, nodules: Sequence[Sequence[Marking]]) -> dict[int, int]:
        """Which points are of which outlined nodules, the nearest pairs first, each once."""
        centres = [
            np.mean([marking.voxels.mean(axis=0) for marking in nodule], axis=0)
            for nodule in nodules
        ]
        near = []
        for number, point in enumerate(self.points):
            index = self._index(grid, point)
            reach = max((point.diameter_mm or 0) / 2, SAME_NODULE_MM)
            for k, centre in enumerate(centres):
                distance = float(np.linalg.norm((centre - index) * grid.spacing_mm))
                if distance <= reach:
                    near.append((distance, number, k))
        pairs: dict[int, int] = {}
        for _, number, k in sorted(near):
            if number not in pairs and k not in pairs.values():
                pairs[number] = k
        return pairs


def inside(grid: Grid, index: NDArray[np.float64]) -> bool:
    """Whether a place in voxels z, y, x lies in an image."""
    whole = np.rint(index)
    return bool((whole >= 0).all() and (whole < grid.shape).all())


def ball(grid: Grid, index: NDArray[np.float64], diameter_mm: float) -> Placed:
    """The voxels whose middles lie in a ball; at least the one that holds its centre.

    Args:
        grid: of the image.
        index: the centre in voxels z, y, x.
        diameter_mm: of the ball.
    """
    reach = np.ceil(diameter_mm / 2 / np.array(grid.spacing_mm)).astype(int) + 1
    start = np.rint(index).astype(int) - reach
    offsets = np.indices((2 * reach + 1).tolist()).reshape(3, -1).T + start - index
    distance = np.linalg.norm(offsets * grid.spacing_mm, axis=1)
    mask = (distance <= diameter_mm / 2).reshape(2 * reach + 1)
    mask[tuple(reach)] = True
    z, y, x = start.tolist()
    return mask, (z, y, x)
