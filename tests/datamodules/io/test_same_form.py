"""Studies as they are written again: type, scaling, format."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from datamodules.io.same_form import check_ct, check_radiograph, ending_of, write_like
from datamodules.io.volumes import read_volume

SHAPE = (6, 7, 8)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".mhd", ".nrrd"])
@pytest.mark.parametrize("kind", ["int16", "uint16", "int32", "float32", "float64"])
def test_voxels_keep_their_type(kind: str, ending: str, tmp_path: Path) -> None:
    low = 0 if kind.startswith("u") else -1000
    array = np.random.default_rng(0).uniform(low, 40_000 if low == 0 else 400, SHAPE).astype(kind)
    source = tmp_path / f"scan{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(array), str(source))
    study = read_volume(source)
    study.array[2, 3, 4] = 7
    target = tmp_path / f"out{ending_of(source)}"
    write_like(source, target, study, "synthetic")
    written = read_volume(target)
    assert written.array.dtype == array.dtype
    assert written.grid.matches(study.grid)
    array[2, 3, 4] = 7
    np.testing.assert_array_equal(written.array, array)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
@pytest.mark.parametrize("endian", ["<", ">"])
def test_a_scaled_nifti_keeps_its_scaling_and_all_that_is_unchanged(
    endian: str, ending: str, tmp_path: Path
) -> None:
    stored = np.random.default_rng(0).integers(0, 3000, SHAPE[::-1]).astype(f"{endian}i2")
    affine = np.diag([-0.7, -0.7, 2.0, 1.0])
    header = nib.Nifti1Image(stored, affine).header.as_byteswapped(endian)
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = 0.5, -1024.25, 352
    header["descrip"] = header["intent_name"] = header["db_name"] = b"Known^Patient"
    content = header.binaryblock + bytes(4) + stored.tobytes(order="F")
    source = tmp_path / f"scan{ending}"
    source.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    study = read_volume(source)
    study.array[2, 3, 4] = 10.1
    target = tmp_path / f"out{ending}"
    write_like(source, target, study, "synthetic")
    written = nib.load(target)
    assert (written.dataobj.slope, written.dataobj.inter) == (0.5, -1024.25)
    assert written.get_data_dtype() == stored.dtype
    after = np.asanyarray(written.dataobj.get_unscaled())
    assert after[4, 3, 2] == round((10.1 + 1024.25) / 0.5)
    after[4, 3, 2] = stored[4, 3, 2]
    np.testing.assert_array_equal(after, stored)
    assert read_volume(target).grid.matches(study.grid)
    packed = target.read_bytes()
    assert b"Known" not in (gzip.decompress(packed) if ending.endswith("gz") else packed)
    # and it has a checksum, as all that is written here
    for place in (60, len(packed) // 2, len(packed) - 20):
        target.write_bytes(packed[:place] + bytes([packed[place] ^ 4]) + packed[place + 1 :])
        with pytest.raises(ValueError, match=f"out{ending} .*(damaged|cut short|cannot be read)"):
            read_volume(target)


def test_what_cannot_be_written_again_is_refused_before(tmp_path: Path) -> None:
    for name in ("scan.vtk", "scan.hdr"):
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match=f"{name} could not be written again: give the study"):
            check_ct(tmp_path / name)
    with pytest.raises(ValueError, match=r"chest\.jpg would lose values: give the radiograph as"):
        check_radiograph(tmp_path / "chest.jpg")
    with pytest.raises(ValueError, match=r"chest\.vtk could not be written again"):
        check_radiograph(tmp_path / "chest.vtk")
    check_ct(tmp_path / "scan.NII.GZ")
    check_radiograph(tmp_path / "chest.png")
