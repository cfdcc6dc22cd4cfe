"""Whatever a source's header holds, what is written of it says nothing about anybody."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom import uid_of, write_radiograph, write_series
from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from datamodules.io.dicom import only_series, read_study
from datamodules.io.radiographs import read_radiograph
from datamodules.io.synthetic_dicom import write_dicom_radiograph, write_synthetic_series
from datamodules.io.volumes import Volume

MARKER = "MARKER"
DATE, TIME = "19530417", "041753"

OF_THE_PIXELS = {
    *("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"),
    *("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PhotometricInterpretation", "PixelData", "RescaleSlope"),
    *("RescaleIntercept", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"),
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "NumberOfFrames"),
    *("WindowCenter", "WindowWidth", "SpecificCharacterSet", "PlanarConfiguration"),
    *("ImagerPixelSpacing", "PixelIntensityRelationshipSign", "PixelIntensityRelationship"),
}
"""Without these there is no image."""

VALUES = {
    **dict.fromkeys(("LO", "SH", "LT", "ST", "UT", "UC", "PN", "CS", "AE", "UR"), MARKER),
    **{"DA": DATE, "TM": TIME, "DT": f"{DATE}{TIME}", "AS": "753Y"},
    **{"UI": f"1.2.{DATE}", "OB": MARKER.encode(), "OW": MARKER.encode(), "UN": MARKER.encode()},
}
"""A marker of each kind of text; numbers cannot name anybody, and are left as they are."""


NESTED = ("CodeMeaning", "CodeValue", "PatientName", "TextValue", "CodingSchemeDesignator")


def mark(data: Dataset, depth: int = 0) -> None:
    """Give every element of DICOM's that holds text or sequences a marker, and some that do not."""
    for tag, (vr, *_) in DicomDictionary.items():
        name = keyword_for_tag(tag)
        if name in OF_THE_PIXELS or tag >> 16 in (0x0000, 0x0002) or not name:
            continue
        if vr == "SQ" and depth < 2:
            item = Dataset()
            if depth == 0:
                for inner in NESTED:
                    setattr(item, inner, MARKER)
                item.AnatomicRegionModifierSequence = Sequence([Dataset()])
                item.AnatomicRegionModifierSequence[0].CodeMeaning = MARKER
                item.add_new(0x00091010, "LO", MARKER)
            data.add_new(tag, "SQ", Sequence([item]))
        elif vr in VALUES:
            data.add_new(tag, vr, VALUES[vr])
    data.add_new(0x00090010, "LO", MARKER)
    data.add_new(0x00091010, "LO", MARKER)
    data.ImageType = ["ORIGINAL", "PRIMARY", MARKER, MARKER]
    data.PatientOrientation = [MARKER, MARKER]


def texts(data: Dataset) -> Iterator[str]:
    """All values, nested ones too."""
    for element in data.iterall():
        yield f"{element.keyword}: {element.value!r}"


def assert_silent(path: Path) -> None:
    """Nothing of a marker is in a file."""
    written = pydicom.dcmread(path)
    assert not [text for text in texts(written) if MARKER in text or DATE in text]
    content = path.read_bytes()
    assert MARKER.encode() not in content
    assert DATE.encode() not in content


@pytest.mark.filterwarnings("ignore")
def test_no_marker_of_a_ct_header_comes_out(tmp_path: Path) -> None:
    array = np.zeros((3, 8, 8), np.int16)
    volume = Volume(array, (2.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
    for path in write_series(tmp_path / "in", volume, MARKER, uid_of("s")):
        data = pydicom.dcmread(path)
        mark(data)
        data.PatientPosition = "HFS"
        data.save_as(path, enforce_file_format=True)
    series = only_series(tmp_path / "in")
    voxels = read_study(tmp_path / "in").array
    written = write_synthetic_series(series, voxels, tmp_path / "out", "pseudonym", "key")
    assert len(written) == 3
    for path in written:
        assert_silent(path)


@pytest.mark.filterwarnings("ignore")
def test_no_marker_of_a_radiographs_header_comes_out(tmp_path: Path) -> None:
    source = tmp_path / "in.dcm"
    write_radiograph(source, np.zeros((8, 8), np.uint16), MARKER, "MONOCHROME2")
    data = pydicom.dcmread(source)
    mark(data)
    data.save_as(source, enforce_file_format=True)
    pixels = read_radiograph(source, None).array
    write_dicom_radiograph(source, pixels, tmp_path / "out.dcm", "pseudonym", "key")
    assert_silent(tmp_path / "out.dcm")
