"""Poor headers: what is written is valid DICOM whatever came in, or refused before."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom import uid_of, write_radiograph, write_series
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from datamodules.io.dicom import only_series
from datamodules.io.same_form import check_ct, check_radiograph
from datamodules.io.synthetic_dicom import (
    patient_name,
    write_dicom_radiograph,
    write_segmentation,
    write_synthetic_series,
)
from datamodules.io.volumes import Volume

PSEUDONYM = "患者^一=é"
CR = "1.2.840.10008.5.1.4.1.1.1"

Spoil = Callable[[Dataset], None]


def lacking(name: str) -> Spoil:
    """Takes an element away."""

    def change(data: Dataset) -> None:
        data.pop(name, None)

    return change


def having(name: str, value: bytes) -> Spoil:
    """Gives an element bytes that nobody checks."""
    tag = Tag(tag_for_keyword(name) or 0)

    def change(data: Dataset) -> None:
        raw = RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)
        data._dict[tag] = raw  # pydicom itself would refuse it

    return change


def faults(path: Path) -> list[str]:
    """What dciodvfy calls errors."""
    told = subprocess.run(
        ["dciodvfy", path], capture_output=True, text=True, errors="replace", check=False
    )
    return [line for line in (told.stderr + told.stdout).splitlines() if line.startswith("Error")]


def series(folder: Path, spoil: Spoil) -> Volume:
    """A series with a spoilt header."""
    array = np.random.default_rng(0).integers(-950, -650, (3, 16, 16)).astype(np.int16)
    scan = Volume(array, (2.0, 0.8, 0.8), (0.0,) * 3, np.eye(3))
    for path in write_series(folder, scan, "p", uid_of("s")):
        data = pydicom.dcmread(path)
        spoil(data)
        data.save_as(path)
    return scan


CT_SPOILT = {
    **{
        f"no {name}": lacking(name)
        for name in (
            *("PatientPosition", "ImageType", "KVP", "SliceThickness", "RescaleType", "HighBit"),
            *("RescaleSlope", "InstanceNumber", "FrameOfReferenceUID", "StudyInstanceUID"),
        )
    },
    **{
        f"{name} {value!r}": having(name, value)
        for name, value in (
            *[("ImageType", b"ORIGINAL\\PRIMARY"), ("ImageType", b"ORIGINAL\\PRIMARY\\x y")],
            *[("KVP", b"abc "), ("InstanceNumber", b"1.5 "), ("WindowCenter", b"-600")],
            *[("WindowWidth", b"0 "), ("PatientPosition", b"hfs "), ("ExposureTime", b"1.2 ")],
            *[("LossyImageCompression", b"99"), ("BurnedInAnnotation", b"maybe ")],
            *[("PresentationLUTShape", b"INVERSE "), ("SpacingBetweenSlices", b"-2")],
            *[("RescaleSlope", b"1.0000000000000000000 "), ("SliceLocation", b"x ")],
        )
    },
}


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dicom3tools")
@pytest.mark.parametrize("what", CT_SPOILT)
def test_a_series_with_a_poor_header_is_written_as_valid_dicom(what: str, tmp_path: Path) -> None:
    scan = series(tmp_path / "in", CT_SPOILT[what])
    check_ct(tmp_path / "in")
    found = only_series(tmp_path / "in")
    paths = write_synthetic_series(found, scan.array, tmp_path / "out", PSEUDONYM, "key")
    box = (slice(0, 2), slice(2, 5), slice(2, 5))
    masks = {"n" * 80: (box, np.ones((2, 3, 3), np.uint8))}
    write_segmentation(tmp_path / "seg.dcm", paths, masks, (16, 16), "key")
    assert not faults(paths[0])
    assert not faults(tmp_path / "seg.dcm")
    data = pydicom.dcmread(paths[0])
    assert data.PatientID == PSEUDONYM
    assert str(data.PatientName) == "SYNTHETIC^患者_一_é"
    assert list(data.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]


def digital(data: Dataset) -> None:
    """Becomes a DX image with no more than what is asked for."""
    data.SOPClassUID, data.Modality = f"{CR}.1", "DX"
    data.PixelIntensityRelationship, data.PixelIntensityRelationshipSign = "LOG", -1


def captured(data: Dataset) -> None:
    """Becomes a secondary capture, as RSNA's radiographs are."""
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dicom3tools")
@pytest.mark.parametrize(
    "spoil",
    [
        *(digital, captured, lacking("ImageType"), lacking("PatientOrientation")),
        *(lacking("ViewPosition"), lacking("InstanceNumber"), lacking("StudyInstanceUID")),
        *(having("PatientOrientation", b"X\\Y "), having("ViewPosition", b"front ")),
    ],
)
def test_a_radiograph_with_a_poor_header_is_written_as_valid_dicom(
    spoil: Spoil, tmp_path: Path
) -> None:
    pixels = np.full((16, 16), 5, np.uint16)
    write_radiograph(tmp_path / "in.dcm", pixels, "p", "MONOCHROME2")
    data = pydicom.dcmread(tmp_path / "in.dcm")
    spoil(data)
    data.save_as(tmp_path / "in.dcm")
    check_radiograph(tmp_path / "in.dcm")
    write_dicom_radiograph(tmp_path / "in.dcm", pixels, tmp_path / "out.dcm", PSEUDONYM, "key")
    assert not faults(tmp_path / "out.dcm")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (having("SOPInstanceUID", b"abc\0"), "has no valid SOPInstanceUID, without which"),
        (captured, "is of the SOP class Secondary Capture Image Storage, expected a CT slice"),
        (having("SOPClassUID", b"1.2.3\0"), r"is of the SOP class 1\.2\.3, expected a CT slice"),
    ],
)
def test_a_series_that_could_not_be_valid_is_refused(
    spoil: Spoil, message: str, tmp_path: Path
) -> None:
    series(tmp_path / "in", spoil)
    with pytest.raises(ValueError, match=rf"\.dcm {message}"):
        check_ct(tmp_path / "in")


def test_a_radiograph_that_could_not_be_valid_is_refused(tmp_path: Path) -> None:
    def bare(data: Any) -> None:
        digital(data)
        del data.PixelIntensityRelationship

    pixels = np.full((16, 16), 5, np.uint16)
    write_radiograph(tmp_path / "in.dcm", pixels, "p", "MONOCHROME2")
    data = pydicom.dcmread(tmp_path / "in.dcm")
    bare(data)
    data.save_as(tmp_path / "in.dcm")
    with pytest.raises(ValueError, match="has no valid PixelIntensityRelationship, without which"):
        check_radiograph(tmp_path / "in.dcm")


def test_free_text_is_not_taken_over(tmp_path: Path) -> None:
    marked = ("PositionReferenceIndicator", "ConvolutionKernel", "RescaleType", "ImageType")

    def mark(data: Dataset) -> None:
        for name in marked:
            having(name, b"MARKER")(data)

    scan = series(tmp_path / "in", mark)
    check_ct(tmp_path / "in")
    found = only_series(tmp_path / "in")
    for path in write_synthetic_series(found, scan.array, tmp_path / "out", "p", "key"):
        assert b"MARKER" not in path.read_bytes()


def test_a_name_fits_into_dicom() -> None:
    assert patient_name("007") == "SYNTHETIC^007"
    assert len(patient_name("p" * 64)) == 64
    assert patient_name("a^b=c^d") == "SYNTHETIC^a_b_c_d"
