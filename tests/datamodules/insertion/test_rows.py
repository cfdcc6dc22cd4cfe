"""Rows of requests: what cells may say, and that one that may not fails alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from insertions import asked_of

from datamodules.batch import Roi
from datamodules.insertion.modules import InsertionDataModule
from datamodules.insertion.requests import by_study, read_requests
from datamodules.insertion.rois import Places, Region
from datamodules.insertion.rows import check_identifier, check_row, histogram_of, seed_of
from datamodules.io.volumes import Volume, write_volume

GOOD = {"name": "n0", "copy": "", "study": "scan.mha", "number": 0}


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"name": "x/../../../victim/masks/n0"}, "name is 'x/../../../victim/masks/n0', which"),
        ({"name": "a\nb"}, r"name is 'a\\nb', which names files"),
        ({"x_mm": "inf"}, "x_mm is 'inf': give a finite number"),
        ({"z": "1,5"}, "z is '1,5': give a finite number"),
        ({"diameter_mm": "-4"}, "diameter_mm is -4: give a number above 0"),
        ({"malignancy": "9"}, "malignancy is 9: give a rating from 1 to 5"),
        ({"histogram": "0.5 nan 0.5"}, "histogram sums to nan: give shares"),
        ({"histogram": "1.5 -0.5"}, "histogram sums to 1: give shares of at least 0"),
        ({"histogram": "0.5 inf"}, "histogram sums to inf: give shares"),
        ({"spacing_mm": "0.5 nan"}, "spacing_mm is '0.5 nan': give a number above 0, or two"),
        ({"spacing_mm": "inf"}, "spacing_mm is 'inf': give a number above 0, or two"),
        ({"seed": "inf"}, "seed is 'inf': give a whole number of at most 64 bits"),
        ({"seed": "1.5"}, "seed is '1.5': give a whole number"),
        ({"seed": "9" * 30}, "seed is '9*': give a whole number"),
        ({"patient_id": "p" * 65}, "patient_id has 65 characters, which DICOM cannot hold"),
        ({"patient_id": " "}, "patient_id has 0 characters"),
        ({"patient_id": "a\\b"}, "patient_id is .*: leave out backslashes"),
        ({"patient_id": "a\nb"}, "patient_id is .*: leave out backslashes, ends of lines"),
        ({"shape_patient_id": "a\x00b"}, "shape_patient_id is .*: leave out backslashes"),
    ],
)
def test_what_a_cell_may_not_say_is_refused(cells: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_row({**GOOD, **cells}, Path())


def test_a_row_without_a_study_is_refused() -> None:
    with pytest.raises(ValueError, match="has no study: say which"):
        check_row({"name": "n0", "copy": "", "number": 0}, Path())


def test_cells_become_what_they_mean() -> None:
    cells = {"x_mm": "1.5", "diameter_mm": "8", "texture": "5", "seed": "7.0", "subtype": "solid"}
    row = check_row({**GOOD, **cells, "patient_id": " 007 "}, Path())
    assert (row["x_mm"], row["diameter_mm"], row["texture"], row["index"]) == (1.5, 8.0, 5.0, 7)
    assert (row["patient_id"], row["subtype"]) == ("007", "solid")
    assert check_row({**GOOD, "number": 3}, Path())["index"] == 3


@pytest.mark.parametrize("seed", [0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63)])
def test_seeds_of_64_bits_stay_as_they_are(seed: int) -> None:
    assert seed_of(str(seed)) == seed


@pytest.mark.parametrize("name", ["007", "p" * 64, "患者一", "O'Neil", "a^b=c"])
def test_identifiers_that_dicom_can_hold_stay(name: str) -> None:
    assert check_identifier("patient_id", name) == name


def test_shares_are_normalized() -> None:
    assert histogram_of({"histogram": "0.2501 0.75"}) == pytest.approx((0.25, 0.75), abs=1e-3)
    assert histogram_of({}) == ()


def test_a_study_is_one_however_its_path_is_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    paths = ("scan.mha", "./scan.mha", str(tmp_path / "scan.mha"), "link/scan.mha", "other.mha")
    rows = [{**GOOD, "name": f"n{k}", "study": path} for k, path in enumerate(paths)]
    studies, failed = by_study(rows, tmp_path, 0)
    assert [[row["name"] for row in group] for group in studies] == [
        ["n0", "n1", "n2", "n3"],
        ["n4"],
    ]
    assert not failed


def test_requests_for_one_study_agree_on_whose_it_is_and_histograms_on_their_bins() -> None:
    rows = [
        {**GOOD, "name": "a", "patient_id": "P1", "histogram": "0.5 0.5"},
        {**GOOD, "name": "b", "patient_id": "P2"},
        {**GOOD, "name": "c"},
        {**GOOD, "name": "d", "patient_id": "P1", "histogram": "1 0 0"},
        {**GOOD, "name": "e", "patient_id": "P2", "copy": "1"},
    ]
    studies, failed = by_study(rows, Path(), 0)
    assert [[row["name"] for row in group] for group in studies] == [["a"], ["e"]]
    assert failed["b"] == (
        "patient_id is 'P2', but a has 'P1' for the same study: give both the same"
    )
    assert failed["c"].startswith("patient_id is '', but a has 'P1'")
    assert failed["d"] == "histogram has 3 shares: give 2, one for each bin"
    assert by_study(rows[:1], Path(), 16)[1]["a"].startswith("histogram has 2 shares: give 16")


def test_names_that_differ_in_case_alone_are_refused(tmp_path: Path) -> None:
    (tmp_path / "requests.csv").write_text("study,name\na,N0\nb,n0\n")
    with pytest.raises(ValueError, match="requests of the same name, 'N0' and 'n0': make names"):
        read_requests(tmp_path / "requests.csv")


def test_half_a_position_and_paths_that_are_no_paths_fail_alone(tmp_path: Path) -> None:
    array = np.full((40, 40, 40), -800, np.int16)
    write_volume(tmp_path / "scan.mha", Volume(array, (1.0,) * 3, (0.0,) * 3, np.eye(3)))
    ball = {"study": "scan.mha", "subtype": "solid", "diameter_mm": 6, "z": 20, "y": 20, "x": 20}
    rows: list[dict[str, Any]] = [
        {**ball, "name": "half", "x": None},
        {**ball, "name": "mixed", "x_mm": 20, "y_mm": 20},
        {**ball, "name": "long", "study": "x/" * 3000},
        {**ball, "name": "zero", "mask": "m" * 3000},
        {**ball, "name": "kind", "study": "scan.vtk"},
        {**ball, "name": "good"},
    ]
    (tmp_path / "scan.vtk").touch()
    pd.DataFrame(rows).to_csv(tmp_path / "requests.csv", index=False)
    plan, _ = asked_of(InsertionDataModule(tmp_path / "requests.csv"), Roi(32))
    assert list(plan.waiting) == ["good"]
    assert plan.failed["half"] == "has only some of z, y, x: give all, or none of them"
    assert plan.failed["mixed"] == "has only some of x_mm, y_mm, z_mm: give all, or none of them"
    assert set(plan.failed) == {"half", "mixed", "long", "zero", "kind"}


def region(name: str, x: float) -> Region:
    """A nodule of 4 voxels along each edge, at a place along x."""
    mask = np.zeros((8, 8, 8), np.uint8)
    mask[2:6, 2:6, 2:6] = 1
    image = Volume(np.zeros((8, 8, 8)), (1.0,) * 3, (x, -300.0, 0.0), np.eye(3))
    return Region({"name": name}, image, mask, ())


def test_a_place_is_taken_once_wherever_cells_begin() -> None:
    places = Places(8)
    for k, x in enumerate((0.0, 4.0, 8.0, -4.0)):
        places.take(region(f"n{k}", x))
    for x, name in ((3.0, "n0"), (7.0, "n1"), (-1.0, "n0"), (-6.0, "n3")):
        with pytest.raises(ValueError, match=f"is at the place of {name}: give another"):
            places.take(region("late", x))
    places.take(region("apart", 40.0))


def test_places_are_compared_with_their_neighbours_alone() -> None:
    """Ten times as many nodules take ten times as many comparisons."""
    places = Places(8)
    for k in range(200):
        places.take(region(f"n{k}", 10.0 * k))
    assert max(map(len, places.cells.values())) <= 2
