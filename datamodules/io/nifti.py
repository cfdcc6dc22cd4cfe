"""NIfTI files: whether they are whole, and whether all that they say about their place agrees.

ITK, which reads them, fills what is missing with zeros, does not check gzip's sums, and takes one
of two forms of the place of the voxels without a look at the other.
"""

import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BufferedIOBase
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import nibabel as nib

    from datamodules.io.volumes import Grid

GZIP = b"\x1f\x8b"
"""How a compressed file begins, whatever it is called."""

MM = {1: 1e3, 3: 1e-3}
"""Millimetres in the unit of a header that is in metres or micrometres."""

MAGIC = (b"n+1", b"ni1")
"""What headers of NIfTI have, and those of ANALYZE, which say no place, do not."""

PLACE_VOXELS = 0.1
"""How far apart, in voxels, two forms may put the first voxel."""

TURN = 2e-3
"""How far apart two forms' steps from voxel to voxel may be, in voxels: quaternions in float32 turn
by up to 0.04 degrees."""


def is_gzip(path: Path) -> bool:
    """Tell whether a file is compressed with gzip, by its content."""
    with path.open("rb") as file:
        return file.read(2) == GZIP


def check_whole(path: Path) -> None:
    """Check that a NIfTI file has all the bytes that its header asks for, as they were written.

    Raises:
        ValueError: If it is cut short, or its compressed bytes were changed.
    """
    voxels = _of_pair(path, "img")
    state = voxels.stat()
    _check_whole(path, voxels, state.st_size, state.st_mtime_ns)


def check_place(path: Path, grid: "Grid") -> None:
    """Check that each declared form of the voxels' place is the grid that ITK made of it.

    Args:
        path: of the file.
        grid: as ITK read it.

    Raises:
        ValueError: If sform and qform are declared (their codes are not 0) and disagree, the one
            that is declared is sheared, or the header is none of NIfTI.
    """
    header = read_header(path)
    if header["magic"].item() not in MAGIC:
        if _of_pair(path, "hdr") == _of_pair(path, "img"):  # ANALYZE is two files
            message = (
                f"{path} has no header of NIfTI: it is damaged or of another format; copy or "
                "make it again"
            )
            raise ValueError(message)
        return
    sform, qform = header.get_sform(coded=True), header.get_qform(coded=True)
    # units of length are the three lowest bits; the upper ones are of time
    scale = MM.get(int(header["xyzt_units"]) & 7, 1.0)
    forms = {
        f"{name} (code {code})": _to_lps(affine, scale)
        for name, (affine, code) in {"sform": sform, "qform": qform}.items()
        if affine is not None
    }
    if all(_agrees(affine, grid) for affine in forms.values()):
        return
    last = np.array([*(n - 1 for n in grid.shape[::-1]), *[0] * (3 - len(grid.shape))])
    told = " and ".join(
        f"{name} puts its first voxel at {_point(affine[:3, 3])} mm and its last at "
        f"{_point(affine[:3, :3] @ last + affine[:3, 3])} mm"
        for name, affine in forms.items()
    )
    if len(forms) == 1:
        first = _point(grid.origin_mm)
        message = (
            f"{path}: {told}, which is no grid of perpendicular axes with its own spacing (nearest "
            f"is one at {first} mm): resample it, or declare the other form"
        )
        raise ValueError(message)
    message = (
        f"{path}: {told} (LPS): find out which is right, and set the code of the other to 0, "
        "unknown"
    )
    raise ValueError(message)


@lru_cache(maxsize=1024)
def _check_whole(path: Path, voxels: Path, size: int, changed_ns: int) -> None:
    """Check a file once, as long as it stays as it is: to unpack it takes a while."""
    del size, changed_ns
    header = read_header(path)
    length = prod(int(n) for n in header["dim"][1 : int(header["dim"][0]) + 1])
    expected = length * int(header["bitpix"]) // 8 + int(header["vox_offset"])
    if _unpacked_bytes(voxels) < expected:
        message = f"{voxels} is cut short (fewer than {expected} bytes): copy or make it again"
        raise ValueError(message)


def read_header(path: Path) -> "nib.Nifti1Header":
    """Read the header of a file alone, unpacked if it is compressed.

    Raises:
        ValueError: If it is cut short or damaged.
    """
    import nibabel as nib

    with _unpacked(_of_pair(path, "hdr")) as stream:
        content = stream.read(nib.Nifti1Header.template_dtype.itemsize)
    return nib.Nifti1Header(content, check=False)


@contextmanager
def _unpacked(path: Path) -> Iterator[BufferedIOBase]:
    """Open a file, unpacked if it is compressed.

    Raises:
        ValueError: If it turns out to be cut short or damaged.
    """
    try:
        with gzip.open(path) if is_gzip(path) else path.open("rb") as stream:
            yield stream
    except EOFError as error:
        message = f"{path} is cut short ({error}): copy or make it again"
        raise ValueError(message) from error
    except (zlib.error, gzip.BadGzipFile) as error:
        message = f"{path} is damaged ({error}): copy or make it again"
        raise ValueError(message) from error


def _unpacked_bytes(path: Path) -> int:
    """Number of bytes of a file once unpacked, in all its members, their sums checked."""
    if not is_gzip(path):
        return path.stat().st_size
    unpacked = 0
    with _unpacked(path) as stream:
        while block := stream.read(2**20):
            unpacked += len(block)
    return unpacked


def _of_pair(path: Path, ending: Literal["hdr", "img"]) -> Path:
    """The one of two files that has the header or the voxels; where there is one file, that."""

    def named(found: re.Match[str]) -> str:
        return ending.upper() if found[0].isupper() else ending

    return path.with_name(re.sub(r"(?<=\.)(hdr|img)(?=(\.gz)?$)", named, path.name, flags=re.I))


def _to_lps(affine: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """NIfTI's world (RAS, in its own unit) to ours (LPS, mm)."""
    return np.diag([-scale, -scale, scale, 1.0]) @ affine


def _agrees(affine: NDArray[np.float64], grid: "Grid") -> bool:
    """Tell whether an affine, indices x, y, z to mm, puts a grid's voxels where it has them."""
    n = len(grid.shape)
    spacing = np.array(grid.spacing_mm[::-1])
    steps = (affine[:n, :n] - grid.direction * spacing) / spacing
    shift = affine[:n, 3] - grid.origin_mm
    return bool(np.abs(steps).max() <= TURN and np.abs(shift).max() <= PLACE_VOXELS * spacing.min())


def _point(point_mm: "NDArray[np.float64] | tuple[float, ...]") -> str:
    return "(" + ", ".join(f"{at:.2f}" for at in point_mm) + ")"
