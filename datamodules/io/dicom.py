"""CT series as DICOM files: which belong together, in which order, and their voxels in HU."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.hounsfield import to_int16
from datamodules.identifiers import identifier
from datamodules.io.volumes import Grid, Volume, read_grid, read_volume

if TYPE_CHECKING:
    import pydicom

TAGS = (
    *("SOPInstanceUID", "SeriesInstanceUID", "PatientID", "Modality", "Rows", "Columns"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
)
"""What is read of a file before its voxels are wanted."""

SAME_MM = 1e-2
"""Slices nearer to each other than this lie at the same place."""


class Slice(NamedTuple):
    """Header of one file.

    Attributes:
        path: the file.
        sop_uid: SOP instance UID.
        series_uid: series instance UID.
        patient_id: as in the file.
        modality: `CT`, `DX`, `SEG` ...
        shape: rows and columns.
        position_mm: world position (LPS) of the first pixel; empty where there is none.
        orientation: direction cosines of a row and of a column; empty where there are none.
        spacing_mm: distance between rows and between columns; empty where there is none.
    """

    path: Path
    sop_uid: str
    series_uid: str
    patient_id: str
    modality: str
    shape: tuple[int, int]
    position_mm: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, ...]


def read_header(path: Path) -> Slice | None:
    """Read a file's header; None if it is not DICOM or holds no image."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
    except (InvalidDicomError, OSError):
        return None
    if "SeriesInstanceUID" not in data or "SOPInstanceUID" not in data:
        return None

    def numbers(name: str) -> tuple[float, ...]:
        value = data.get(name)
        return () if value is None else tuple(float(number) for number in value)

    return Slice(
        path,
        str(data.SOPInstanceUID),
        str(data.SeriesInstanceUID),
        identifier(str(data.get("PatientID") or "")),
        str(data.get("Modality") or ""),
        (int(data.get("Rows") or 0), int(data.get("Columns") or 0)),
        numbers("ImagePositionPatient"),
        numbers("ImageOrientationPatient"),
        numbers("PixelSpacing"),
    )


@dataclass(frozen=True)
class Series:
    """The slices of one CT series, each place once, in order along their normal.

    Attributes:
        slices: at least two.
        runs: where the slices follow each other without a gap: ranges of numbers of slices.
        step_mm: distance between neighbouring slices.
        notes: what was found and mended.
    """

    slices: tuple[Slice, ...]
    runs: tuple[range, ...]
    step_mm: float
    notes: tuple[str, ...]

    @property
    def uid(self) -> str:
        """Series instance UID."""
        return self.slices[0].series_uid

    @property
    def patient_id(self) -> str:
        """Patient's identifier."""
        return self.slices[0].patient_id

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {one.sop_uid: number for number, one in enumerate(self.slices)}

    def slice_of(self, sop_uid: str, z_mm: float) -> int | None:
        """Number of a slice by its UID, or else by its z position; None if it is missing."""
        if sop_uid in self._numbers:
            return self._numbers[sop_uid]
        distances = [abs(one.position_mm[2] - z_mm) for one in self.slices]
        nearest = int(np.argmin(distances))
        return nearest if distances[nearest] < self.step_mm / 2 else None

    def grid(self, run: range) -> Grid:
        """Where the voxels of a run lie."""
        first = self.slices[run[0]]
        row, column = np.reshape(first.orientation, (2, 3))
        normal = np.cross(row, column)
        return Grid(
            (len(run), *first.shape),
            (self.step_mm, *first.spacing_mm),
            first.position_mm,
            np.stack([row, column, normal], axis=1),
        )

    def read(self, run: range) -> Volume:
        """Read the voxels of a run, in HU, int16.

        Raises:
            ValueError: If a file is damaged.
        """
        grid = self.grid(run)
        array = np.empty(grid.shape, np.int16)
        for place, number in enumerate(run):
            array[place] = read_pixels(self.slices[number].path)
        return Volume(array, grid.spacing_mm, grid.origin_mm, grid.direction)


def read_pixels(path: Path) -> NDArray[np.int16]:
    """Rows and columns of one file, slope and intercept applied, rounded to int16.

    Raises:
        ValueError: If the file is damaged or has more than one slice.
    """
    import SimpleITK as sitk

    try:
        values = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO"))
    except RuntimeError as error:
        message = f"{path} is damaged or cut short: copy it again"
        raise ValueError(message) from error
    if values.ndim != 3 or len(values) != 1:
        message = f"{path} holds voxels of shape {values.shape}: expected one slice of one channel"
        raise ValueError(message)
    return to_int16(values[0])


