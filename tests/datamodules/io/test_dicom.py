"""Stacks of a DICOM series are never mixed, and what is wrong with a file is said of that file."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest

from datamodules.io.dicom import only_series, read_study, read_study_grid
from datamodules.io.volumes import Volume

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))
from dicom import change, uid_of, write_series

UID = uid_of("series")
SPACING = (2.0, 0.8, 0.8)


def volume(slices: int, z_mm: float = 0.0, seed: int = 0) -> Volume:
    array = np.random.default_rng(seed).integers(-1000, 400, (slices, 10, 12)).astype(np.int16)
    return Volume(array, SPACING, (0.0, 0.0, z_mm), np.eye(3))


def second(folder: Path, stack: Volume, **tags: Any) -> list[Path]:
    """Write slices of another stack into the series of `write_series(..., UID)`."""
    paths = write_series(folder / "more", stack, "p", uid_of("second"))
    own = {"SeriesInstanceUID": UID, "FrameOfReferenceUID": uid_of(UID, "frame")}
    change(paths, **(own | tags))
    return [path.rename(folder / f"more-{path.name}") for path in paths]


def enhanced(paths: list[Path], out: Path) -> pydicom.Dataset:
    sources = [pydicom.dcmread(path) for path in paths]
    image = highdicom.legacy.LegacyConvertedEnhancedCTImage(
        sources, uid_of("enhanced"), 1, uid_of(out), 1
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(out)
    return image


def test_one_stack_is_read_as_it_was(tmp_path: Path) -> None:
    write_series(tmp_path, volume(8), "p", UID)
    read = read_study(tmp_path)
    np.testing.assert_array_equal(read.array, volume(8).array)
    assert read_study_grid(tmp_path).matches(volume(8).grid)


DIFFERENT: dict[str, tuple[float, dict[str, Any]]] = {
    "acquisition": (1.0, {"AcquisitionNumber": "2"}),
    "kernel": (0.0, {"ConvolutionKernel": "B70f"}),
    "frame of reference": (100.0, {"FrameOfReferenceUID": "1.2.3"}),
    "spacing": (100.0, {"PixelSpacing": [0.4, 0.4]}),
    "orientation": (100.0, {"ImageOrientationPatient": [-1, 0, 0, 0, -1, 0]}),
    "tube voltage": (0.0, {"KVP": "80"}),
    "echo": (0.0, {"EchoNumbers": "2"}),
    "temporal position": (0.0, {"TemporalPositionIdentifier": "2"}),
    "image type": (0.0, {"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]}),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_two_stacks_are_asked_about_and_read_by_a_file(tmp_path: Path, what: str) -> None:
    shift, tags = DIFFERENT[what]
    large = write_series(tmp_path, volume(8), "p", UID)
    small = second(tmp_path, volume(5, shift, seed=1), **tags)
    with pytest.raises(ValueError, match=rf"holds 2 stacks, 8 slice.s. with .*{what}") as caught:
        read_study(tmp_path)
    assert "5 slice(s)" in str(caught.value)
    assert "name a file of one of them" in str(caught.value)
    np.testing.assert_array_equal(read_study(large[3]).array, volume(8).array)
    np.testing.assert_array_equal(read_study(small[3]).array, volume(5, seed=1).array)
    assert read_study_grid(small[0]).shape == (5, 10, 12)


def test_a_slice_of_another_matrix_is_no_part_of_the_stack(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_series(tmp_path, volume(8), "p", UID)
    second(tmp_path, volume(1), ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    (scout,) = second(tmp_path, volume(1, 50.0), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    scout.rename(tmp_path / "scout.dcm")
    second(tmp_path, volume(1), ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    with caplog.at_level(logging.WARNING):
        assert read_study(tmp_path).array.shape == (8, 10, 12)
    assert "1 slice(s) of another orientation or size left out" in caplog.text
    assert "1 localizer(s) or pictures left out" in caplog.text


def test_acquisitions_that_follow_each_other_are_one_stack(tmp_path: Path) -> None:
    paths = write_series(tmp_path, volume(9), "p", UID)
    for number in range(3):
        change(paths[3 * number : 3 * number + 3], AcquisitionNumber=str(number + 1))
    np.testing.assert_array_equal(read_study(tmp_path).array, volume(9).array)
    assert "3 acquisitions that follow each other are one stack" in only_series(tmp_path).notes


def test_other_series_are_named_and_read_by_a_file(tmp_path: Path) -> None:
    one = write_series(tmp_path, volume(8), "p", UID)
    write_series(tmp_path / "x", volume(5, seed=1), "p", uid_of("other"))
    for path in (tmp_path / "x").iterdir():
        path.rename(tmp_path / f"x-{path.name}")
    with pytest.raises(ValueError, match=r"holds 2 CT series, .*or one of its files"):
        read_study(tmp_path)
    np.testing.assert_array_equal(read_study(one[0]).array, volume(8).array)


def test_slices_of_two_patients_are_refused(tmp_path: Path) -> None:
    paths = write_series(tmp_path, volume(8), "p", UID)
    change(paths[:1], PatientID="q")
    with pytest.raises(ValueError, match="slices of 2 patients"):
        read_study(tmp_path)


FAULTS: dict[str, Callable[[bytes], bytes]] = {
    r"PixelSpacing is '0,800000\\\\0,800000'": lambda b: b.replace(
        b"0.800000\\0.800000", b"0,800000\\0,800000"
    ),
    r"PixelSpacing is '0.800000'": lambda b: b.replace(b"0.800000\\0.800000", b"0.800000         "),
    r"PixelSpacing is '-.800000": lambda b: b.replace(b"0.800000\\", b"-.800000\\"),
    r"PixelSpacing is 'nan": lambda b: b.replace(b"0.800000\\", b"nan     \\"),
    r"RescaleIntercept is '-1024,0'": lambda b: b.replace(b"-1024.0", b"-1024,0"),
    r"ImageOrientationPatient is '1.0\\\\0.0\\\\0.0\\\\0.0\\\\0.0": lambda b: b.replace(
        b"1.0\\0.0\\0.0\\0.0\\1.0\\0.0", b"1.0\\0.0\\0.0\\0.0\\0.0\\0.0"
    ),
    r"ImagePositionPatient is ''": lambda b: b.replace(
        b"\x20\x00\x32\x00DS", b"\x20\x00\x33\x00DS"
    ),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_faulty_header_is_named_by_its_file(tmp_path: Path, what: str) -> None:
    paths = write_series(tmp_path, volume(8), "p", UID)
    before = paths[5].read_bytes()
    paths[5].write_bytes(FAULTS[what](before))
    assert paths[5].read_bytes() != before
    for read in (read_study, read_study_grid):
        with pytest.raises(ValueError, match=what) as caught:
            read(tmp_path)
        assert f"has 1 file(s) with a faulty header, the first of them {paths[5]}" in str(
            caught.value
        )


def test_a_file_that_is_no_whole_dicom_is_named(tmp_path: Path) -> None:
    paths = write_series(tmp_path, volume(8), "p", UID)
    (tmp_path / "._1.dcm").write_bytes(b"\0\5\x16\7 what macOS leaves behind")
    (tmp_path / "LICENSE").write_text("CC BY 3.0")
    assert read_study(tmp_path).array.shape == (8, 10, 12)
    for content in (b"", paths[7].read_bytes()[:200]):
        paths[7].write_bytes(content)
        with pytest.raises(ValueError, match=rf"{paths[7].name} is no whole DICOM file"):
            read_study(tmp_path)


def test_a_missing_preamble_loses_no_slice(tmp_path: Path) -> None:
    paths = write_series(tmp_path, volume(8), "p", UID)
    for path in (paths[0], paths[7]):
        path.write_bytes(path.read_bytes()[132:])
    np.testing.assert_array_equal(read_study(tmp_path).array, volume(8).array)


@pytest.mark.parametrize("given", ["", "a.dcm"])
def test_enhanced_ct_is_read_from_folder_and_file(tmp_path: Path, given: str) -> None:
    paths = write_series(tmp_path / "slices", volume(8), "p", UID, intercept=-1000.0)
    image = enhanced(paths[::-1], tmp_path / "multi/a.dcm")
    assert image.NumberOfFrames == 8
    read = read_study(tmp_path / "multi" / given)
    np.testing.assert_array_equal(read.array, volume(8).array)
    assert read.grid.matches(volume(8).grid)
    # a slope of each frame's own
    frame = image.PerFrameFunctionalGroupsSequence[7]
    for group in (frame, image.SharedFunctionalGroupsSequence[0]):
        if "PixelValueTransformationSequence" in group:
            del group.PixelValueTransformationSequence
    for number, frame in enumerate(image.PerFrameFunctionalGroupsSequence):
        item = pydicom.Dataset()
        item.RescaleSlope, item.RescaleIntercept, item.RescaleType = 1, -1000 - number, "HU"
        frame.PixelValueTransformationSequence = [item]
    image.save_as(tmp_path / "multi/a.dcm")
    shifted = read_study(tmp_path / "multi" / given).array
    # the last frame is the lowest slice
    np.testing.assert_array_equal(shifted, read.array - np.reshape(range(7, -1, -1), (8, 1, 1)))


def test_stacks_in_enhanced_ct_are_told_apart(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "slices", volume(8), "p", UID)
    change(paths, ConvolutionKernel="B30f")
    others = second(tmp_path / "slices", volume(8, seed=1), ConvolutionKernel="B70f")
    change(others, StudyInstanceUID=uid_of("p", "study"))
    enhanced(paths + others, tmp_path / "multi/a.dcm")
    with pytest.raises(ValueError, match=r"holds 2 stacks, .*kernel B30f .*kernel B70f"):
        read_study(tmp_path / "multi")


def test_enhanced_ct_without_its_voxels_is_named(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "slices", volume(8), "p", UID)
    enhanced(paths, tmp_path / "multi/a.dcm")
    content = (tmp_path / "multi/a.dcm").read_bytes()
    (tmp_path / "multi/a.dcm").write_bytes(content[:-100])
    with pytest.raises(ValueError, match=r"a\.dcm is damaged"):
        read_study(tmp_path / "multi")
    image = pydicom.dcmread(tmp_path / "multi/a.dcm")
    del image.PerFrameFunctionalGroupsSequence[-1]
    image.save_as(tmp_path / "multi/a.dcm")
    with pytest.raises(ValueError, match=r"a\.dcm is no whole DICOM file"):
        read_study(tmp_path / "multi")
