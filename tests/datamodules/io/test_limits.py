"""What claims to be too large is refused before memory is taken."""

import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from datamodules.io.dicom import order, read_dicom_radiograph
from datamodules.io.limits import check_label, check_size
from datamodules.io.masks import read_mask
from datamodules.io.radiographs import read_grey
from datamodules.io.slices import Slice
from datamodules.io.volumes import read_grid, read_volume
from noduleforge.prepare.outlines import Contour, rasterize

TOO_LARGE = "more than the .* that are allowed: it is damaged, or set the environment variable"


@pytest.fixture(autouse=True)
def no_memory_is_taken() -> Iterator[None]:
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**26


def test_limits_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    check_size((2048, 1024, 1024), "scan")
    check_label(65535, "mask")
    with pytest.raises(ValueError, match=r"scan would have 3000 x 1024 x 1024 voxels, in all"):
        check_size((3000, 1024, 1024), "scan")
    with pytest.raises(ValueError, match=TOO_LARGE + " NODULEFORGE_MAX_SIDE to at least 20000"):
        check_size((2, 20000), "scan")
    monkeypatch.setenv("NODULEFORGE_MAX_SIDE", "20000")
    check_size((2, 20000), "scan")
    monkeypatch.setenv("NODULEFORGE_MAX_SIDE", "many")
    with pytest.raises(ValueError, match="NODULEFORGE_MAX_SIDE is 'many': give a whole number"):
        check_size((2, 2), "scan")
    with pytest.raises(ValueError, match="mask has the label 2000000000, more than the 65535"):
        check_label(2_000_000_000, "mask")


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".nii"])
def test_a_header_that_claims_too_much(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5), np.int16)), str(path))
    content = bytearray(path.read_bytes())
    if suffix == ".nii":
        content[42:48] = struct.pack("<3h", 30000, 30000, 30000)
    else:
        content = content.replace(b"5 4 3", b"30000 30000 30000")
    path.write_bytes(content)
    for read in (read_grid, read_volume):
        with pytest.raises(ValueError, match=TOO_LARGE):
            read(path)


def test_a_picture_that_claims_too_much(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    path, header = tmp_path / "a.png", struct.pack(">2I5B", 20000, 20000, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(100))
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    with pytest.raises(ValueError, match=TOO_LARGE):
        read_grey(path)


def test_dicom_that_claims_too_much(tmp_path: Path) -> None:
    data = pydicom.Dataset()
    data.Rows = data.Columns = 65535
    data.PixelSpacing = [1, 1]
    data.preamble, data.file_meta = bytes(128), pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.save_as(tmp_path / "a.dcm", enforce_file_format=False)
    with pytest.raises(ValueError, match=TOO_LARGE):
        read_dicom_radiograph(tmp_path / "a.dcm")
    axes = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    more = ((1.0, 0.0), "", "", "", (), False, "")
    slices = [
        Slice(Path(name), None, name, "s", "p", "CT", (65535, 512), (0, 0, z), axes, (1, 1), *more)
        for z, name in enumerate("ab")
    ]
    with pytest.raises(ValueError, match=r"a would have 2 x 65535 x 512 voxels"):
        order(slices)


def test_a_label_that_is_too_high(tmp_path: Path) -> None:
    array = np.array([[[0, 1, 2_000_000_000]]], np.int32)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "mask.mha"))
    with pytest.raises(ValueError, match=r"mask\.mha has the label 2000000000, more than the"):
        read_mask(tmp_path / "mask.mha")


def test_an_outline_that_is_too_large() -> None:
    points = np.array([[10, 10], [10, 100_000], [20, 10]])
    with pytest.raises(ValueError, match=r"the box around it would have .* x 99993 "):
        rasterize([Contour(True, 0.0, points, "")], [3])
