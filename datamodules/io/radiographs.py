"""Radiographs on disk: reading them, and telling whether they lie on their side."""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.io.dicom import read_dicom_radiograph
from datamodules.io.limits import check_size
from datamodules.io.paths import name_of
from datamodules.io.volumes import Volume, read_volume, write_volume
from datamodules.io.whole_files import written_whole

JSRT_SIDE, JSRT_SPACING_MM, JSRT_MAX = 2048, 0.175, 4095
"""Pixels along each side of JSRT's radiographs, their spacing, and the highest value of 12 bits."""

PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff")

THUMBNAIL = 64
"""Pixels along each side of the picture that `lies_on_its_side` looks at."""


def as_radiograph(pixels: NDArray[Any], spacing_mm: tuple[float, float]) -> Volume:
    """A radiograph with its upper left corner at the origin.

    Args:
        pixels: `(y, x)`; bone is bright.
        spacing_mm: distance between pixels along y and x.
    """
    return Volume(pixels, spacing_mm, (0.0, 0.0), np.eye(2))


def read_grey(path: Path) -> NDArray[np.uint8 | np.uint16]:
    """Read a picture file as one channel; colour and transparency, where present, are dropped.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no picture, damaged or cut short, or beyond `datamodules.io.limits`.
    """
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None  # our own limit is checked, which can be set
    try:
        with Image.open(path) as picture:
            check_size(picture.size[::-1], path)
            picture.verify()  # the checksums of a PNG, which decoding does not look at
        with Image.open(path) as picture:
            deep = picture.mode.startswith("I")
            return np.asarray(picture if deep else picture.convert("L"))
    except FileNotFoundError as error:
        message = f"{path} does not exist: check the table's path and the root folder"
        raise FileNotFoundError(message) from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:  # the last is PNG's
        message = f"{path} is no picture or cut short or damaged ({error}): copy it again"
        raise ValueError(message) from error


def read_img(path: Path) -> Volume:
    """Read one `.IMG`: 2048 x 2048 big-endian 16-bit words that hold 12 bits, no header.

    The files hold optical density, which is high where much radiation came through: they are turned
    round, so that bone is bright.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file has another size or values above 4095.
    """
    if not path.is_file():
        message = f"{path} does not exist: check root, which is to hold all .IMG files"
        raise FileNotFoundError(message)
    if path.stat().st_size != 2 * JSRT_SIDE**2:
        message = (
            f"{path} has {path.stat().st_size} bytes, expected {2 * JSRT_SIDE**2} "
            f"({JSRT_SIDE} x {JSRT_SIDE} words of 16 bits): copy it again"
        )
        raise ValueError(message)
    density = np.fromfile(path, ">u2").reshape(JSRT_SIDE, JSRT_SIDE)
    if density.max() > JSRT_MAX:
        message = (
            f"{path} has values up to {density.max()}, expected at most {JSRT_MAX} (12 bits): "
            "it is no file of JSRT's, or its bytes were swapped"
        )
        raise ValueError(message)
    return as_radiograph((JSRT_MAX - density).astype(np.uint16), (JSRT_SPACING_MM, JSRT_SPACING_MM))


def read_radiograph(path: Path, spacing_mm: tuple[float, float] | None) -> Volume:
    """Read a radiograph, bone bright: a picture, DICOM, JSRT's `.IMG`, or `read_volume`'s in 2D.

    Args:
        path: the file; its ending says the format.
        spacing_mm: distance between pixels along y and x, which pictures do not hold; None for
            the other formats, which do.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, is not in 2D, or a picture's spacing is not given.
    """
    if path.suffix.lower() == ".img":
        return read_img(path)
    if path.suffix.lower() == ".dcm":
        return read_dicom_radiograph(path)
    if path.suffix.lower() in PICTURES:
        if spacing_mm is None:
            message = f"{path} is a picture, which holds no spacing: give its spacing_mm"
            raise ValueError(message)
        return as_radiograph(read_grey(path), spacing_mm)
    radiograph = read_volume(path)
    if radiograph.array.ndim != 2:
        message = f"{path} has {radiograph.array.ndim} dimensions, expected a radiograph with 2"
        raise ValueError(message)
    return radiograph


