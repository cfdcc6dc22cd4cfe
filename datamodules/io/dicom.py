"""CT series as DICOM files: which belong together, in which order, and their voxels in HU."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datamodules.hounsfield import to_int16
from datamodules.io.limits import check_size
from datamodules.io.slices import Slice, read_slices
from datamodules.io.stacks import SAME_MM, geometry, height_mm, name_stacks, tell_apart
from datamodules.io.volumes import Grid, Volume, read_grid, read_volume

if TYPE_CHECKING:
    import pydicom

logger = logging.getLogger(__name__)


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
        # frames share the UID of their file
        return {one.sop_uid: n for n, one in enumerate(self.slices) if one.frame is None}

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
        for place, pixels in enumerate(read_pixels(self.slices[run.start : run.stop])):
            array[place] = pixels
        return Volume(array, grid.spacing_mm, grid.origin_mm, grid.direction)


def read_pixels(slices: Iterable[Slice]) -> Iterator[NDArray[np.int16]]:
    """Rows and columns of each slice, slope and intercept applied, rounded to int16.

    Raises:
        ValueError: If a file is damaged, or has several slices and does not say where they lie.
    """
    for path, group in itertools.groupby(slices, lambda one: one.path):
        members = list(group)
        frames = [one.frame for one in members if one.frame is not None]
        if not frames:
            for _ in members:
                yield to_int16(_read_file(path))
            continue
        for one, stored in zip(members, _read_frames(path, frames), strict=True):
            slope, intercept = one.rescale
            yield to_int16(stored * slope + intercept)


def _read_file(path: Path) -> NDArray[Any]:
    """Values of a file with one slice, slope and intercept applied."""
    import SimpleITK as sitk

    try:
        values = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO"))
    except RuntimeError as error:
        message = f"{path} is damaged or cut short: copy it again"
        raise ValueError(message) from error
    if values.ndim != 3 or len(values) != 1:
        message = f"{path} holds voxels of shape {values.shape}: expected one slice of one channel"
        raise ValueError(message)
    one: NDArray[Any] = values[0]
    return one


def _read_frames(path: Path, frames: Sequence[int]) -> Iterator[NDArray[Any]]:
    """Stored values of some frames of a file; ITK knows one slope and intercept for all."""
    from pydicom.pixels.utils import iter_pixels

    try:
        yield from iter_pixels(path, indices=list(frames))
    # a decoder that fails, no pixels at all, no decoder, too few of them
    except (RuntimeError, AttributeError, NotImplementedError, ValueError) as error:
        message = f"{path} is damaged or cannot be decoded ({error}): copy or decompress it"
        raise ValueError(message) from error


def order(slices: Iterable[Slice], chosen: Container[str] = ()) -> Series:
    """Put the slices of the one stack in a series in order along their normal.

    Localizers are left out, as are single slices of another orientation or size; of two at the same
    place with the same voxels one is.

    Args:
        slices: of one series.
        chosen: SOP instance UIDs, of which one is in the stack that is meant, if there are several.

    Raises:
        ValueError: If a header is faulty, slices are of several patients, there are several stacks
            of which none is chosen, fewer than two slices with a position, two at the same place
            with different voxels, or the gantry was tilted.
    """
    stack, notes = choose(slices, chosen)
    normal = np.cross(stack[0].orientation[:3], stack[0].orientation[3:])
    stack = sorted(stack, key=lambda one: (height_mm(one), one.path, one.frame or 0))
    kept = stack[:1]
    for one in stack[1:]:
        if height_mm(one) - height_mm(kept[-1]) > SAME_MM:
            kept.append(one)
            continue
        twice = kept[-1]
        first, second = read_pixels([twice, one])
        if (first != second).any():
            message = (
                f"has two slices with different voxels at {one.position_mm} mm "
                f"({twice.path.name} and {one.path.name}): take one of them away"
            )
            raise ValueError(message)
    check_upright(kept, normal)
    if len(kept) < len(stack):
        notes.append(f"{len(stack) - len(kept)} duplicate slice(s) left out")
    steps = np.diff([height_mm(one) for one in kept])
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


def choose(slices: Iterable[Slice], chosen: Container[str]) -> tuple[list[Slice], list[str]]:
    """The one stack of a series, and notes about what is left out; see `order`."""
    given = list(slices)
    images = [one for one in given if not one.localizer]
    faulty = [one for one in images if one.fault]
    if faulty:
        message = (
            f"has {len(faulty)} file(s) with a faulty header, the first of them "
            f"{faulty[0].path}, whose {faulty[0].fault}: correct it"
        )
        raise ValueError(message)
    patients = sorted({one.patient_id for one in images})
    if len(patients) > 1:
        message = f"has slices of {len(patients)} patients: give each a series of their own"
        raise ValueError(message)
    placed = [one for one in images if one.position_mm and one.orientation and one.spacing_mm]
    for one in placed:
        check_size((len(placed), *one.shape), one.path)
    stacks = tell_apart(placed)
    if not stacks or len(stacks[0]) < 2:
        message = (
            f"has {len(stacks[0]) if stacks else 0} slice(s) with a position: "
            "expected a stack of them"
        )
        raise ValueError(message)
    notes = []
    if len(given) > len(placed):
        notes.append(f"{len(given) - len(placed)} localizer(s) or pictures left out")
    meant = [stack for stack in stacks if any(one.sop_uid in chosen for one in stack)]
    own = geometry(stacks[0][0])
    wanted = meant or [s for s in stacks if len(s) > 1 or geometry(s[0]) == own]
    if len(wanted) > 1:
        message = (
            f"holds {len(wanted)} stacks, {name_stacks(wanted)}: "
            "name a file of one of them, or take the others away"
        )
        raise ValueError(message)
    left = [stack for stack in stacks if stack is not wanted[0]]
    if any(len(stack) > 1 for stack in left):
        notes.append(f"the chosen one of {len(stacks)} stacks: {name_stacks([*wanted, *left])}")
    elif left:
        notes.append(f"{len(left)} slice(s) of another orientation or size left out")
    acquisitions = {one.acquisition for one in wanted[0]}
    if len(acquisitions) > 1:
        notes.append(f"{len(acquisitions)} acquisitions that follow each other are one stack")
    return wanted[0], notes


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


def is_series(path: Path) -> bool:
    """Tell whether a path is read as DICOM CT: a folder, or a file of a series.

    Raises:
        ValueError: If it is damaged DICOM.
    """
    return path.is_dir() or (path.is_file() and any(one.modality == "CT" for one in _slices(path)))


def study_files(path: Path) -> list[Path]:
    """The files that a study may be in: all in a folder or beside a file of a series, or itself.

    Raises:
        ValueError: If it is damaged DICOM.
    """
    if not is_series(path):
        return [path]
    files = sorted(path.rglob("*") if path.is_dir() else path.parent.iterdir())
    # what begins with a dot is what macOS and unfinished copies leave behind
    return [file for file in files if file.is_file() and not file.name.startswith(".")]


def read_study(path: Path) -> Volume:
    """Read a CT volume: an image file, a folder with one DICOM series, or a file of a series.

    Raises:
        FileNotFoundError: If there is no such file, or no DICOM image in the folder.
        ValueError: If a file is damaged, or there are several series or stacks, or one with gaps.
    """
    if not is_series(path):
        return read_volume(path)
    series = only_series(path)
    return series.read(series.runs[0])


def read_study_grid(path: Path) -> Grid:
    """Read only the headers of what `read_study` reads; raises the same."""
    if not is_series(path):
        return read_grid(path)
    series = only_series(path)
    return series.grid(series.runs[0])


def only_series(path: Path) -> Series:
    """The one stack, without gaps, in a folder, or the one that a file belongs to.

    Args:
        path: a folder, searched with those below; or a file, whose series is looked for beside it.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If there are several, a file is damaged, or it has gaps.
    """
    meant = _slices(path) if path.is_file() else []
    slices = [one for file in study_files(path) for one in _slices(file)]
    found = by_series([one for one in slices if one.modality == "CT"])
    if meant:
        found = {meant[0].series_uid: found[meant[0].series_uid]}
    if not found:
        message = f"{path} holds no CT as DICOM: give the folder of a series, or an image file"
        raise FileNotFoundError(message)
    if len(found) > 1:
        message = (
            f"{path} holds {len(found)} CT series, {name_stacks([*found.values()])}: "
            "give the folder of one of them, or one of its files"
        )
        raise ValueError(message)
    try:
        series = order(next(iter(found.values())), {one.sop_uid for one in meant})
    except ValueError as error:
        message = f"{path} {error}"
        raise ValueError(message) from error
    if len(series.runs) > 1:
        message = f"{path} has {series.notes[-1]}: find the missing slices, or take the rest away"
        raise ValueError(message)
    for note in series.notes:
        _say_once(path, note)
    return series


def _slices(path: Path) -> list[Slice]:
    """Slices of a file; an error names it."""
    try:
        return read_slices(path)
    except ValueError as error:
        message = f"{path} {error}"
        raise ValueError(message) from error


@cache
def _say_once(path: Path, note: str) -> None:
    """Log what was left out of a study that is read again and again."""
    logger.warning("%s: %s", path, note)


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
    except InvalidDicomError as error:
        message = f"{path} cannot be read as a DICOM image ({error}): copy it again"
        raise ValueError(message) from error
    check_size([int(data.get(name) or 1) for name in ("NumberOfFrames", "Rows", "Columns")], path)
    try:
        pixels = data.pixel_array
    # too few bytes, a decoder that fails, no pixels at all, no decoder
    except (ValueError, RuntimeError, AttributeError, NotImplementedError) as error:
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