def order(slices: Iterable[Slice]) -> Series:
    """Put the slices of one series in order along their normal.

    Slices of another orientation or size (a localizer) are left out; of two at the same place with
    the same voxels one is.

    Raises:
        ValueError: If there are fewer than two slices with a position, two at the same place with
            different voxels, or the gantry was tilted.
    """
    notes = []
    placed = [one for one in slices if len(one.position_mm) == 3 and len(one.spacing_mm) == 2]
    stacks: dict[tuple[object, ...], list[Slice]] = {}
    for one in placed:
        key = (one.shape, *np.round((*one.orientation, *one.spacing_mm), 3))
        stacks.setdefault(key, []).append(one)
    stack = max(stacks.values(), key=len, default=[])
    if len(stack) < 2 or len(stack[0].orientation) != 6:
        message = f"has {len(stack)} slice(s) with a position: expected a stack of them"
        raise ValueError(message)
    if len(placed) > len(stack):
        notes.append(f"{len(placed) - len(stack)} slice(s) of another orientation or size left out")
    normal = np.cross(stack[0].orientation[:3], stack[0].orientation[3:])
    heights = {one.path: float(normal @ one.position_mm) for one in stack}
    stack.sort(key=lambda one: (heights[one.path], one.path))
    kept = stack[:1]
    for one in stack[1:]:
        if heights[one.path] - heights[kept[-1].path] > SAME_MM:
            kept.append(one)
            continue
        twice = kept[-1]
        if (read_pixels(one.path) != read_pixels(twice.path)).any():
            message = (
                f"has two slices with different voxels at {one.position_mm} mm "
                f"({twice.path.name} and {one.path.name}): take one of them away"
            )
            raise ValueError(message)
    check_upright(kept, normal)
    if len(kept) < len(stack):
        notes.append(f"{len(stack) - len(kept)} duplicate slice(s) left out")
    steps = np.diff([heights[one.path] for one in kept])
    if not len(steps):
        message = "has all its slices at one place: expected a stack of them"
        raise ValueError(message)
    step = float(np.median(steps))
    gaps = [number for number, one in enumerate(steps) if abs(one - step) > 0.1 * step]
    if gaps:
        places = ", ".join(f"{kept[number].position_mm[2]:g}" for number in gaps[:5])
        notes.append(f"{len(gaps)} gap(s) between slices, above z = {places} mm")
    ends = [0, *[number + 1 for number in gaps], len(kept)]
    runs = tuple(range(low, high) for low, high in itertools.pairwise(ends))
    return Series(tuple(kept), runs, step, tuple(notes))


def check_upright(slices: Sequence[Slice], normal: NDArray[np.float64]) -> None:
    """Check that slices lie above each other, not shifted as those of a tilted gantry are.

    Raises:
        ValueError: If the last is shifted by more than a pixel against the first.
    """
    along = np.subtract(slices[-1].position_mm, slices[0].position_mm)
    shift = float(np.linalg.norm(along - (normal @ along) * normal))
    if shift > min(slices[0].spacing_mm):
        angle = np.degrees(np.arctan2(shift, abs(normal @ along)))
        message = (
            f"has slices that are shifted against each other by {shift:.1f} mm in all, a gantry "
            f"tilt of {angle:.1f} degrees: correct it first, for instance with dcm2niix"
        )
        raise ValueError(message)


def by_series(slices: Sequence[Slice]) -> dict[str, list[Slice]]:
    """The files of each series, by its UID."""
    series: dict[str, list[Slice]] = {}
    for one in slices:
        series.setdefault(one.series_uid, []).append(one)
    return series


def read_study(path: Path) -> Volume:
    """Read a CT volume: an image file, or a folder with one DICOM series.

    Raises:
        FileNotFoundError: If there is no such file, or no DICOM image in the folder.
        ValueError: If a file is damaged, or the folder holds several series or one with gaps.
    """
    if not path.is_dir():
        return read_volume(path)
    series = only_series(path)
    return series.read(series.runs[0])


def read_study_grid(path: Path) -> Grid:
    """Read only the headers of what `read_study` reads; raises the same."""
    if not path.is_dir():
        return read_grid(path)
    series = only_series(path)
    return series.grid(series.runs[0])


def only_series(folder: Path) -> Series:
    """The one CT series, without gaps, in a folder.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If there are several, or it has gaps.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    found = by_series([one for file in files if (one := read_header(file)) if one.modality == "CT"])
    if not found:
        message = f"{folder} holds no CT as DICOM: give the folder of a series, or an image file"
        raise FileNotFoundError(message)
    if len(found) > 1:
        message = f"{folder} holds {len(found)} CT series: give the folder of one of them"
        raise ValueError(message)
    try:
        series = order(next(iter(found.values())))
    except ValueError as error:
        message = f"{folder} {error}"
        raise ValueError(message) from error
    if len(series.runs) > 1:
        message = f"{folder} has {series.notes[-1]}: find the missing slices, or take the rest away"
        raise ValueError(message)
    return series


def read_dicom_radiograph(path: Path) -> Volume:
    """Read a radiograph (CR, DX), bone bright, in its stored units.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, has several frames or signed values, or says no spacing.
    """
    import pydicom
    from pydicom.errors import InvalidDicomError

    if not path.is_file():
        message = f"{path} does not exist: check the table's path"
        raise FileNotFoundError(message)
    try:
        data = pydicom.dcmread(path)
        pixels = data.pixel_array
    # besides no DICOM: a decoder that fails, no pixels at all, no decoder
    except (InvalidDicomError, RuntimeError, AttributeError, NotImplementedError) as error:
        message = f"{path} cannot be read as a DICOM image ({error}): copy or decompress it"
        raise ValueError(message) from error
    spacing = data.get("PixelSpacing") or data.get("ImagerPixelSpacing")
    if pixels.ndim != 2 or data.PixelRepresentation or spacing is None:
        message = (
            f"{path} has pixels of shape {pixels.shape}, {'signed' * data.PixelRepresentation}"
            f" and the spacing {spacing}: expected one frame of unsigned values with a spacing"
        )
        raise ValueError(message)
    bright = turned_round(pixels, data)
    along = (float(spacing[0]), float(spacing[1]))
    return Volume(bright.astype(np.uint16), along, (0.0, 0.0), np.eye(2))


def turned_round(pixels: NDArray[Any], data: pydicom.Dataset) -> NDArray[Any]:
    """Stored values to bone bright, or back: MONOCHROME1 has them the other way round."""
    if data.PhotometricInterpretation != "MONOCHROME1":
        return pixels
    turned: NDArray[Any] = (2 ** int(data.BitsStored) - 1) - pixels
    return turned
