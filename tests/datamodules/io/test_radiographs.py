"""Radiograph files: what is read, which way up, and what is refused."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from datamodules.io.radiographs import (
    lies_on_its_side,
    lung_point,
    read_grey,
    read_img,
    read_lungs,
    read_radiograph,
)
from datamodules.io.volumes import Volume, write_volume


def chest(seed: int = 0, side: int = 128) -> np.ndarray:
    """Two dark lungs beside a bright spine, abdomen below, a body brighter on one side."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    lungs = sum(
        np.exp(-(((x - c) / 0.13) ** 4) - ((y - 0.45) / 0.28) ** 4)
        for c in (0.28 + rng.uniform(-0.03, 0.03), 0.72 + rng.uniform(-0.03, 0.03))
    )
    body = 120 + 60 * y + rng.uniform(-40, 40) * x
    noise = ndimage.gaussian_filter(rng.normal(0, 60, (side, side)), 2)
    return np.clip(body - 80 * lungs + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(8))
def test_upright_and_turned_radiographs_are_told_apart(seed: int) -> None:
    radiograph = chest(seed)
    assert not lies_on_its_side(radiograph)
    assert not lies_on_its_side(np.rot90(radiograph, 2))
    assert lies_on_its_side(np.rot90(radiograph))
    assert lies_on_its_side(np.rot90(radiograph, 3))


def test_a_blank_radiograph_does_not_lie_on_its_side() -> None:
    assert not lies_on_its_side(np.full((50, 40), 7, np.uint16))


@pytest.mark.skipif(
    "NODULE_DATA" not in os.environ, reason="NODULE_DATA is not set: no real radiographs"
)
def test_real_radiographs_on_their_side_are_found() -> None:
    root = Path(os.environ["NODULE_DATA"]) / "chestxray14"
    known = set((root / "rotated.txt").read_text().split())
    found = {path.name for path in (root / "images").iterdir() if lies_on_its_side(read_grey(path))}
    assert found == known


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA"])
def test_pictures_are_read_as_grey_whatever_their_mode(tmp_path: Path, mode: str) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey).convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_grey(tmp_path / "a.png"), grey)


def test_16_bit_pictures_keep_their_values(tmp_path: Path) -> None:
    deep = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(deep).save(tmp_path / "a.png")
    radiograph = read_radiograph(tmp_path / "a.png", (0.2, 0.3))
    np.testing.assert_array_equal(radiograph.array, deep)
    assert radiograph.spacing_mm == (0.2, 0.3)


def test_jsrt_is_big_endian_and_bone_becomes_bright(tmp_path: Path) -> None:
    density = np.zeros((2048, 2048), ">u2")
    density[3, 5], density[7, 9] = 4095, 256  # lung lets much radiation through: high density
    (tmp_path / "a.IMG").write_bytes(density.tobytes())
    radiograph = read_radiograph(tmp_path / "a.IMG", None)
    assert radiograph.array[3, 5] == 0
    assert radiograph.array[7, 9] == 4095 - 256
    assert radiograph.array[0, 0] == 4095
    assert radiograph.spacing_mm == (0.175, 0.175)


def test_radiographs_with_a_header_are_read_with_their_spacing(tmp_path: Path) -> None:
    radiograph = Volume(np.ones((4, 6), np.int16), (0.5, 0.4), (1.0, 2.0), np.eye(2))
    write_volume(tmp_path / "a.mha", radiograph)
    assert read_radiograph(tmp_path / "a.mha", None).spacing_mm == pytest.approx((0.5, 0.4))


def test_what_is_wrong_with_a_radiograph_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_radiograph(tmp_path / "a.IMG", None)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_radiograph(tmp_path / "a.png", (1, 1))
    (tmp_path / "a.IMG").write_bytes(b"\0" * 1000)
    with pytest.raises(ValueError, match="has 1000 bytes, expected 8388608"):
        read_img(tmp_path / "a.IMG")
    swapped = np.full(2048**2, 4000, "<u2")
    (tmp_path / "a.IMG").write_bytes(swapped.tobytes())
    with pytest.raises(ValueError, match="expected at most 4095"):
        read_img(tmp_path / "a.IMG")
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="no picture or cut short"):
        read_grey(tmp_path / "a.png")
    Image.fromarray(chest()).save(tmp_path / "b.png")
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="no picture or cut short"):
        read_grey(tmp_path / "b.png")
    with pytest.raises(ValueError, match="holds no spacing"):
        read_radiograph(tmp_path / "b.png", None)
    write_volume(tmp_path / "c.mha", Volume(np.ones((4, 6, 5)), (1,) * 3, (0,) * 3, np.eye(3)))
    with pytest.raises(ValueError, match="has 3 dimensions"):
        read_radiograph(tmp_path / "c.mha", None)


def test_lung_masks_are_joined_and_points_lie_in_them(tmp_path: Path) -> None:
    for side, columns in (("left", slice(0, 8)), ("right", slice(24, 32))):
        mask = np.zeros((32, 32), np.uint8)
        mask[10:20, columns] = 255
        (tmp_path / side).mkdir()
        Image.fromarray(mask).save(tmp_path / side / "radiograph.gif")
    lungs = read_lungs(tmp_path, "radiograph", (64, 128))
    assert lungs.shape == (64, 128)
    assert lungs[20:40, :32].all()
    assert lungs[20:40, 96:].all()
    assert lungs.sum() == 20 * 64
    rng = np.random.default_rng(0)
    points = [lung_point(lungs.shape, lungs, rng) for _ in range(200)]
    assert all(lungs[int(y), int(x)] for y, x in points)
    assert {x > 64 for _, x in points} == {True, False}
    with pytest.raises(FileNotFoundError, match=r"no lung mask named other\.\*"):
        read_lungs(tmp_path, "other", (64, 128))


def test_lung_masks_are_found_by_whole_names(tmp_path: Path) -> None:
    for number, name in enumerate(("1.2.3", "1.2.3.4", "1.2", "a[1]")):
        mask = np.zeros((8, 8), np.uint8)
        mask[number] = 1
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
    for number, name in enumerate(("1.2.3", "1.2.3.4", "1.2", "a[1]")):
        lungs = read_lungs(tmp_path, name, (8, 8))
        assert np.flatnonzero(lungs.any(axis=1)).tolist() == [number]
    with pytest.raises(FileNotFoundError, match="no lung mask named 1"):
        read_lungs(tmp_path, "1", (8, 8))


def test_points_without_a_mask_lie_beside_the_spine() -> None:
    rng = np.random.default_rng(0)
    points = np.array([lung_point((100, 200), None, rng) for _ in range(500)])
    assert points[:, 0].min() > 25
    assert points[:, 0].max() < 65
    assert (np.abs(points[:, 1] - 100) > 18).all()
