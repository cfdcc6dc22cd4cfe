"""Image files: voxels in physical units with spacing, origin and direction.

Arrays are ordered z, y, x (y, x in 2D); world positions are x, y[, z] in millimetres (LPS), as
SimpleITK has them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from datamodules.io.checksums import MARK, check_image, seal
from datamodules.io.limits import check_size
from datamodules.io.nifti import check_place, check_whole, is_gzip
from datamodules.io.whole_files import written_whole

NIFTI = "NiftiImageIO"

WRITABLE = (".mha", ".nii.gz", ".nii", ".nrrd")
"""Formats that `write_volume` writes; each is one file, so that a write can be atomic."""


@dataclass(frozen=True)
class Grid:
    """Where the voxels of an image lie.

    Attributes:
        shape: voxels along z, y, x (y, x in 2D).
        spacing_mm: distance between voxels, in the order of `shape`.
        origin_mm: world position x, y[, z] of the first voxel.
        direction: `(n, n)` direction cosines; world axes in rows, image axes x, y[, z] in columns.
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    origin_mm: tuple[float, ...]
    direction: NDArray[np.float64]

    def world(self, index: Sequence[float]) -> tuple[float, ...]:
        """Return the world position (x, y[, z], mm) of an array index (z, y, x; may be broken)."""
        steps = np.asarray(index, float) * self.spacing_mm
        point = np.asarray(self.origin_mm) + self.direction @ steps[::-1]
        return tuple(point.tolist())

    def index(self, point_mm: Sequence[float]) -> tuple[float, ...]:
        """Return the broken array index (z, y, x) of a world position (x, y[, z], mm)."""
        offset = np.asarray(point_mm, float) - self.origin_mm
        steps = np.linalg.solve(self.direction, offset)[::-1] / self.spacing_mm
        return tuple(steps.tolist())

    def matches(self, other: "Grid") -> bool:
        """Tell whether two grids are the same up to the precision of file headers."""
        return (
            self.shape == other.shape
            and np.allclose(self.spacing_mm, other.spacing_mm, rtol=1e-4)
            and np.allclose(self.origin_mm, other.origin_mm, rtol=1e-6, atol=1e-3)
            and np.allclose(self.direction, other.direction, atol=1e-4)
        )


@dataclass(frozen=True)
class Volume:
    """An image with its geometry.

    Attributes:
        array: voxels `(z, y, x)` or `(y, x)`.
        spacing_mm: distance between voxels, in the order of `array`'s axes.
        origin_mm: world position x, y[, z] of the first voxel.
        direction: `(n, n)` direction cosines; world axes in rows, image axes x, y[, z] in columns.
    """

    array: NDArray[Any]
    spacing_mm: tuple[float, ...]
    origin_mm: tuple[float, ...]
    direction: NDArray[np.float64]

    @property
    def grid(self) -> Grid:
        """Where the voxels lie."""
        return Grid(self.array.shape, self.spacing_mm, self.origin_mm, self.direction)


def read_grid(path: str | Path) -> Grid:
    """Read only the header of an image file (MetaImage, NIfTI or NRRD); voxels are not checked.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the header cannot be read or describes no 2D or 3D one-channel image, or one
            beyond `datamodules.io.limits`.
    """
    return _open(Path(path))[1]


def read_volume(path: str | Path) -> Volume:
    """Read an image file (MetaImage, NIfTI or NRRD), checked where it carries a checksum.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read, is damaged or cut short, is no 2D or 3D one-channel
            image, or is beyond `datamodules.io.limits`.
    """
    import SimpleITK as sitk

    path = Path(path)
    reader, grid = _open(path)
    check_image(path)
    try:
        array = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        message = f"{path} is damaged or cut short ({_reason(error)}): copy or make it again"
        raise ValueError(message) from error
    if _format(path) == NIFTI:
        check_whole(path)
    return Volume(array, grid.spacing_mm, grid.origin_mm, grid.direction)


