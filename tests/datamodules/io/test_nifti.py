"""NIfTI is whole, says one place for its voxels, and is read whatever its file is called."""

import gzip
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from datamodules.io.volumes import Volume, read_grid, read_volume, write_volume

ARRAY = np.random.default_rng(0).integers(-1000, 400, (7, 8, 9)).astype(np.int16)


def placed(path: Path, sform: tuple[np.ndarray, int], qform: tuple[np.ndarray, int]) -> Path:
    image = nib.Nifti1Image(ARRAY.transpose(2, 1, 0), sform[0])
    image.set_qform(*qform)
    image.set_sform(*sform)
    nib.save(image, path)
    return path


def affine(*shift_mm: float, angles: tuple[float, ...] = (0, 0, 0)) -> np.ndarray:
    matrix = np.eye(4)
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    matrix[:3, :3] = turn @ np.diag([-0.7, -0.7, 1.25])
    matrix[:3, 3] = shift_mm
    return matrix


@pytest.fixture
def plain(tmp_path: Path) -> bytes:
    write_volume(tmp_path / "plain.nii", Volume(ARRAY, (2, 1, 1), (0, 0, 0), np.eye(3)))
    return (tmp_path / "plain.nii").read_bytes()


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.nii.gz", None),
        ("a.NII", None),
        ("a.NII.GZ", 1),
        ("a.nii.gz", 3),
    ],
)
def test_the_content_says_what_is_compressed(
    tmp_path: Path, plain: bytes, name: str, parts: int | None
) -> None:
    ends = np.linspace(0, len(plain), (parts or 1) + 1).astype(int)
    members = [gzip.compress(plain[a:b]) for a, b in itertools.pairwise(ends)]
    (tmp_path / name).write_bytes(b"".join(members) if parts else plain)
    np.testing.assert_array_equal(read_volume(tmp_path / name).array, ARRAY)


@pytest.mark.parametrize("name", ["a.MHA", "a.NRRD", "a.NII.GZ", "a.MHD"])
def test_endings_in_capitals_are_the_same(tmp_path: Path, name: str) -> None:
    volume = Volume(ARRAY, (2, 1, 1), (0, 0, 0), np.eye(3))
    write_volume(tmp_path / name.lower().replace("mhd", "mha"), volume)
    (tmp_path / name.lower().replace("mhd", "mha")).rename(tmp_path / name)
    np.testing.assert_array_equal(read_volume(tmp_path / name).array, ARRAY)


@pytest.mark.parametrize(("name", "mend"), [("a.nii", "gzip"), ("a.Nii.Gz", "small letters")])
def test_what_cannot_be_read_is_named(tmp_path: Path, plain: bytes, name: str, mend: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(plain))
    with pytest.raises(ValueError, match=mend):
        read_volume(tmp_path / name)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.NII.GZ", "a.nii"])
@pytest.mark.parametrize("lost", [8, 200])
def test_what_is_cut_short_is_refused(tmp_path: Path, plain: bytes, name: str, lost: int) -> None:
    content = plain if name.endswith(".nii") else gzip.compress(plain)
    (tmp_path / name).write_bytes(content[:-lost])
    with pytest.raises(ValueError, match="cut short"):
        read_volume(tmp_path / name)


def test_a_changed_bit_is_refused(tmp_path: Path, plain: bytes) -> None:
    content = gzip.compress(plain)
    for number, place in enumerate(np.linspace(400, len(content) - 9, 20).astype(int)):
        changed = bytearray(content)
        changed[place] ^= 1 << number % 8
        (tmp_path / f"{number}.nii.gz").write_bytes(changed)
        with pytest.raises(ValueError, match=rf"{number}\.nii\.gz"):
            read_volume(tmp_path / f"{number}.nii.gz")


def test_a_pair_of_files_is_whole_or_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(ARRAY.transpose(2, 1, 0), affine(0, 0, 0)), tmp_path / "a.hdr")
    for name in ("a.hdr", "a.img"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).array, ARRAY)
    (tmp_path / "a.img").write_bytes((tmp_path / "a.img").read_bytes()[:-2])
    for name in ("a.hdr", "a.img"):
        with pytest.raises(ValueError, match=r"a\.img is cut short"):
            read_volume(tmp_path / name)


@pytest.mark.parametrize("codes", [(1, 1), (2, 1), (1, 2), (4, 1)])
@pytest.mark.parametrize(
    "other", [affine(120, 90, -50), affine(100, 90, -50, angles=(0, 0, 1))], ids=["far", "turned"]
)
def test_two_places_are_refused_with_both(
    tmp_path: Path, codes: tuple[int, int], other: np.ndarray
) -> None:
    path = placed(tmp_path / "a.nii", (affine(100, 90, -50), codes[0]), (other, codes[1]))
    for read in (read_grid, read_volume):
        with pytest.raises(ValueError, match=r"a\.nii: sform \(code") as caught:
            read(path)
        assert f"sform (code {codes[0]}) puts its first voxel at (-100.00, -90.00" in str(
            caught.value
        )
        assert f"qform (code {codes[1]}) puts its first voxel at (-{other[0, 3]:.2f}" in str(
            caught.value
        )


def test_a_place_that_is_unknown_does_not_count(tmp_path: Path) -> None:
    right, wrong = affine(100, 90, -50), affine(120, 90, -50)
    by_sform = placed(tmp_path / "s.nii", (right, 1), (wrong, 0))
    by_qform = placed(tmp_path / "q.nii", (wrong, 0), (right, 1))
    for path in (by_sform, by_qform):
        assert read_grid(path).origin_mm == pytest.approx((-100, -90, -50))


def test_a_sheared_place_is_refused(tmp_path: Path) -> None:
    sheared = affine(100, 90, -50)
    sheared[0, 1] = 0.05
    for code, what in ((1, "qform"), (0, "orthonormal")):
        path = placed(tmp_path / f"{code}.nii", (sheared, 1), (affine(100, 90, -50), code))
        with pytest.raises(ValueError, match=what):
            read_grid(path)
    stretched = placed(tmp_path / "a.nii", (affine(100, 90, -50), 1), (affine(0, 0, 0), 0))
    content = bytearray(stretched.read_bytes())
    content[80:84] = np.float32(0.9).tobytes()  # pixdim[1]
    stretched.write_bytes(content)
    with pytest.raises(ValueError, match="no grid of perpendicular axes with its own spacing"):
        read_grid(stretched)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3], ids=["m", "mm", "um"])
def test_the_unit_of_length_counts(tmp_path: Path, unit: float) -> None:
    scaled = affine(100, 90, -50) * unit
    scaled[3, 3] = 1
    path = placed(tmp_path / "a.nii", (scaled, 1), (scaled, 1))
    content = bytearray(path.read_bytes())
    content[123] = {1e-3: 1, 1.0: 2, 1e3: 3}[unit]  # xyzt_units
    path.write_bytes(content)
    assert read_grid(path).origin_mm == pytest.approx((-100, -90, -50))


def test_rounding_of_quaternions_is_no_other_place(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(40):
        angles = tuple(rng.normal(0, 10.0 ** rng.uniform(-5, 1), 3))
        one = affine(*rng.uniform(-300, 300, 3), angles=angles)
        read_grid(placed(tmp_path / f"{number}.nii", (one, 1), (one, 1)))
