"""Nodules into whole studies: voxels, files, identity, failures."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk
import torch
from huggingface_hub import DatasetCard
from pydicom.uid import RLELossless
from scipy.spatial.transform import Rotation

from callbacks.edited_study import Names
from callbacks.insertion import StudyWriter
from callbacks.study_files import CTFiles
from datamodules.batch import Roi
from datamodules.insertion.modules import InsertionDataModule
from datamodules.io import same_form
from datamodules.io.dicom import read_study
from datamodules.io.volumes import Volume, read_volume, write_volume
from datamodules.lidc import LIDCDataModule
from datamodules.patients import patient_key
from noduleforge.prepare.lidc import prepare_lidc

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from dicom import uid_of, write_series
from insertions import asked_of, painted

SPACING, ORIGIN = (2.0, 0.8, 0.8), (-20.0, -30.0, 100.0)
INSIDE = (4.0, 2.0, 130.0)
MARGIN_MM = 3.0


@pytest.fixture
def scan() -> Volume:
    rng = np.random.default_rng(0)
    array = rng.integers(-950, -650, (40, 96, 90)).astype(np.int16)
    array[:, :16] = 40  # chest wall
    return Volume(array, SPACING, ORIGIN, np.eye(3))


Insert = Callable[..., Path]


@pytest.fixture
def insert(tmp_path: Path, scan: Volume) -> Insert:
    """Run requests for a study of a given form; returns the run's folder."""

    def run(
        study: str, rows: list[dict[str, Any]], out: str = "out", names: Names = "pseudonyms"
    ) -> Path:
        path = tmp_path / study
        if "." in study:
            write_volume(path, scan)
        elif not path.exists():
            write_series(path, scan, "Known^Patient", uid_of("series"))
        table = pd.DataFrame([{"study": study, "subtype": "solid", **row} for row in rows])
        table.to_csv(tmp_path / "requests.csv", index=False)
        data = InsertionDataModule(tmp_path / "requests.csv", batch_size=2)
        painted(data, tmp_path / out, StudyWriter(names))
        return tmp_path / out

    return run


def at(x: float, y: float, z: float, diameter: float = 8, **more: Any) -> dict[str, Any]:
    return {"x_mm": x, "y_mm": y, "z_mm": z, "diameter_mm": diameter, **more}


def test_every_nodule_is_on_the_page_and_failed_ones_are_not(insert: Insert) -> None:
    rows = [at(0, 10, 145), at(30, 10, 165), at(900, 0, 0)]
    root = insert(
        "scan.mha", [{"name": f"<{k}>" if k == 2 else f"n{k}", **r} for k, r in enumerate(rows)]
    )
    pictures = sorted(path.name for path in (root / "pictures").iterdir())
    assert pictures == ["synthetic-n0.png", "synthetic-n1.png"]
    page = (root / "index.html").read_text()
    assert "<h1>2 synthetic nodules</h1>" in page
    assert page.count("<img ") == 2
    assert "subtype: solid<br>diameter_mm: 7." in page
    card = DatasetCard.load(root / "README.md")
    assert (card.data.license, card.data.size_categories) == ("other", ["n<1K"])
    for told in (
        "| synthetic nodules | 2 (2 solid) |",
        "| asked for | 3 |\n| refused | 1 (33.3 %) |",
        "| patients whose images they are in | 1 |\n| patients that the generator has seen | 2 |",
        "| weights | `painter.ckpt` |",
    ):
        assert told in card.content


def test_a_copy_of_a_study_has_its_own_nodules(insert: Insert, scan: Volume) -> None:
    """At the same place, which in one study would be refused."""
    root = insert("scan.mha", [at(0, 10, 145, copy=k, patient_id="P") for k in (1, 2)])
    table = pd.read_csv(root / "nodules.csv")
    assert (table["status"] == "inserted").all()
    assert table["image"].is_unique
    first, second = (read_volume(root / image).array for image in table["image"])
    assert not np.array_equal(first, scan.array)
    np.testing.assert_array_equal(first, second)


