"""`noduleforge prepare` run again on a store that is there already."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.io import whole_files
from datamodules.io.volumes import Volume, read_volume, write_volume
from noduleforge.prepare.cases import stems
from noduleforge.prepare.volumes import prepare_volumes

SIDE = 12

Row = tuple[str, str, str]


def write_scan(image: Path, mask: Path, radius: float) -> None:
    """A ball of soft tissue in lung, and its mask."""
    distance = np.linalg.norm(np.indices((SIDE,) * 3) - (SIDE - 1) / 2, axis=0)
    hu = np.where(distance < radius, 30, -800).astype(np.int16)
    for path, array in ((image, hu), (mask, (distance < radius).astype(np.uint8))):
        write_volume(path, Volume(array, (1.0,) * 3, (0.0,) * 3, np.eye(3)))


class Given:
    """A folder with scans and their table."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows: list[tuple[str, ...]] = []

    def add(self, patient: str, image: str, mask: str, radius: float, subtype: str = "") -> None:
        write_scan(self.root / image, self.root / mask, radius)
        self.rows.append((patient, image, mask, subtype))

    def prepare(self, out: str = "out", **settings: object) -> Path:
        table = pd.DataFrame(self.rows, columns=["patient_id", "image", "mask", "subtype"])
        table.to_csv(self.root / "cases.csv", index=False)
        prepare_volumes(
            self.root / "cases.csv", self.root / out, size=8, **{"workers": 1, **settings}
        )
        return self.root / out


@pytest.fixture
def given(tmp_path: Path) -> Given:
    return Given(tmp_path)


@pytest.fixture
def three(given: Given) -> Given:
    for number in range(3):
        given.add(f"P{number}", f"{number}.mha", f"m{number}.mha", 2.5 + number / 2, "solid")
    return given


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its path."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def nodules(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "nodules.csv", dtype=str)


@pytest.mark.parametrize(
    "folders",
    [
        ("张伟", "李娜", "王芳"),
        ("a b", "a_b", "a/b"),
        ("A", "a", "\uff21"),
        tuple("/".join(f"1.3.6.1.4.1.14519.5.2.1.{n}.{k:050}" for k in range(3)) for n in range(3)),
    ],
)
def test_scans_in_any_folders_are_cases_of_their_own(given: Given, folders: tuple) -> None:
    for number, folder in enumerate(folders):
        given.add(f"患者{number}", f"{folder}/ct.mha", f"{folder}/m.mha", 2.5 + number / 2)
    out = given.prepare()
    once = content(out)
    table = nodules(out)
    assert table["patient_id"].tolist() == ["患者0", "患者1", "患者2"]
    assert table["diameter_mm"].astype(float).is_monotonic_increasing
    assert table["image"].str.casefold().nunique() == 3
    assert max(len(name.encode()) for name in os.listdir(out / "cases")) < 100
    assert content(given.prepare()) == once


def test_names_of_files_differ_for_any_cases() -> None:
    names = stems({"a": "P1", "b": "p1", "c": "P/1", "d": "P 1", "e": "..", "f": "张" * 300})
    assert len({name.casefold() for name in names}) == len(names)
    assert names[0] == "P1_ca9781"  # as it was in stores that are there


def test_cases_whose_short_keys_are_the_same_get_long_ones() -> None:
    by_key: dict[str, str] = {}
    for number in range(100_000):  # two of them share six digits, as of about 5,000
        one = str(number)
        key = stems({one: "P"})[0]
        if key in by_key:
            break
        by_key[key] = one
    names = stems({by_key[key]: "P", one: "p", "other": "P"})
    assert [len(name) for name in names] == [18, 18, 8]
    assert len({name.casefold() for name in names}) == 3


