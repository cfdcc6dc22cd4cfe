import sys
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest

from datamodules.io.dicom import read_study
from datamodules.io.lazy_studies import StudyVoxels, empty_mask, open_study, write_nifti
from datamodules.io.volumes import Volume, read_volume, write_volume

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))
from dicom import write_series

SHAPE = (70, 24, 20)
FORMS = ("study.nii.gz", "study.nii", "dicom")


def write(root: Path, form: str, dtype: type = np.int16) -> Path:
    array = np.random.default_rng(0).integers(-1000, 400, SHAPE).astype(dtype)
    volume = Volume(array, (1.5, 0.7, 0.8), (3.0, -4.0, 5.0), np.diag([-1.0, -1.0, 1.0]))
    if form == "dicom":
        write_series(root / form, volume, "P1", "1.2.3")
    else:
        write_volume(root / form, volume, keep_type=True)
    return root / form


@pytest.mark.parametrize("form", FORMS)
def test_boxes_are_those_of_an_array(form: str, tmp_path: Path) -> None:
    path = write(tmp_path, form)
    lazy, whole = open_study(path), read_study(path)
    assert isinstance(lazy.array, StudyVoxels)
    assert lazy.grid.matches(whole.grid)
    assert lazy.array.dtype == whole.array.dtype
    expected = whole.array.copy()
    rng = np.random.default_rng(1)
    for _ in range(12):
        low = [int(rng.integers(0, n - 1)) for n in SHAPE]
        box = tuple(
            slice(a, int(rng.integers(a + 1, n + 3))) for a, n in zip(low, SHAPE, strict=True)
        )
        np.testing.assert_array_equal(lazy.array[box], expected[box])
        inner = tuple(slice(a.start, min(a.stop, n)) for a, n in zip(box, SHAPE, strict=True))
        values = rng.integers(-50, 50, expected[inner].shape)
        lazy.array[inner] = values
        expected[inner] = values
    np.testing.assert_array_equal(np.asarray(lazy.array), expected)
    np.testing.assert_array_equal(np.stack(list(lazy.array)), expected)
    assert (lazy.array.min(), lazy.array.max()) == (expected.min(), expected.max())


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_what_is_written_in_parts_is_what_is_written_whole(
    ending: str, dtype: type, tmp_path: Path
) -> None:
    study = open_study(write(tmp_path, f"study{ending}", dtype))
    study.array[5:9, 3:7, 2:4] = np.full((4, 4, 2), 7, dtype)
    whole = Volume(np.asarray(study.array), study.spacing_mm, study.origin_mm, study.direction)
    write_nifti(tmp_path / f"parts{ending}", study.array, study, "synthetic")
    write_volume(tmp_path / f"whole{ending}", whole, "synthetic", keep_type=True)
    parts, expected = (nibabel.load(tmp_path / f"{name}{ending}") for name in ("parts", "whole"))
    np.testing.assert_array_equal(np.asanyarray(parts.dataobj), np.asanyarray(expected.dataobj))
    for name in expected.header:
        if name != "descrip" or ending == ".nii.gz":  # the checksum is of the header too
            assert parts.header[name].tobytes() == expected.header[name].tobytes(), name
    if ending == ".nii":
        assert (tmp_path / "parts.nii").read_bytes() == (tmp_path / "whole.nii").read_bytes()
    read_volume(tmp_path / f"parts{ending}")  # its checksum is right


@pytest.mark.parametrize("form", ["study.nii.gz", "dicom"])
def test_a_study_is_never_whole_in_memory(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datamodules.io.lazy_studies.SLAB", 2)
    array = np.full((48, 128, 128), -800, np.int16)
    volume = Volume(array, (1.0, 0.7, 0.7), (0.0, 0.0, 0.0), np.eye(3))
    path = tmp_path / form
    if form == "dicom":
        write_series(path, volume, "P1", "1.2.3")
    else:
        write_volume(path, volume)
    open_study(path)  # what is imported once does not count
    tracemalloc.start()
    study = open_study(path)
    study.array[20:40, 50:70, 50:70] += np.int16(100)
    mask = empty_mask(study)
    mask[20:40, 50:70, 50:70] = np.ones((20, 20, 20), np.uint8)
    for name, voxels in (("image", study.array), ("mask", mask)):
        write_nifti(tmp_path / f"{name}.nii.gz", voxels, study, "")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < array.nbytes
    array[20:40, 50:70, 50:70] += 100
    np.testing.assert_array_equal(read_volume(tmp_path / "image.nii.gz").array, array)
    assert read_volume(tmp_path / "mask.nii.gz").array.sum() == 20**3


def test_a_damaged_study_is_named_when_it_is_opened(tmp_path: Path) -> None:
    path = write(tmp_path, "study.nii.gz")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"study\.nii\.gz"):
        open_study(path)
