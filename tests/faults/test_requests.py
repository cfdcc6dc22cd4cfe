"""Requests for nodules in whole studies and radiographs: each row, each study, all of a table."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from faulty import Case, cases
from faulty_edits import Spoil, both, cell, cut, flip, image, move, nothing, remove, rows, text

from datamodules.io.volumes import read_volume

TABLE, MANIFEST = "requests.csv", "nodules.csv"
BINS = 16


def asked(column: str, value: object) -> Spoil:
    """The only request has another cell."""
    return cell(TABLE, column, value)


ALONE = [
    Case(f"{name}, alone in its table", "insert", spoil, says)
    for name, spoil, says in (
        ("a name that leads out", asked("name", "x/../../../beside/victim"), ("name", "x/..")),
        ("a name that is a path", asked("name", "/tmp/x"), ("/tmp/x",)),
        ("a name of a device", asked("name", "con"), ("con",)),
        ("a name of 300 letters", asked("name", "n" * 300), ("name", "200")),
        ("a seed of inf", asked("seed", "inf"), ("seed", "inf")),
        ("a seed of words", asked("seed", "seven"), ("seed", "seven")),
        ("a seed of 30 digits", asked("seed", "9" * 30), ("seed", "64 bits")),
        ("a seed of a half", asked("seed", "7.5"), ("seed", "7.5")),
        ("a diameter of 0", asked("diameter_mm", "0"), ("diameter_mm", "0")),
        ("a negative diameter", asked("diameter_mm", "-3"), ("diameter_mm", "-3")),
        ("a diameter of NaN", asked("diameter_mm", "nan"), ("diameter_mm",)),
        ("a diameter of words", asked("diameter_mm", "big"), ("diameter_mm", "big")),
        ("a diameter of a metre", asked("diameter_mm", "1000"), ("ROI",)),
        ("a place of words", asked("z", "top"), ("z", "top")),
        ("a place of inf", asked("z", "inf"), ("z", "inf")),
        ("a place beyond the study", asked("z", "2000"), ("2000",)),
        ("a place without an axis", asked("z", ""), ("z",)),
        ("an unknown subtype", asked("subtype", "cavity"), ("cavity", "solid")),
        ("no subtype", asked("subtype", ""), ("subtype",)),
        ("a rating of 9", asked("malignancy", "9"), ("malignancy", "9")),
        ("a rating of words", asked("malignancy", "high"), ("malignancy", "high")),
        ("a histogram of words", asked("histogram", "much less"), ("histogram", "much")),
        ("a histogram with a NaN", asked("histogram", "nan " * BINS), ("histogram",)),
        ("a histogram below 0", asked("histogram", "-1 2"), ("histogram",)),
        ("a histogram of too few", asked("histogram", "0.5 0.5"), ("histogram", "2")),
        ("a histogram that sums to 2", asked("histogram", "1 1"), ("histogram", "2")),
        ("a patient of 300 letters", asked("patient_id", "p" * 300), ("patient_id", "64")),
        ("a patient with a backslash", asked("patient_id", "a\\b"), ("patient_id", "a\\\\b")),
        ("a patient with an end of line", asked("patient_id", "a\nb"), ("patient_id",)),
        ("a missing study", asked("study", "none.mha"), ("none.mha",)),
        ("an empty study", asked("study", ""), ("study",)),
        ("a study with a flipped bit", flip("a.mha"), ("a.mha",)),
        ("a study cut in half", cut("a.mha"), ("a.mha",)),
        (
            "a study of grey values",
            image("a.mha", lambda a: (a * 0 + 9).astype(np.uint8)),
            ("a.mha",),
        ),
        ("a study that is a plane", image("a.mha", lambda a: a[0]), ("a.mha",)),
        ("a study that is no lung", image("a.mha", lambda a: a * 0 + 40), ("lung",)),
        ("a missing mask", asked("mask", "none.mha"), ("none.mha",)),
        ("a mask that is no image", both(text("m.mha", "x"), asked("mask", "m.mha")), ("m.mha",)),
        ("the study as its mask", asked("mask", "a.mha"), ("a.mha",)),
        ("a folder as study", both(lambda r: (r / "d").mkdir(), asked("study", "d")), ("d",)),
    )
]


@cases(ALONE)
def test_a_faulty_request_alone_is_refused(case: Case, attempt: Callable[[Case], None]) -> None:
    attempt(case)


BESIDE = [
    Case(
        f"{name}, beside a right one",
        "insert",
        rows(TABLE, {"name": "other", **cells}),
        (says,),
        told_in=MANIFEST,
    )
    for name, cells, says in (
        ("a name that leads out", {"name": "../beside/victim"}, "../beside"),
        ("a missing study", {"study": "none.mha"}, "none.mha"),
        ("a place beyond", {"z": "900"}, "900"),
        ("the same place", {}, "is at the place of"),
        ("a diameter of words", {"diameter_mm": "big"}, "big"),
    )
]


@cases(BESIDE)
def test_a_faulty_request_stops_no_other(case: Case, attempt: Callable[[Case], None]) -> None:
    attempt(case)


def inserted(out: Path) -> None:
    """One nodule, in a study whose voxels far from it are as they were."""
    table = pd.read_csv(out / MANIFEST)
    table = table[table["status"] == "inserted"]
    assert len(table) == 1
    before = read_volume(next(Path("in").glob("a.*"))).array
    after = read_volume(out / table["image"].iloc[0]).array
    assert after.dtype == before.dtype
    changed = np.argwhere(after != before)
    assert len(changed)
    assert (np.abs(changed - [12, 20, 20]) < 12).all()
    np.testing.assert_array_equal(after[:, :4], before[:, :4])


RIGHT = [
    Case(name, "insert", spoil, right=inserted)
    for name, spoil in (
        ("float HU", image("a.mha", lambda a: a.astype(np.float32))),
        ("double HU", image("a.mha", lambda a: a.astype(np.float64))),
        ("int32 HU", image("a.mha", lambda a: a.astype(np.int32))),
        ("an ending in capitals", both(move("a.mha", "a.MHA"), asked("study", "a.MHA"))),
        ("a seed with .0", asked("seed", "7.0")),
        ("blanks around a patient", asked("patient_id", " P1 ")),
        ("a patient in kanji", asked("patient_id", "山田")),
        ("a histogram", asked("histogram", " ".join([str(1 / BINS)] * BINS))),
        ("a path with dots", asked("study", "../in/./a.mha")),
    )
]
SETTINGS = [
    Case(name, "insert", spoil, says, options)
    for name, spoil, says, options in (
        ("no table", remove(TABLE), (TABLE,), ""),
        (
            "names that differ in case",
            rows(TABLE, {"name": "A"}, {"name": "a"}),
            ("'A'", "'a'"),
            "",
        ),
        ("a doubled name", rows(TABLE, {"name": "A"}, {"name": "A"}), ("'A'",), ""),
        ("an ROI that is not the model's", nothing, ("roi",), "--data.init_args.roi {size: 8}"),
        ("a batch of 0", nothing, ("batch_size",), "--data.init_args.batch_size 0"),
        ("no model", nothing, ("none.ckpt",), "--ckpt_path none.ckpt"),
    )
]


@cases(RIGHT)
def test_right_requests_are_fulfilled(case: Case, attempt: Callable[[Case], None]) -> None:
    attempt(case)


@cases(SETTINGS)
def test_settings_of_requests_are_checked(case: Case, attempt: Callable[[Case], None]) -> None:
    attempt(case)


FILMS = [
    Case(f"{name}, on a radiograph", "adapters", spoil, says)
    for name, spoil, says in (
        ("no spacing", asked("spacing_mm", ""), ("spacing_mm",)),
        ("a spacing of 0", asked("spacing_mm", "0"), ("spacing_mm", "0")),
        ("a spacing of words", asked("spacing_mm", "wide"), ("spacing_mm", "wide")),
        ("three spacings", asked("spacing_mm", "1 1 1"), ("spacing_mm",)),
        ("a missing radiograph", asked("study", "none.png"), ("none.png",)),
        ("a radiograph cut in half", cut("film.png"), ("film.png",)),
        ("a radiograph with a flipped bit", flip("film.png"), ("film.png",)),
        ("a text as radiograph", text("film.png", "x"), ("film.png",)),
        ("a place beyond", asked("y", "900"), ("675",)),
    )
]


@cases(FILMS)
def test_faulty_requests_for_radiographs_are_refused(
    case: Case, attempt: Callable[[Case], None]
) -> None:
    attempt(case)