def write_volume(
    path: str | Path, volume: Volume, description: str = "", keep_type: bool = False
) -> None:
    """Write an image file whole or not at all, replacing an older one.

    Its folder is made. Booleans and `uint8` are stored as `uint8`, other integers as `int16`,
    floats as `float32`, unless the type is to be kept.

    Args:
        path: where to; its ending, one of `WRITABLE`, says the format.
        volume: what to write.
        description: goes into the header, before the checksum (NIfTI: at most 49 characters, read
            back as `descrip`).
        keep_type: store voxels in whatever type they have.

    Raises:
        ValueError: If the ending is unknown or integers do not fit into `int16`.
    """
    import SimpleITK as sitk

    path = Path(path)
    suffix = next((suffix for suffix in WRITABLE if path.name.endswith(suffix)), None)
    if suffix is None:
        message = f"{path} has no ending that is known: use one of {', '.join(WRITABLE)}"
        raise ValueError(message)
    array = volume.array
    if array.dtype in (np.bool_, np.uint8):
        array = array.astype(np.uint8, copy=False)
    elif keep_type:
        array = np.ascontiguousarray(array)
    elif np.issubdtype(array.dtype, np.integer):
        if array.size and (array.min() < -(2**15) or array.max() >= 2**15):
            message = (
                f"{path}: integers from {array.min()} to {array.max()} do not fit into int16: "
                "give floats or rescale them"
            )
            raise ValueError(message)
        array = array.astype(np.int16, copy=False)
    else:
        array = array.astype(np.float32, copy=False)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(volume.spacing_mm[::-1])
    image.SetOrigin(volume.origin_mm)
    image.SetDirection(volume.direction.ravel().tolist())
    # gzip has a checksum of its own
    notes = description if suffix == ".nii.gz" else f"{description} {MARK}".strip()
    if notes:
        image.SetMetaData("ITK_FileNotes", notes)
    with written_whole(path) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)
        if MARK in notes:
            seal(temporary)


def resample(
    volume: Volume,
    center_mm: Sequence[float],
    size: Sequence[int],
    spacing_mm: Sequence[float],
    *,
    fill: float,
    interpolation: Literal["linear", "nearest"] = "linear",
) -> Volume:
    """Cut a region on a grid with the same direction.

    Where the region's voxels coincide with the volume's, they are copied: the type is kept and
    the values are bit-identical. Otherwise they are interpolated and become float32; what a
    coarser spacing cannot hold is blurred away before.

    Args:
        volume: what to cut from.
        center_mm: world position x, y[, z] of the region's voxel `size // 2`.
        size: voxels of the region along z, y, x (y, x in 2D).
        spacing_mm: spacing of the region, in the order of `size`.
        fill: value outside the volume.
        interpolation: how to interpolate.

    Returns:
        The region, of shape `size`.

    Raises:
        ValueError: If the region lies entirely outside the volume.
    """
    from scipy import ndimage

    step = np.asarray(spacing_mm, float) / volume.spacing_mm
    start = np.asarray(volume.grid.index(center_mm)) - np.asarray(size) // 2 * step
    stop = start + (np.asarray(size) - 1) * step
    if np.any(stop < -0.5) or np.any(start > np.asarray(volume.array.shape) - 0.5):
        message = (
            f"The region around {tuple(center_mm)} mm lies entirely outside the image "
            f"({volume.array.shape} voxels, first one at {volume.origin_mm} mm): "
            "give a point inside"
        )
        raise ValueError(message)
    first = np.rint(start).astype(int)
    # a thousandth of a voxel: what is lost in headers that store float32
    if np.all(np.abs(start - first) < 1e-3) and np.all(np.abs(step - 1) * size < 1e-3):
        start = first.astype(float)
        array = _crop(volume.array, first, size, fill)
    else:
        # half of what the step exceeds a voxel by, as scikit-image's resize does against aliasing
        blur = np.maximum(step - 1, 0) / 2
        reach = np.ceil(4 * blur + 1)
        low = np.clip(np.floor(start - reach), 0, None).astype(int)
        high = np.ceil(stop + reach + 1).astype(int)
        block = volume.array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        if blur.any():
            block = ndimage.gaussian_filter(block.astype(np.float32), blur, mode="nearest")
        array = ndimage.affine_transform(
            block,
            np.diag(step),
            offset=start - low,
            output_shape=tuple(size),
            output=np.float32,
            order=1 if interpolation == "linear" else 0,
            cval=fill,
        )
    return Volume(
        array,
        tuple(float(s) for s in spacing_mm),
        volume.grid.world(start.tolist()),
        volume.direction,
    )