def test_whose_outline_was_asked_for_counts_as_seen(insert: Insert) -> None:
    requests = [at(0, 10, 145, shape_patient_id="007"), at(30, 10, 165)]
    root = insert("scan.mha", requests)
    seen = json.loads((root / "generator.json").read_text())["training_patients"]
    assert patient_key("007") in seen
    insert("scan.mha", requests[1:], "other")
    facts = json.loads((root.parent / "other/generator.json").read_text())
    other = facts["training_patients"]
    assert facts["checkpoint"] == "painter.ckpt"
    assert set(other) == {"a", "b"}
    assert {*seen} - {*other} == {patient_key("007")}


@pytest.mark.parametrize("study", ["scan.nii.gz", "scan.mha", "scan.nrrd", "dicom"])
def test_a_study_comes_back_in_its_form(study: str, insert: Insert, scan: Volume) -> None:
    root = insert(study, [at(*INSIDE), at(20, 10, 120, 6, name="other")])
    table = pd.read_csv(root / "nodules.csv")
    assert table["status"].tolist() == ["inserted", "inserted"]
    path = root / table["image"][0]
    assert path.is_dir() if study == "dicom" else path.name.endswith(study[4:])
    written = read_study(path)
    assert written.grid.matches(scan.grid)
    assert written.array.dtype == np.int16
    # beyond nodule and margin every voxel is the source's
    points = np.stack(np.meshgrid(*map(np.arange, scan.array.shape), indexing="ij"), -1)
    world = points[..., ::-1] * SPACING[::-1] + ORIGIN
    near = np.zeros(scan.array.shape, bool)
    for row in table.itertuples():
        distance = np.abs(world - [row.x_mm, row.y_mm, row.z_mm]).max(-1)
        near |= distance <= row.diameter_mm / 2 + MARGIN_MM + 1.0
        mask = read_volume(root / row.mask)
        assert mask.grid.matches(scan.grid)
        volume = mask.array.sum() * np.prod(SPACING)
        assert volume == pytest.approx(np.pi / 6 * row.diameter_mm**3, rel=0.3)
        # painted in the middle, with the study's own finest detail left
        middle = written.array[tuple(np.argwhere(mask.array).mean(0).round().astype(int))]
        assert abs(middle) < 160
    np.testing.assert_array_equal(written.array[~near], scan.array[~near])
    assert (written.array[near] != scan.array[near]).any()
    # and it is what training reads
    data = LIDCDataModule(
        root=root, select="status == 'inserted'", roi=Roi(16), fractions=[0, 0, 1], cache_dir=None
    )
    data.setup("test")
    assert data.datasets["test"][0]["attributes"]["diameter_mm"] == pytest.approx(8, rel=0.1)


def test_names_say_nothing_about_a_study(insert: Insert, tmp_path: Path, scan: Volume) -> None:
    write_volume(tmp_path / "Doe_Jane.mha", scan)
    rows = [at(*INSIDE, study="Doe_Jane.mha", name="a"), at(*INSIDE, name="b")]
    root = insert("scan.mha", rows)
    for path in root.rglob("*"):
        assert not re.search("doe|jane|scan", path.name, re.IGNORECASE)
    for name in ("nodules.csv", "index.html", "generator.json"):
        assert not re.search("doe|jane|scan", (root / name).read_text(), re.IGNORECASE)
    table = pd.read_csv(root / "nodules.csv")
    assert table["image"].str.fullmatch(r"studies/synthetic-study-\w{10}-\w{6}\.mha").all()
    assert table["patient_id"].is_unique