def write_radiograph(path: Path, radiograph: Volume, description: str) -> None:
    """Write a radiograph whole or not at all, as a picture, JSRT's `.IMG` or a 2D image file.

    Args:
        path: where to; its ending says the format.
        radiograph: bone bright, of an integer type.
        description: goes into a PNG's or an image file's header; `.IMG` has none.

    Raises:
        ValueError: If the ending is that of a format that loses values.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    kind = path.suffix.lower()
    if kind == ".img":
        density = (JSRT_MAX - radiograph.array.clip(0, JSRT_MAX).astype(np.int32)).astype(">u2")
        with written_whole(path) as temporary:
            density.tofile(temporary)
    elif kind == ".png":
        information = PngInfo()
        information.add_text("Description", description)
        with written_whole(path) as temporary:
            Image.fromarray(radiograph.array).save(temporary, pnginfo=information)
    elif kind in PICTURES:
        message = (
            f"{path} would lose values: give the radiograph as PNG, DICOM, .IMG or an image file"
        )
        raise ValueError(message)
    else:
        write_volume(path, radiograph, description)


def lies_on_its_side(pixels: NDArray[Any]) -> bool:
    """Tell whether a frontal chest radiograph is turned by a quarter.

    Upright, its left half mirrors its right half, and the spine is a bright column between two dark
    lungs; on its side, both hold for the rows.

    Args:
        pixels: `(y, x)`, bone bright, upright or turned by a quarter either way.
    """
    from PIL import Image

    size = (THUMBNAIL, THUMBNAIL)
    small = Image.fromarray(pixels.astype(np.float32)).resize(size, Image.Resampling.BOX)
    thumbnail = np.asarray(small, float)
    if not thumbnail.std():
        return False
    return _uprightness(thumbnail) < _uprightness(thumbnail.T)


def _uprightness(thumbnail: NDArray[np.float64]) -> float:
    """Correlation with the mirror image, plus the spine's contrast in standard deviations."""
    shifts = range(-6, 7)  # the spine need not be in the middle
    mirrored = thumbnail[:, ::-1][:, 6:-6].ravel()
    symmetry = max(
        np.corrcoef(np.roll(thumbnail, shift, 1)[:, 6:-6].ravel(), mirrored)[0, 1]
        for shift in shifts
    )
    spine = max(_spine(part) for part in (thumbnail[8:48], thumbnail[16:56]))
    return float(symmetry + spine / thumbnail.std())


def _spine(rows: NDArray[np.float64]) -> float:
    """How much brighter a column near the middle is than what lies on both sides of it."""
    profile = rows.mean(0)
    return max(
        float(profile[x - 3 : x + 4].mean())
        - float(profile[x - 17 : x - 7].mean() + profile[x + 8 : x + 18].mean()) / 2
        for x in range(24, 41)
    )


def read_lungs(folder: Path, name: str, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Read a radiograph's lung masks, left and right together, and bring them to its size.

    Args:
        folder: holds pictures named like the radiograph, in whatever subfolders.
        name: the radiograph's, whole but for its ending; see `name_of`.
        shape: pixels of the radiograph along y and x.

    Raises:
        FileNotFoundError: If there is none.
    """
    from PIL import Image

    beginning = folder.rglob(f"{glob.escape(name)}*")
    files = sorted(path for path in beginning if path.is_file() and name_of(path) == name)
    if not files:
        message = f"{folder} has no lung mask named {name}.*: add it, or set lungs to null"
        raise FileNotFoundError(message)
    lungs = np.zeros(tuple(shape), bool)
    for path in files:
        mask = Image.fromarray((read_grey(path) > 0).astype(np.uint8))
        lungs |= np.asarray(mask.resize((shape[1], shape[0]), Image.Resampling.NEAREST)) > 0
    return lungs


def lung_point(
    shape: Sequence[int], lungs: NDArray[np.bool_] | None, generator: np.random.Generator
) -> tuple[float, float]:
    """A pixel (y, x) in the lungs.

    Args:
        shape: pixels of the radiograph along y and x.
        lungs: the lungs on the radiograph's grid; without it the point lies in either half of the
            radiograph's middle, where an upright frontal radiograph has its lungs.
        generator: where chance comes from.
    """
    if lungs is not None and lungs.any():
        place = generator.choice(np.flatnonzero(lungs))
        row, column = np.unravel_index(place, lungs.shape)
        return float(row), float(column)
    left, right = generator.choice([(0.22, 0.4), (0.6, 0.78)])
    return (
        float(generator.uniform(0.28, 0.62) * shape[0]),
        float(generator.uniform(left, right) * shape[1]),
    )