def resample_mask(
    volume: Volume, center_mm: Sequence[float], size: Sequence[int], spacing_mm: Sequence[float]
) -> Volume:
    """Cut a region from a binary mask (0 outside, anything else inside); see `resample`.

    Returns:
        The mask as uint8, 0 or 1.
    """
    inside = Volume(
        (volume.array != 0).view(np.uint8),
        volume.spacing_mm,
        volume.origin_mm,
        volume.direction,
    )
    cut = resample(inside, center_mm, size, spacing_mm, fill=0)
    return Volume(binarize(cut.array), cut.spacing_mm, cut.origin_mm, cut.direction)


def binarize(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Make an interpolated mask binary at one half.

    A mask too thin for the grid, which is nowhere one half, keeps its highest voxels, so that a
    nodule never vanishes by interpolation.
    """
    threshold = min(0.5, float(array.max()))
    return ((array >= threshold) & (array > 0)).astype(np.uint8)


def equivalent_diameter_mm(inside: NDArray[Any], spacing_mm: Sequence[float]) -> float:
    """Diameter of the disc with a mask's area, or of the ball with its volume; 0 where it is empty.

    Args:
        inside: `(y, x)` or `(z, y, x)`, not 0 inside.
        spacing_mm: along each axis.
    """
    measure = float(np.count_nonzero(inside)) * float(np.prod(spacing_mm))
    if inside.ndim == 2:
        return float(np.sqrt(4 * measure / np.pi))
    return float(np.cbrt(6 * measure / np.pi))


def _open(path: Path) -> tuple[Any, Grid]:
    """Open a file, read its header and check it."""
    import SimpleITK as sitk

    if not path.is_file():
        message = f"{path} does not exist: check the table's path and the root folder"
        raise FileNotFoundError(message)
    if path.name.endswith(".nii.gz") and (beside := path.with_suffix("")).is_file():
        message = f"{path} lies beside {beside.name}, which ITK would read in its place: move one"
        raise ValueError(message)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    if path.suffix in (".MHA", ".MHD"):
        reader.SetImageIO("MetaImageIO")  # which ITK finds by endings in small letters alone
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        message = f"{path} cannot be read as an image ({_reason(error)}): {_mend(path)}"
        raise ValueError(message) from error
    n, channels = reader.GetDimension(), reader.GetNumberOfComponents()
    if n not in (2, 3) or channels != 1:
        message = (
            f"{path} has {n} dimensions and {channels} channel(s): "
            "expected a 2D or 3D image of one channel"
        )
        raise ValueError(message)
    spacing = reader.GetSpacing()
    if not all(np.isfinite(s) and s > 0 for s in spacing):
        message = (
            f"{path} has spacing {spacing} mm (x, y, z): expected finite numbers above zero; "
            "correct the header"
        )
        raise ValueError(message)
    check_size(reader.GetSize()[::-1], path)
    direction = np.asarray(reader.GetDirection(), float).reshape(n, n)
    grid = Grid(reader.GetSize()[::-1], spacing[::-1], reader.GetOrigin(), direction)
    if _format(path) == NIFTI:
        check_place(path, grid)
    return reader, grid


def _reason(error: RuntimeError) -> str:
    """Return the last line of an ITK error, the one that says what went wrong."""
    return str(error).strip().splitlines()[-1].strip()


def _format(path: Path) -> str:
    """How ITK calls the format of a file that it can read."""
    import SimpleITK as sitk

    name: str = sitk.ImageFileReader.GetImageIOFromFileName(str(path))
    return name


def _mend(path: Path) -> str:
    """What may be done about a file that ITK cannot read."""
    name = path.name.lower()
    if name.endswith(".nii.gz") and path.name[-7:] not in (".nii.gz", ".NII.GZ"):
        return "write its ending in small letters"
    if not name.endswith(".nii.gz") and is_gzip(path):
        return "it is compressed with gzip: unpack it, or name it .nii.gz if it is NIfTI"
    return "expected MetaImage, NIfTI or NRRD"


def _crop(
    array: NDArray[Any], first: NDArray[Any], size: Sequence[int], fill: float
) -> NDArray[Any]:
    """Cut `size` voxels from index `first` on, padding with `fill` outside."""
    result = np.full(tuple(size), fill, array.dtype)
    low = np.maximum(first, 0)
    high = np.minimum(first + size, array.shape)
    inner = tuple(slice(a, b) for a, b in zip(low - first, high - first, strict=True))
    result[inner] = array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    return result