def test_dicom_says_that_it_is_synthetic_and_whose_it_is_not(
    insert: Insert, tmp_path: Path
) -> None:
    root = insert("dicom", [at(*INSIDE, patient_id="pseudo-1")])
    written = sorted((root / "studies").rglob("*.dcm"))
    sources = [pydicom.dcmread(path) for path in (tmp_path / "dicom").iterdir()]
    uids = {str(getattr(s, n)) for s in sources for n in ("SOPInstanceUID", "SeriesInstanceUID")}
    assert len(written) == len(sources)
    for path in written:
        data = pydicom.dcmread(path)
        assert list(data.ImageType[:2]) == ["DERIVED", "SECONDARY"]
        assert "SYNTHETIC" in data.SeriesDescription
        assert data.ContributingEquipmentSequence[0].Manufacturer == "noduleforge"
        assert (data.PatientID, str(data.PatientName)) == ("pseudo-1", "SYNTHETIC^pseudo-1")
        assert data.SOPInstanceUID not in uids
        assert data.SourceImageSequence[0].ReferencedSOPInstanceUID in uids
        assert not [element for element in data if element.tag.is_private]
    for path in root.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for secret in (b"Known", b"Physician", b"19400101", b"private", b"Maker"):
                assert secret not in content
    masks = list((root / "masks").glob("*.dcm"))
    assert len(masks) == 1
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian's dicom3tools) is not installed")
    for path in (*written, *masks):
        told = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        assert "Error" not in told.stderr + told.stdout, told.stderr


def test_slope_and_intercept_are_the_sources(tmp_path: Path, scan: Volume) -> None:
    write_series(tmp_path / "dicom", scan, "p", uid_of("s"), slope=2.0, intercept=-1001.0)
    table = pd.DataFrame([{"study": "dicom", "subtype": "solid", **at(*INSIDE)}])
    table.to_csv(tmp_path / "requests.csv", index=False)
    data = InsertionDataModule(tmp_path / "requests.csv")
    painted(data, tmp_path / "out", StudyWriter())
    before = {d.InstanceNumber: d for d in map(pydicom.dcmread, (tmp_path / "dicom").iterdir())}
    same = 0
    for path in (tmp_path / "out/studies").rglob("*.dcm"):
        after = pydicom.dcmread(path)
        assert (after.RescaleSlope, after.RescaleIntercept) == (2, -1001)
        source = before[after.InstanceNumber]
        same += after.PixelData == source.PixelData
        differ = after.pixel_array != source.pixel_array
        assert differ.mean() < 0.05
    assert 0 < len(before) - same < 12


def test_the_result_is_prepared_like_any_other_series(insert: Insert, tmp_path: Path) -> None:
    """DICOM with SEG goes through `noduleforge prepare lidc` again."""
    root = insert("dicom", [at(*INSIDE), at(20, 10, 120, 6)])
    prepare_lidc(root / "studies", root / "masks", tmp_path / "store", whole=True, workers=1)
    table = pd.read_csv(tmp_path / "store/nodules.csv")
    inserted = pd.read_csv(root / "nodules.csv")
    masks = [read_volume(root / name).array for name in inserted["mask"]]
    again = [read_volume(tmp_path / "store" / name).array for name in table["mask"]]
    assert len(again) == 2
    for mask in again:
        assert any(np.array_equal(mask, other) for other in masks)


def test_another_readme_is_not_overwritten(insert: Insert, tmp_path: Path) -> None:
    root = insert("scan.mha", [at(*INSIDE)])
    insert("scan.mha", [at(*INSIDE)])  # its own it may
    (root / "README.md").write_text("# My project")
    with pytest.raises(FileExistsError, match=r"README\.md is none of ours: give another"):
        insert("scan.mha", [at(*INSIDE)])
    assert (root / "README.md").read_text() == "# My project"


def test_what_was_erased_is_no_nodule(insert: Insert) -> None:
    """It has a mask of its own, and no segment among the nodules."""
    root = insert("dicom", [at(*INSIDE), {**at(20, 10, 120, 6), "subtype": "none"}])
    table = pd.read_csv(root / "nodules.csv", keep_default_na=False)
    assert table["subtype"].tolist() == ["solid", "none"]
    assert (root / table["mask"][1]).is_file()
    (path,) = root.glob("masks/*.dcm")
    labels = [one.SegmentLabel for one in pydicom.dcmread(path).SegmentSequence]
    assert [f"synthetic-{label}" for label in labels] == [table["nodule_id"][0]]
    assert "| places made healthy lung | 1 |" in (root / "README.md").read_text()