def test_a_table_that_has_grown_is_read_to_its_end(three: Given) -> None:
    changed = {p: p.stat().st_mtime_ns for p in three.prepare().glob("[im]*/*")}
    three.add("P3", "3.mha", "m3.mha", 4.0)
    out = three.prepare()
    assert nodules(out)["patient_id"].tolist() == ["P0", "P1", "P2", "P3"]
    # and what was there is untouched
    assert {path: path.stat().st_mtime_ns for path in changed} == changed


def test_what_failed_is_tried_again(three: Given) -> None:
    for name in ("1.mha", "m2.mha"):
        (three.root / name).rename(three.root / f"away-{name}")
    out = three.prepare()
    assert nodules(out)["patient_id"].tolist() == ["P0"]
    assert (out / "report.csv").read_text().count("does not exist") == 2
    for name in ("1.mha", "m2.mha"):
        (three.root / f"away-{name}").rename(three.root / name)
    assert nodules(three.prepare())["patient_id"].tolist() == ["P0", "P1", "P2"]
    assert content(out) == content(three.prepare("new"))


def change_a_subtype(given: Given) -> None:
    given.rows[1] = (*given.rows[1][:3], "ground-glass")


def change_a_patient(given: Given) -> None:
    given.rows[1] = ("P1-corrected", *given.rows[1][1:])


def change_a_file(given: Given) -> None:
    write_scan(given.root / "1.mha", given.root / "m1.mha", 4.5)


def empty_a_mask(given: Given) -> None:
    nothing = np.zeros((SIDE,) * 3, np.uint8)
    write_volume(given.root / "m1.mha", Volume(nothing, (1.0,) * 3, (0.0,) * 3, np.eye(3)))


def take_a_row_away(given: Given) -> None:
    del given.rows[1]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    "change", [change_a_subtype, change_a_patient, change_a_file, empty_a_mask, take_a_row_away]
)
def test_what_has_changed_is_made_anew(
    change: Callable[[Given], None], whole: bool, three: Given
) -> None:
    out = three.prepare(whole=whole)
    before = content(out)
    change(three)
    assert content(three.prepare(whole=whole)) != before
    assert content(out) == content(three.prepare("new", whole=whole))


def test_files_that_were_lost_or_damaged_are_made_again(three: Given) -> None:
    out = three.prepare()
    before = content(out)
    next((out / "images").iterdir()).unlink()
    next((out / "cases").iterdir()).write_text("{")
    assert content(three.prepare()) == before


def test_files_of_others_are_left_alone(three: Given) -> None:
    out = three.prepare()
    (out / "masks/notes.txt").write_text("mine")
    (out / "images/mine.mha").write_text("mine")
    three.prepare()
    assert (out / "masks/notes.txt").is_file()
    assert (out / "images/mine.mha").is_file()


class Killed(BaseException):
    """Stands for a signal that lets nothing be tidied up."""


