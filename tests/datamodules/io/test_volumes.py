"""Files keep what they hold, and regions lie where they should."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from datamodules.io.volumes import (
    Volume,
    binarize,
    equivalent_diameter_mm,
    read_grid,
    read_volume,
    resample,
    resample_mask,
    write_volume,
)

SUFFIXES = (".mha", ".nii.gz", ".nii", ".nrrd")


def oblique(n: int) -> np.ndarray:
    plane = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    if n == 2:
        return plane
    first, second = np.eye(3), np.eye(3)
    first[:2, :2], second[1:, 1:] = plane, plane.T
    return first @ second


def volume(n: int = 3, direction: np.ndarray | None = None) -> Volume:
    shape = (11, 12, 13)[-n:]
    array = np.random.default_rng(0).integers(-1024, 3000, shape).astype(np.int16)
    matrix = np.eye(n) if direction is None else direction
    return Volume(array, (2.5, 0.7, 0.8)[-n:], (-3.25, 40.5, 100.0)[:n], matrix)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip(tmp_path: Path, suffix: str, n: int) -> None:
    before = volume(n, oblique(n))
    write_volume(tmp_path / f"a{suffix}", before)
    after = read_volume(tmp_path / f"a{suffix}")
    assert after.array.dtype == np.int16
    np.testing.assert_array_equal(after.array, before.array)
    assert after.grid.matches(before.grid)
    assert read_grid(tmp_path / f"a{suffix}").matches(before.grid)
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


@pytest.mark.parametrize(
    ("given", "stored"),
    [(bool, np.uint8), (np.uint8, np.uint8), (np.int64, np.int16), (float, np.float32)],
)
def test_stored_types(tmp_path: Path, given: type, stored: type) -> None:
    write_volume(tmp_path / "a.mha", Volume(np.ones((2, 3), given), (1, 1), (0, 0), np.eye(2)))
    assert read_volume(tmp_path / "a.mha").array.dtype == stored


def test_write_refuses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no ending that is known"):
        write_volume(tmp_path / "a.png", volume())
    large = Volume(np.full((2, 2), 40000), (1, 1), (0, 0), np.eye(2))
    with pytest.raises(ValueError, match="40000 do not fit into int16"):
        write_volume(tmp_path / "a.mha", large)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_cut_short(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_volume(path, volume())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="cut short"):
        read_volume(path)


def test_scaled_nifti_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    write_volume(path, volume())
    content = bytearray(path.read_bytes().replace(b"crc32=", b"other="))
    content[112:116] = np.float32(2.5).tobytes()  # scl_slope: ITK then gives floats
    path.write_bytes(content)
    np.testing.assert_allclose(read_volume(path).array, volume().array * 2.5)


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.mha does not exist"):
        read_volume(tmp_path / "absent.mha")
    (tmp_path / "text.mha").write_text("not an image")
    with pytest.raises(ValueError, match=r"text\.mha cannot be read as an image"):
        read_volume(tmp_path / "text.mha")
    color = sitk.GetImageFromArray(np.zeros((4, 4, 3), np.uint8), isVector=True)
    sitk.WriteImage(color, str(tmp_path / "color.mha"))
    with pytest.raises(ValueError, match=r"2 dimensions and 3 channel"):
        read_volume(tmp_path / "color.mha")


def test_a_file_that_itk_would_take_for_another_is_refused(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", volume())
    write_volume(tmp_path / "b.nii", volume())
    (tmp_path / "b.nii").rename(tmp_path / "a.nii")
    read_volume(tmp_path / "a.nii")
    for read in (read_volume, read_grid):
        with pytest.raises(
            ValueError, match=r"a\.nii\.gz lies beside a\.nii, which ITK would read"
        ):
            read(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("spacing", ["0 1 1", "-1 1 1", "nan 1 1", "1 1 inf"])
def test_bad_spacing(tmp_path: Path, spacing: str) -> None:
    write_volume(tmp_path / "a.mha", Volume(np.ones((2, 2, 2)), (1, 1, 1), (0, 0, 0), np.eye(3)))
    content = (tmp_path / "a.mha").read_bytes()
    bad = content.replace(b"ElementSpacing = 1 1 1", f"ElementSpacing = {spacing}".encode())
    (tmp_path / "a.mha").write_bytes(bad)
    with pytest.raises(ValueError, match="expected finite numbers above zero"):
        read_volume(tmp_path / "a.mha")


@pytest.mark.parametrize("n", [2, 3])
def test_world_and_back(n: int) -> None:
    grid = volume(n, oblique(n)).grid
    index = (1.5, 2.25, 7.0)[-n:]
    np.testing.assert_allclose(grid.index(grid.world(index)), index)
    image = sitk.GetImageFromArray(np.zeros(grid.shape))
    image.SetSpacing(grid.spacing_mm[::-1])
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(grid.direction.ravel().tolist())
    expected = image.TransformContinuousIndexToPhysicalPoint(index[::-1])
    np.testing.assert_allclose(grid.world(index), expected)


@pytest.mark.parametrize("n", [2, 3])
def test_same_grid_is_copied(n: int) -> None:
    source = volume(n, oblique(n))
    center = (5, 6, 7)[-n:]
    region = resample(source, source.grid.world(center), (4, 5, 6)[-n:], source.spacing_mm, fill=0)
    assert region.array.dtype == np.int16
    np.testing.assert_array_equal(
        region.array, source.array[(slice(3, 7), slice(4, 9), slice(4, 10))[-n:]]
    )
    first = (3, 4, 4)[-n:]
    np.testing.assert_allclose(region.origin_mm, source.grid.world(first))


def test_padding() -> None:
    source = volume()
    region = resample(
        source, source.grid.world((0, 0, 12)), (6, 6, 6), source.spacing_mm, fill=-1000
    )
    np.testing.assert_array_equal(region.array[3:, 3:, :4], source.array[:3, :3, 9:])
    assert (region.array[:3] == -1000).all()
    assert (region.array[..., 4:] == -1000).all()
    with pytest.raises(ValueError, match="entirely outside the image"):
        resample(source, (1e4, 0, 0), (6, 6, 6), source.spacing_mm, fill=0)


@pytest.mark.parametrize("n", [2, 3])
def test_interpolation_agrees_with_simpleitk(n: int) -> None:
    source = volume(n, oblique(n))
    center = source.grid.world((5.2, 6.1, 6.6)[-n:])
    size, fine = (6, 5, 4)[-n:], min(source.spacing_mm)
    region = resample(source, center, size, (fine,) * n, fill=0)
    image = sitk.GetImageFromArray(source.array.astype(np.float32))
    image.SetSpacing(source.spacing_mm[::-1])
    image.SetOrigin(source.origin_mm)
    image.SetDirection(source.direction.ravel().tolist())
    expected = sitk.Resample(
        image,
        size[::-1],
        sitk.Transform(n, sitk.sitkIdentity),
        sitk.sitkLinear,
        region.origin_mm,
        (fine,) * n,
        source.direction.ravel().tolist(),
    )
    np.testing.assert_allclose(region.array, sitk.GetArrayFromImage(expected), atol=0.05)
    np.testing.assert_allclose(region.grid.world([s // 2 for s in size]), center)


@pytest.mark.parametrize("n", [2, 3])
def test_a_coarser_grid_sees_no_alias_and_keeps_slopes(n: int) -> None:
    side, step = (64, 24)[n - 2], 4
    stripes = np.broadcast_to(np.arange(side) % 2, (side,) * n).astype(np.float32)
    slope = np.broadcast_to(np.arange(side), (side,) * n).astype(np.float32)
    middle, size = (side // 2,) * n, (3,) * n
    for array, expected in (
        (stripes, [0.5] * 3),
        (slope, [side // 2 + step * k for k in (-1, 0, 1)]),
    ):
        fine = Volume(array, (1.0,) * n, (0.0,) * n, np.eye(n))
        coarse = resample(fine, middle, size, (float(step),) * n, fill=0)
        np.testing.assert_allclose(coarse.array, np.broadcast_to(expected, size), atol=0.01)


def test_masks_stay_binary_and_keep_their_volume() -> None:
    z, y, x = np.indices((30, 60, 60))
    ball = (z * 2.0 - 30) ** 2 + (y - 30) ** 2 + (x - 30) ** 2 < 12**2
    mask = Volume(ball.astype(np.int32), (2, 1, 1), (0, 0, 0), np.eye(3))
    fine = resample_mask(mask, (30, 30, 30), (50, 50, 50), (0.75, 0.75, 0.75))
    assert fine.array.dtype == np.uint8
    assert set(np.unique(fine.array)) == {0, 1}
    assert fine.array.sum() * 0.75**3 == pytest.approx(ball.sum() * 2, rel=0.05)


def test_binarize_loses_no_nodule() -> None:
    thin = np.zeros((5, 5), np.float32)
    assert binarize(thin).sum() == 0
    thin[2, 2] = 0.2
    assert binarize(thin).sum() == 1
    thin[2, 3] = 0.5
    np.testing.assert_array_equal(np.argwhere(binarize(thin)), [[2, 3]])


def test_equivalent_diameters_are_those_of_discs_and_balls() -> None:
    grid = np.indices((41, 41, 41)) - 20
    ball = np.sqrt((grid**2).sum(0)) <= 12
    assert equivalent_diameter_mm(ball, (0.5, 0.5, 0.5)) == pytest.approx(12, rel=0.01)
    assert equivalent_diameter_mm(ball[20], (0.5, 0.5)) == pytest.approx(12, rel=0.02)
    stretched = equivalent_diameter_mm(ball, (4.0, 0.5, 0.5))
    assert stretched == pytest.approx(2 * equivalent_diameter_mm(ball, (0.5, 0.5, 0.5)))
    assert equivalent_diameter_mm(np.zeros((3, 3)), (1, 1)) == 0