def test_masks_positions_and_histograms_are_as_asked(
    insert: Insert, scan: Volume, tmp_path: Path
) -> None:
    shape = np.zeros((10, 12, 14), np.uint8)
    shape[3:8, 4:9, 5:12] = 1
    write_volume(tmp_path / "shape.mha", Volume(shape, (1.0,) * 3, (0.0,) * 3, np.eye(3)))
    there = np.zeros(scan.array.shape, np.uint8)
    there[8:11, 70:76, 20:28] = 1
    write_volume(tmp_path / "there.mha", Volume(there, SPACING, ORIGIN, np.eye(3)))
    rows = [
        {"mask": "shape.mha", "z": 20, "y": 40, "x": 45, "histogram": "0.25 0.75"},
        {"mask": "there.mha"},
    ]
    root = insert("scan.mha", rows)
    table = pd.read_csv(root / "nodules.csv")
    assert table["status"].tolist() == ["inserted", "inserted"]
    place = scan.grid.world((20, 40, 45))
    assert table.loc[0, ["x_mm", "y_mm", "z_mm"]].tolist() == pytest.approx(place, abs=1e-3)
    box = read_volume(root / table["mask"][0]).array
    assert box.sum() * np.prod(SPACING) == pytest.approx(175, rel=0.35)
    overlap = read_volume(root / table["mask"][1]).array * there
    assert overlap.sum() > 0.8 * there.sum()
    _, (batch,) = asked_of(InsertionDataModule(tmp_path / "requests.csv"), Roi(32))
    asked = batch["histogram"]
    torch.testing.assert_close(asked[0], torch.tensor([0.25, 0.75]))
    assert asked[1].isnan().all()


@pytest.mark.parametrize(("margin_voxels", "fits"), [(3, True), (6, True), (7, False)])
def test_the_margin_that_must_fit_is_the_models(
    margin_voxels: int, fits: bool, tmp_path: Path, scan: Volume
) -> None:
    """A ball of 19 mm reaches 9 voxels from the middle of an ROI that has 15 on its short side."""
    write_volume(tmp_path / "scan.mha", scan)
    row = {"study": "scan.mha", "subtype": "solid", **at(4, 8, 140, 19)}
    pd.DataFrame([row]).to_csv(tmp_path / "requests.csv", index=False)
    data = InsertionDataModule(tmp_path / "requests.csv")
    plan, _ = asked_of(data, Roi(32), margin_voxels=margin_voxels)
    assert len(plan.waiting) == int(fits)
    assert fits or f"margin of {margin_voxels} mm" in next(iter(plan.failed.values()))


def test_a_failed_request_loses_no_other(insert: Insert, tmp_path: Path) -> None:
    rows = [
        at(*INSIDE, name="good"),
        at(500, 0, 130, name="outside"),
        at(INSIDE[0] + 2, *INSIDE[1:], name="occupied"),
        at(4, 30, 130, 28, name="large"),
        at(4, -22, 130, 6, name="wall"),
        at(-18, 20, 130, name="edge"),
        at(20, 10, 120, name="odd", subtype="hard"),
        at(20, 10, 120, name="lost", study="nowhere.mha"),
        at(20, 10, 120, name="sum", histogram="0.5 0.6"),
        {"name": "nothing", "diameter_mm": 8},
        at(20, 10, 120, np.nan, name="size"),
    ]
    root = insert("scan.mha", rows)
    table = pd.read_csv(root / "nodules.csv").set_index("nodule_id")
    assert (table["status"] == "inserted").sum() == 1
    for name, what in {
        "outside": "lies outside the study",
        "occupied": "is at the place of good",
        "large": "do not fit into the ROI of 32 mm",
        "wall": "its place is no lung",
        "edge": "reach beyond the study",
        "odd": "subtype is 'hard': expected one of solid",
        "lost": "nowhere.mha does not exist",
        "sum": "histogram sums to 1.1",
        "nothing": "has no position",
        "size": "diameter_mm is nan",
    }.items():
        assert what in table.loc[f"synthetic-{name}", "reason"], name


