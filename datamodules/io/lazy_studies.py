"""Studies whose voxels are read when they are asked for, so that a whole one is never in memory."""

import gzip
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from datamodules.io.checksums import MARK, check_image, seal
from datamodules.io.dicom import is_series, only_series, read_pixels, read_study
from datamodules.io.nifti import check_whole
from datamodules.io.volumes import Volume, read_grid, write_volume
from datamodules.io.whole_files import written_whole

NIFTI = (".nii.gz", ".nii")
"""Forms of which ITK reads a part without the whole."""

SLICES, VOXELS_FROM = 46, 108
"""Bytes of NIfTI's header where the number of slices and the place of the voxels stand."""

SEALED = re.compile(rb"crc32=[0-9a-f]{8} crc32=[0-9a-f]{8}")

SLAB = 32
"""Slices that are read and written at a time."""

Box = tuple[slice, ...]
Read = Callable[[int, int], NDArray[Any]]
"""Reads the slices from one number up to another."""


class StudyVoxels:
    """The voxels of a study as an array `(z, y, x)`, of which boxes are read and changed.

    What is changed is kept in memory, the rest stays in its files. Boxes are given as slices with
    ends that are not below 0.
    """

    ndim = 3

    def __init__(self, shape: tuple[int, ...], read: Read) -> None:
        """Describe the voxels.

        Args:
            shape: slices, rows and columns.
            read: reads slices.
        """
        self.shape, self.read = shape, read
        self.changes: list[tuple[Box, NDArray[Any]]] = []
        self.dtype = read(0, 1).dtype

    def __len__(self) -> int:
        """Return the number of slices."""
        return self.shape[0]

    def __getitem__(self, box: Box) -> NDArray[Any]:
        """Read a box, with all changes."""
        ends = [axis.indices(n)[:2] for axis, n in zip(box, self.shape, strict=True)]
        low, high = ([end[k] for end in ends] for k in (0, 1))
        found = np.empty([max(b - a, 0) for a, b in ends], self.dtype)
        for first in range(low[0], high[0], SLAB):
            last = min(first + SLAB, high[0])
            found[first - low[0] : last - low[0]] = self.read(first, last)[:, *box[1:]]
        for place, values in self.changes:
            start = [max(a, axis.start) for a, axis in zip(low, place, strict=True)]
            stop = [min(b, axis.stop) for b, axis in zip(high, place, strict=True)]
            if all(a < b for a, b in zip(start, stop, strict=True)):
                here = tuple(slice(a - o, b - o) for a, b, o in zip(start, stop, low, strict=True))
                there = tuple(
                    slice(a - axis.start, b - axis.start)
                    for a, b, axis in zip(start, stop, place, strict=True)
                )
                found[here] = values[there]
        return found

    def __setitem__(self, box: Box, values: NDArray[Any]) -> None:
        """Change a box."""
        self.changes.append((box, values.astype(self.dtype)))

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Read slice by slice."""
        for first in range(0, len(self), SLAB):
            yield from self[first : first + SLAB, :, :]

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        """Read all: an array as large as the study."""
        del copy
        return np.asarray(self[tuple(slice(0, n) for n in self.shape)], dtype)

    def min(self) -> Any:
        """Return the lowest value."""
        return min(part.min() for part in self)

    def max(self) -> Any:
        """Return the highest value."""
        return max(part.max() for part in self)


def open_study(path: Path) -> Volume:
    """Open a CT as `read_study` reads it; DICOM and NIfTI leave their voxels in their files.

    Of other forms, which cannot be read in parts, all voxels are in memory.

    Raises:
        FileNotFoundError: If there is no such file, or no DICOM image in the folder.
        ValueError: If a file is damaged, or there are several series or stacks, or one with gaps.
    """
    if is_series(path):
        series = only_series(path)
        run = series.runs[0]
        grid, slices = series.grid(run), series.slices[run.start : run.stop]

        def read(first: int, last: int) -> NDArray[Any]:
            return np.stack(list(read_pixels(slices[first:last])))
    elif path.name.lower().endswith(NIFTI):
        grid = read_grid(path)
        if len(grid.shape) != StudyVoxels.ndim:
            return read_study(path)
        check_image(path)
        check_whole(path)

        def read(first: int, last: int) -> NDArray[Any]:
            return _read_slices(path, grid.shape, first, last)
    else:
        return read_study(path)
    voxels = cast("NDArray[Any]", StudyVoxels(grid.shape, read))
    return Volume(voxels, grid.spacing_mm, grid.origin_mm, grid.direction)


def _read_slices(path: Path, shape: tuple[int, ...], first: int, last: int) -> NDArray[Any]:
    """Some slices of an image file that ITK reads in parts."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetExtractIndex((0, 0, first))
    reader.SetExtractSize((shape[2], shape[1], last - first))
    try:
        found: NDArray[Any] = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        message = f"{path} is damaged or cut short: copy or make it again"
        raise ValueError(message) from error
    return found


def empty_mask(study: Volume) -> StudyVoxels:
    """A mask on a study's grid with nothing in it, to be changed."""
    rows, columns = study.array.shape[1:]
    return StudyVoxels(study.array.shape, lambda a, b: np.zeros((b - a, rows, columns), np.uint8))


def write_nifti(path: Path, voxels: StudyVoxels, grid: Volume, description: str) -> None:
    """Write what `write_volume` writes, a few slices at a time.

    Args:
        path: where to, a NIfTI file.
        voxels: of at least two slices; their type is kept.
        grid: where they lie.
        description: goes into the header.
    """
    packed = path.name.endswith(".gz")
    with written_whole(path) as temporary:
        # ITK's own header, of two slices
        two = Volume(voxels[0:2, :, :], grid.spacing_mm, grid.origin_mm, grid.direction)
        write_volume(temporary, two, description, keep_type=True)
        content = temporary.read_bytes()
        content = gzip.decompress(content) if packed else content
        (offset,) = struct.unpack_from("<f", content, VOXELS_FROM)
        header = bytearray(content[: int(offset)])
        struct.pack_into("<h", header, SLICES, len(voxels))
        header = bytearray(SEALED.sub(MARK.encode(), header))
        with temporary.open("wb") as file:
            if packed:  # gzip has a checksum of its own
                with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as stream:
                    _write_slices(stream, header, voxels)
            else:
                _write_slices(file, header, voxels)
        if not packed:
            seal(temporary)


def _write_slices(stream: Any, header: bytes | bytearray, voxels: StudyVoxels) -> None:
    stream.write(header)
    for part in voxels:
        stream.write(np.ascontiguousarray(part).tobytes())