def test_killed_at_any_moment_and_run_again_it_gives_what_one_run_gives(
    three: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = content(three.prepare("once"))
    replace, unlink = os.replace, Path.unlink
    left = dead = 0

    def dying(source: Path, target: Path) -> None:
        nonlocal left, dead
        left -= 1
        if left == 0:
            dead = 1
            raise Killed
        replace(source, target)

    monkeypatch.setattr(whole_files.os, "replace", dying)
    monkeypatch.setattr(Path, "unlink", lambda *a, **k: None if dead else unlink(*a, **k))
    moments = len(expected)
    for moment in range(1, moments + 1):
        left, dead, out = moment, 0, f"out{moment}"
        with pytest.raises(Killed):
            three.prepare(out)
        left, dead = 0, 0
        assert content(three.prepare(out)) == expected
    left = moments + 1
    assert content(three.prepare("whole")) == expected


@pytest.mark.parametrize("text", ['{"size": 9}', "{", ""])
def test_other_settings_are_refused(text: str, three: Given) -> None:
    out = three.prepare()
    (out / "settings.json").write_text(text)
    with pytest.raises(FileExistsError, match="other settings"):
        three.prepare()


@pytest.mark.parametrize(
    ("other", "spelled"), [("p2", "2.mha"), ("P02", "2.mha"), ("P3", "./2.mha")]
)
def test_patients_that_might_be_one_are_refused(other: str, spelled: str, three: Given) -> None:
    three.rows.append((other, spelled, "m2.mha", ""))
    with pytest.raises(ValueError, match="P2") as refused:
        three.prepare()
    assert repr(other) in str(refused.value)
    assert not (three.root / "out").exists()


def test_blanks_make_no_other_patient(three: Given) -> None:
    three.add("\u00a0P2 ", "4.mha", "m4.mha", 3.0)
    assert nodules(three.prepare())["patient_id"].tolist() == ["P0", "P1", "P2", "P2"]


def test_a_scan_whose_path_is_too_long_stops_nobody(three: Given) -> None:
    three.rows.insert(0, ("P", "1" * 300, "m0.mha", ""))
    assert len(nodules(three.prepare())) == 3
    assert "too long" in (three.root / "out/report.csv").read_text()


def test_columns_of_ones_own_do_not_replace_computed_ones(given: Given) -> None:
    given.add("P1", "a.mha", "m.mha", 3.0)
    table = pd.DataFrame(
        [("P1", "a.mha", "m.mha", 99.0, 1.0, "mine", 7.0)],
        columns=["patient_id", "image", "mask", "diameter_mm", "x_mm", "nodule_id", "given_x_mm"],
    )
    table.to_csv(given.root / "cases.csv", index=False)
    prepare_volumes(given.root / "cases.csv", given.root / "out", size=8, workers=1)
    made = pd.read_csv(given.root / "out/nodules.csv").iloc[0]
    assert made["diameter_mm"] == pytest.approx(6, abs=0.5)
    assert made["x_mm"] == pytest.approx((SIDE - 1) / 2, abs=0.51)
    assert made["nodule_id"].startswith("P1_")
    assert (made["given_diameter_mm"], made["given_nodule_id"]) == (99.0, "mine")
    assert (made["given_x_mm"], made["given_given_x_mm"]) == (7.0, 1.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
@pytest.mark.parametrize("whole", [False, True])
def test_values_beyond_int16_become_its_ends(dtype: type, whole: bool, given: Given) -> None:
    import SimpleITK as sitk

    given.add("P1", "a.mha", "m.mha", 3.0)
    hu = read_volume(given.root / "a.mha").array.astype(dtype)
    hu[5, 5, 5:8] = 40_000, 32_768, 3_071
    hu[6, 6, 6] = -40_000
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(given.root / "a.mha"))
    out = given.prepare(whole=whole, spacing_mm=1.0)
    made = read_volume(out / nodules(out)["image"][0]).array
    assert (made.max(), made.min()) == (32_767, -32_768)
    assert (made == 3_071).sum() == 1
    assert "3 voxel(s) beyond -32768 to 32767 HU" in (out / "report.csv").read_text()


def test_masks_of_any_values_stop_nobody(three: Given) -> None:
    def write(name: str, array: np.ndarray) -> None:
        write_volume(three.root / name, Volume(array, (1.0,) * 3, (0.0,) * 3, np.eye(3)))

    hard = read_volume(three.root / "m2.mha").array
    broken = hard.astype(np.float32)
    broken[0, 0, 0] = 14.245
    for name, array in {
        "m255": hard * 255,
        "odd": hard * np.float32(14.245),
        "broken": broken,
        "scaled": hard * np.float32(0.99999994),
    }.items():
        three.add(name, f"{name}.mha", f"{name}-m.mha", 3.5)
        write(f"{name}-m.mha", array)
    out = three.prepare()
    table = nodules(out).set_index("patient_id")
    assert table.index.tolist() == ["P0", "P1", "P2", "m255", "odd", "scaled"]
    assert table.loc["P2":, "diameter_mm"].nunique() == 1
    assert "broken-m.mha has the value 14.245" in (out / "report.csv").read_text()