def spoil(kind: str, tmp_path: Path, scan: Volume) -> str:
    """A study that cannot be used; its name."""
    folder = tmp_path / kind
    if kind in ("values", "spacing", "colour"):
        path = tmp_path / f"{kind}.mha"
        array = (scan.array + 1000).clip(0, 255) if kind == "values" else scan.array
        write_volume(path, Volume(array.astype(np.int16), SPACING, ORIGIN, np.eye(3)))
        if kind == "spacing":
            header = path.read_bytes()
            path.write_bytes(header.replace(b"ElementSpacing = 0.8", b"ElementSpacing = -.8"))
        if kind == "colour":
            sitk.WriteImage(sitk.Image([20, 20, 20], sitk.sitkVectorUInt8, 3), str(path))
        return path.name
    files = write_series(folder, scan, "p", uid_of(kind))
    if kind == "missing":
        files[7].unlink()
    elif kind == "truncated":
        files[7].write_bytes(files[7].read_bytes()[:-4000])
    elif kind == "tilted":
        for number, path in enumerate(files):
            data = pydicom.dcmread(path)
            x, y, z = data.ImagePositionPatient
            data.ImagePositionPatient = [x, float(y) + 0.5 * number, z]
            data.save_as(path)
    elif kind == "several":
        write_series(folder / "other", scan, "p", uid_of("other"))
    return kind


def test_studies_that_cannot_be_used_lose_no_other(
    insert: Insert, tmp_path: Path, scan: Volume
) -> None:
    reasons = {
        "missing": "1 gap(s) between slices",
        "truncated": "is damaged or cut short: copy it again",
        "tilted": "a gantry tilt of 14.0 degrees: correct it first",
        "several": "holds 2 CT series",
        "values": "expected Hounsfield units",
        "spacing": "expected finite numbers above zero",
        "colour": "expected a 2D or 3D image of one channel",
    }
    rows = [at(*INSIDE, name="good")]
    rows += [at(*INSIDE, name=kind, study=spoil(kind, tmp_path, scan)) for kind in reasons]
    table = pd.read_csv(insert("scan.mha", rows) / "nodules.csv").set_index("nodule_id")
    assert table["status"].value_counts().to_dict() == {"failed": len(reasons), "inserted": 1}
    for kind, reason in reasons.items():
        assert reason in table.loc[f"synthetic-{kind}", "reason"], kind


def test_jpeg_compressed_series_come_back(insert: Insert, tmp_path: Path, scan: Volume) -> None:
    """Lossless JPEG is what archives store."""
    if shutil.which("dcmcjpeg") is None:
        pytest.skip("dcmcjpeg (Debian's dcmtk) is not installed")
    for path in write_series(tmp_path / "jpeg", scan, "p", uid_of("jpeg")):
        subprocess.run(["dcmcjpeg", path, path], check=True)
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID.is_compressed
    root = insert("jpeg", [at(*INSIDE)])
    table = pd.read_csv(root / "nodules.csv")
    assert table["status"].tolist() == ["inserted"], table["reason"].tolist()
    after = read_study(root / table["image"][0])
    changed = np.argwhere(scan.array != after.array)
    reach_mm = (np.ptp(changed, axis=0) * SPACING).max()
    assert 0 < reach_mm < 8 + 2 * (MARGIN_MM + 2)


