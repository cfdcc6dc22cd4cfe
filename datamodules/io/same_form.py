"""Studies written as their sources are: the same format, type of voxels and scaling."""

import gzip
from pathlib import Path

import numpy as np

from datamodules.io.checksums import MARK, seal
from datamodules.io.lazy_studies import StudyVoxels, write_nifti
from datamodules.io.nifti import read_header
from datamodules.io.radiographs import PICTURES
from datamodules.io.volumes import WRITABLE, Volume, read_volume, write_volume
from datamodules.io.whole_files import written_whole

NIFTI = (".nii.gz", ".nii")
LOSSLESS = (".png", ".img")
"""Radiographs' files that are no images with a header."""


def ending_of(path: Path) -> str:
    """The ending under which an image file is written again: its own, or of one file for a pair's.

    Raises:
        ValueError: If files of its kind cannot be written.
    """
    known = {**{ending: ending for ending in WRITABLE}, ".mhd": ".mha"}
    for ending, written in known.items():
        if path.name.lower().endswith(ending):
            return written
    message = (
        f"{path} could not be written again: give the study as one of {', '.join(known)}, or as "
        "DICOM"
    )
    raise ValueError(message)


def check_ct(path: Path) -> None:
    """Check that a CT can be written with synthetic nodules, before any is synthesized.

    Raises:
        ValueError: If it cannot be; says why.
    """
    from datamodules.io.dicom import is_series, only_series
    from datamodules.io.synthetic_dicom import check_series

    if is_series(path):
        check_series(only_series(path))
    else:
        ending_of(path)


def check_radiograph(path: Path) -> None:
    """Check that a radiograph can be written with synthetic nodules; see `check_ct`."""
    from datamodules.io.synthetic_dicom import check_source

    kind = path.suffix.lower()
    if kind == ".dcm":
        check_source(path, of_ct=False)
    elif kind in PICTURES and kind not in LOSSLESS:
        message = (
            f"{path} would lose values: give the radiograph as PNG, DICOM, .IMG or an image file"
        )
        raise ValueError(message)
    elif kind not in LOSSLESS:
        ending_of(path)


def write_like(source: Path, path: Path, study: Volume, description: str) -> None:
    """Write an image file whose voxels have the type and the scaling of its source.

    Args:
        source: the file without nodules.
        path: where to; ends as `ending_of` says.
        study: with nodules, on the source's grid.
        description: goes into the header.
    """
    slope, inter = _scaling(source)
    if (slope, inter) == (1.0, 0.0):
        if isinstance(study.array, StudyVoxels):
            write_nifti(path, study.array, study, description)
        else:
            write_volume(path, study, description, keep_type=True)
        return
    import nibabel as nib

    image = nib.Nifti1Image.from_bytes(_content(source))
    old = np.asanyarray(image.dataobj.get_unscaled())
    before = read_volume(source).array
    # what is unchanged keeps its stored value
    array = np.asarray(study.array)
    changed = array != before
    stored = old.T.copy()
    limits = np.iinfo(stored.dtype)
    values = np.rint((array[changed].astype(np.float64) - inter) / slope)
    stored[changed] = values.clip(limits.min, limits.max).astype(stored.dtype)
    header = image.header.copy()
    header.extensions.clear()
    for name in ("data_type", "db_name", "aux_file", "intent_name"):
        header[name] = b""
    packed = path.name.endswith(".gz")  # gzip has a checksum of its own
    header["descrip"] = (description if packed else f"{description} {MARK}").encode()
    header["scl_slope"], header["scl_inter"] = slope, inter  # nibabel takes them away
    header["vox_offset"] = header.single_vox_offset
    content = header.binaryblock + bytes(4) + stored.astype(old.dtype).tobytes()
    with written_whole(path) as temporary:
        temporary.write_bytes(gzip.compress(content, mtime=0) if packed else content)
        if not packed:
            seal(temporary)


def _scaling(path: Path) -> tuple[float, float]:
    """Slope and intercept that a NIfTI file of whole numbers asks for; 1 and 0 for other files."""
    if not path.name.lower().endswith(NIFTI):
        return 1.0, 0.0
    header = read_header(path)
    slope, inter = header.get_slope_inter()
    if slope is None or not np.issubdtype(header.get_data_dtype(), np.integer):
        return 1.0, 0.0
    return float(slope), float(inter or 0.0)


def _content(path: Path) -> bytes:
    """A file's bytes, unpacked if it is compressed."""
    content = path.read_bytes()
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
