"""What a run leaves behind: nothing of what failed, and always the manifest."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
from dicom import uid_of, write_series
from insertions import painted

from callbacks.edited_study import EditedStudy
from callbacks.insertion import StudyWriter
from callbacks.study_files import CTFiles
from datamodules.insertion.modules import InsertionDataModule
from datamodules.io.volumes import Volume, read_volume, write_volume

NODULE = {"subtype": "solid", "study": "scan.mha", "z": 20, "y": 20, "x": 20, "diameter_mm": 6}

FINISHED = {"nodules.csv", "index.html", "generator.json", "README.md"}
"""What a run without one inserted nodule leaves."""

Run = Callable[[list[dict[str, Any]]], pd.DataFrame]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs requests for one small study in the folder `run`; returns the manifest."""
    array = np.random.default_rng(0).integers(-950, -650, (40, 40, 40)).astype(np.int16)
    write_volume(tmp_path / "scan.mha", Volume(array, (1.0,) * 3, (0.0,) * 3, np.eye(3)))
    return lambda rows: insert(tmp_path, rows)


def insert(folder: Path, rows: list[dict[str, Any]]) -> pd.DataFrame:
    pd.DataFrame([{**NODULE, **row} for row in rows]).to_csv(folder / "requests.csv", index=False)
    data = InsertionDataModule(folder / "requests.csv")
    return painted(data, folder / "run", StudyWriter())


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_nothing_is_written_outside_the_run_whatever_a_table_says(run: Run, tmp_path: Path) -> None:
    victim = tmp_path / "victim/masks/n0.nii.gz"
    victim.parent.mkdir(parents=True)
    victim.write_bytes(b"somebody's")
    before = files(tmp_path) | {"requests.csv"}
    names = ["x/../../../victim/masks/n0", str(victim)[:-7], "..", "a\\b", "x\n"]
    manifest = run([{"name": "good"}, *[{"name": name} for name in names]])
    assert manifest["status"].tolist() == ["inserted", *["failed"] * len(names)]
    assert manifest["reason"][1:].str.contains("which names files: give 1 to").all()
    assert victim.read_bytes() == b"somebody's"
    assert {name for name in files(tmp_path) - before if not name.startswith("run/")} == set()
    assert not [name for name in files(tmp_path / "run") if "n0" in name]


def test_where_nothing_can_be_done_the_manifest_says_why_and_the_run_fails(
    run: Run, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"Not one of 2 nodules could .*n0: seed is 'inf': give"):
        run([{"name": "n0", "seed": "inf"}, {"name": "n1", "diameter_mm": 40}])
    manifest = pd.read_csv(tmp_path / "run/nodules.csv")
    assert manifest["status"].tolist() == ["failed"] * 2
    assert "seed is 'inf'" in manifest["reason"][0]
    assert "do not fit into the ROI" in manifest["reason"][1]
    assert files(tmp_path / "run") == FINISHED


def test_a_manifest_that_is_missing_is_written_again_where_all_is_done(
    run: Run, tmp_path: Path
) -> None:
    manifest = run([{"name": "n0"}])
    (tmp_path / "run/nodules.csv").unlink()
    pd.testing.assert_frame_equal(run([{"name": "n0"}]), manifest)


def test_a_finished_study_whose_files_are_gone_is_made_again(run: Run, tmp_path: Path) -> None:
    manifest = run([{"name": "n0"}])
    image = tmp_path / "run" / manifest["image"].iloc[0]
    content = read_volume(image).array
    image.unlink()
    run([{"name": "n0"}])
    np.testing.assert_array_equal(read_volume(image).array, content)
    next((tmp_path / "run/finished").iterdir()).write_text('[{"nodule_id": ')
    pd.testing.assert_frame_equal(run([{"name": "n0"}]), manifest)


@pytest.mark.parametrize("error", [ValueError, OSError])
def test_a_study_that_fails_leaves_nothing_behind(
    error: type[Exception], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = CTFiles.write

    def half(*args: Any) -> str:
        write(*args)
        message = "half way"
        raise error(message)

    monkeypatch.setattr(CTFiles, "write", half)
    with pytest.raises(error):
        run([{"name": "n0"}])
    left = files(tmp_path / "run")
    assert left <= FINISHED
    assert not list((tmp_path / "run").glob(".building-*"))


def test_what_a_killed_run_has_left_is_removed(run: Run, tmp_path: Path) -> None:
    left = tmp_path / "run/.building-0123/studies"
    left.mkdir(parents=True)
    (left / "half.mha").touch()
    run([{"name": "n0"}])
    assert not left.parent.exists()


def test_a_study_is_read_once_and_its_nodules_are_placed_as_they_come(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    begin = EditedStudy.__init__

    def count(self: EditedStudy, *args: Any) -> None:
        begun.append(args)
        begin(self, *args)

    monkeypatch.setattr(EditedStudy, "__init__", count)
    places = [(16, 16), (16, 24), (24, 16), (24, 24)]
    manifest = run([{"name": f"n{k}", "y": y, "x": x} for k, (y, x) in enumerate(places)])
    assert (manifest["status"] == "inserted").all(), manifest["reason"].tolist()
    assert len(begun) == 1
    assert manifest["image"].nunique() == 1


def test_dicom_says_in_which_letters_a_patient_is_written(run: Run, tmp_path: Path) -> None:
    write_series(tmp_path / "series", read_volume(tmp_path / "scan.mha"), "p", uid_of("s"))
    manifest = run([{"name": "n0", "study": "series", "patient_id": "患者一"}])
    written = sorted((tmp_path / "run" / manifest["image"].iloc[0]).iterdir())
    data = pydicom.dcmread(written[0])
    assert (data.SpecificCharacterSet, data.PatientID) == ("ISO_IR 192", "患者一")
    mask = pydicom.dcmread(next((tmp_path / "run/masks").glob("*.dcm")))
    assert (mask.SpecificCharacterSet, mask.PatientID) == ("ISO_IR 192", "患者一")


def test_only_so_many_nodules_are_drawn(run: Run, tmp_path: Path) -> None:
    run([{"name": "n0"}])
    data = InsertionDataModule(tmp_path / "requests.csv")
    painted(data, tmp_path / "bare", StudyWriter(pictures=0))
    page = (tmp_path / "bare/index.html").read_text()
    assert "synthetic-n0" in page
    assert "<img " not in page
    assert not (tmp_path / "bare/pictures").exists()
    with pytest.raises(ValueError, match="pictures is -1: give the number of nodules to draw"):
        StudyWriter(pictures=-1)


def test_a_run_that_is_limited_says_what_it_left_out(run: Run, tmp_path: Path) -> None:
    """As by trainer.limit_predict_batches: the next run does the rest."""
    rows = [{"name": "c", "study": "other.mha"}, {"name": "a", "y": 16}, {"name": "b", "y": 25}]
    write_volume(tmp_path / "other.mha", read_volume(tmp_path / "scan.mha"))
    table = pd.DataFrame([{**NODULE, **row} for row in rows])
    table.to_csv(tmp_path / "requests.csv", index=False)
    data = InsertionDataModule(tmp_path / "requests.csv", batch_size=2)
    manifest = painted(data, tmp_path / "run", StudyWriter(), limit_predict_batches=1)
    assert manifest["status"].tolist() == ["inserted", "failed", "failed"]
    assert manifest["reason"][1:].str.contains("ended before its study was complete: run").all()
    assert not list((tmp_path / "run").glob(".building-*"))
    data = InsertionDataModule(tmp_path / "requests.csv", batch_size=2)
    assert painted(data, tmp_path / "run", StudyWriter())["status"].eq("inserted").all()