def test_a_study_that_cannot_be_written_loses_no_other(
    insert: Insert, tmp_path: Path, scan: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is left behind, and its request says why."""
    write_volume(tmp_path / "bad.mha", scan)
    written = CTFiles.write

    def write(self: Any, source: Path, *rest: Any) -> Any:
        if source.name == "bad.mha":
            message = "bad.mha cannot be decoded"
            raise ValueError(message)
        return written(self, source, *rest)

    monkeypatch.setattr(CTFiles, "write", write)
    rows = [at(*INSIDE, name="bad", study="bad.mha"), at(*INSIDE, name="good")]
    root = insert("scan.mha", rows)
    table = pd.read_csv(root / "nodules.csv").set_index("nodule_id")
    assert table["status"].to_dict() == {"synthetic-bad": "failed", "synthetic-good": "inserted"}
    assert table.loc["synthetic-bad", "reason"] == "bad.mha cannot be decoded"
    assert not [path for path in root.rglob("*bad*")]


def test_oblique_and_compressed_series_come_back_as_they_lie(
    insert: Insert, tmp_path: Path, scan: Volume
) -> None:
    turn = Rotation.from_euler("xyz", (8, -5, 12), degrees=True).as_matrix()
    lying = Volume(scan.array, SPACING, ORIGIN, turn)
    for path in write_series(tmp_path / "lying", lying, "p", uid_of("lying")):
        data = pydicom.dcmread(path)
        data.compress(RLELossless)
        data.save_as(path)
    place = dict(zip("zyx", (20, 50, 45), strict=True))
    root = insert("lying", [{**place, "diameter_mm": 8}])
    table = pd.read_csv(root / "nodules.csv")
    assert table["status"].tolist() == ["inserted"], table["reason"].tolist()
    before, after = (read_study(path) for path in (tmp_path / "lying", root / table["image"][0]))
    assert after.grid.matches(lying.grid)
    np.testing.assert_array_equal(before.array, scan.array)
    changed = np.argwhere(before.array != after.array)
    reach_mm = np.abs(changed - [20, 50, 45]).max(0) * SPACING
    assert reach_mm.max() < 8 / 2 + MARGIN_MM + 2
    assert read_volume(root / table["mask"][0]).grid.matches(lying.grid)


def test_a_full_disk_loses_no_study_that_is_done(
    insert: Insert, tmp_path: Path, scan: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_volume(tmp_path / "first.mha", scan)
    rows = [at(*INSIDE, study="first.mha", name="a"), at(*INSIDE, name="b")]
    real = same_form.write_volume

    def full(path: Path, *args: Any, **more: Any) -> None:
        if "scan" in Path(path).name:
            raise OSError(28, "No space left on device")
        real(path, *args, **more)

    monkeypatch.setattr(same_form, "write_volume", full)
    with pytest.raises(OSError, match="No space left"):
        insert("scan.mha", rows, names="studies")
    monkeypatch.undo()
    root = tmp_path / "out"
    first = next((root / "studies").glob("synthetic-first*"))
    before = first.stat().st_mtime_ns
    assert not (root / "nodules.csv").exists()
    insert("scan.mha", rows, names="studies")
    assert pd.read_csv(root / "nodules.csv")["status"].tolist() == ["inserted"] * 2
    assert first.stat().st_mtime_ns == before


def test_an_interrupted_run_goes_on(insert: Insert, tmp_path: Path, scan: Volume) -> None:
    write_volume(tmp_path / "first.mha", scan)
    rows = [at(*INSIDE, study="first.mha", name="a"), at(*INSIDE, name="b")]
    root = insert("scan.mha", rows, names="studies")
    table = (root / "nodules.csv").read_text()
    first = next((root / "studies").glob("synthetic-first*"))
    before = first.stat().st_mtime_ns
    (root / "nodules.csv").unlink()
    for path in (root / "studies").glob("synthetic-scan*"):
        path.unlink()
    for path in (root / "finished").iterdir():
        if "first" not in path.read_text():
            path.unlink()
    insert("scan.mha", rows, names="studies")
    assert first.stat().st_mtime_ns == before
    assert (root / "nodules.csv").read_text() == table
    assert len(list((root / "studies").iterdir())) == 2
