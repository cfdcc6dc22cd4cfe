"""Requests for nodules on radiographs."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from insertions import RADIOGRAPH_ROI, asked_of
from PIL import Image

from datamodules.collections import ChestXray14Collection
from datamodules.insertion.modules import RadiographInsertionDataModule
from datamodules.io.volumes import read_volume
from datamodules.splits import split_of
from noduleforge.cli import main
from noduleforge.place_radiographs import place_radiographs

FRACTIONS = (0.6, 0.2, 0.2)
DIAMETER_MM = (4.0, 10.0)


def test_requests_keep_to_a_split_and_can_be_fulfilled(
    store: Path, radiographs: Path, tmp_path: Path
) -> None:
    background_radiographs = ChestXray14Collection(radiographs)
    place_radiographs(
        background_radiographs,
        store,
        tmp_path / "out",
        "train",
        FRACTIONS,
        per_radiograph=3,
        diameter_mm=DIAMETER_MM,
        seed=3,
    )
    table = pd.read_csv(tmp_path / "out/requests.csv", dtype={"patient_id": str})
    of_radiographs = {split_of(patient, 0, FRACTIONS) for patient in table["patient_id"]}
    assert of_radiographs == {"train"}
    nodules = pd.read_csv(store / "nodules.csv").set_index("nodule_id")["patient_id"]
    assert {split_of(nodules[name], 0, FRACTIONS) for name in table["shape_of"]} == {"train"}
    assert (table.groupby("study").size() == 3).all()
    for _, rows in table.groupby("study"):
        points = rows[["x_mm", "y_mm"]].to_numpy()
        apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
        assert apart[~np.eye(3, dtype=bool)].min() > 3
    for name in table["mask"]:
        shape = read_volume(tmp_path / "out" / name)
        assert shape.array.ndim == 2
        # no wider than the largest shape, and no empty one
        area = shape.array.sum() * np.prod(shape.spacing_mm)
        assert 0 < area < np.pi / 4 * (1.5 * DIAMETER_MM[1]) ** 2
    requested = RadiographInsertionDataModule(tmp_path / "out/requests.csv")
    plan, _ = asked_of(requested, RADIOGRAPH_ROI)
    assert not plan.failed
    assert len(plan.waiting) == len(table)
    # the same command draws the same
    place_radiographs(
        background_radiographs,
        store,
        tmp_path / "again",
        "train",
        FRACTIONS,
        per_radiograph=3,
        diameter_mm=DIAMETER_MM,
        seed=3,
    )
    again = pd.read_csv(tmp_path / "again/requests.csv", dtype={"patient_id": str})
    pd.testing.assert_frame_equal(table, again)


def test_each_copy_of_a_radiograph_has_nodules_of_its_own(
    store: Path, radiographs: Path, tmp_path: Path
) -> None:
    background_radiographs = ChestXray14Collection(radiographs)
    place_radiographs(
        background_radiographs, store, tmp_path, per_radiograph=2, copies=3, diameter_mm=DIAMETER_MM
    )
    table = pd.read_csv(tmp_path / "requests.csv", dtype={"patient_id": str})
    assert table["name"].is_unique
    assert set(table.groupby("study")["copy"].agg(tuple)) == {(0, 0, 1, 1, 2, 2)}
    assert len(table.drop_duplicates(["study", "x_mm", "y_mm"])) == len(table)
    requested = RadiographInsertionDataModule(tmp_path / "requests.csv")
    plan, _ = asked_of(requested, RADIOGRAPH_ROI)
    keys = pd.Series([row["key"] for row in plan.waiting.values()])
    assert keys.nunique() == 3 * table["study"].nunique()  # a radiograph is written for each


def test_places_lie_in_given_lungs(store: Path, radiographs: Path, tmp_path: Path) -> None:
    (tmp_path / "lungs").mkdir()
    mask = np.zeros((1024, 1024), np.uint8)
    mask[600:700, 300:400] = 255
    for path in (radiographs / "images").iterdir():
        Image.fromarray(mask).save(tmp_path / "lungs" / path.name)
    words = [
        "place-radiographs",
        "--background_radiographs",
        "ChestXray14Collection",
        "--background_radiographs.root",
        str(radiographs),
    ]
    words += ["--background_radiographs.lungs", str(tmp_path / "lungs"), "--shapes", str(store)]
    main([*words, "--diameter_mm", "[4, 10]", "--out", str(tmp_path / "out")])
    table = pd.read_csv(tmp_path / "out/requests.csv")
    assert len(table) == 20
    spacing = float(table["spacing_mm"][0].split()[0])
    assert table["y_mm"].between(600 * spacing, 700 * spacing).all()
    assert table["x_mm"].between(300 * spacing, 400 * spacing).all()


def test_faults_are_named(
    store: Path, radiographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "place-radiographs",
        "--background_radiographs",
        "ChestXray14Collection",
        "--background_radiographs.root",
        str(radiographs),
    ]
    words += ["--shapes", str(store), "--out", str(tmp_path)]
    for more, message in (
        (["--per_radiograph", "0"], "give at least 1 nodule"),
        (["--copies", "0"], "copies 0"),
        (["--diameter_mm", "[90, 95]"], "widen the range"),
        (["--select", "subtlety > 9"], "has no rows after select"),
    ):
        with pytest.raises(SystemExit):
            main([*words, *more])
        assert message in capsys.readouterr().err
    (tmp_path / "requests.csv").touch()
    with pytest.raises(SystemExit):
        main(words)
    assert "choose another folder" in capsys.readouterr().err
