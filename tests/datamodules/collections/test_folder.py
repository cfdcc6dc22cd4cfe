"""A folder of radiographs with a table."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules.batch import Roi
from datamodules.collections import FolderCollection
from datamodules.io.volumes import Volume, write_volume
from datamodules.radiographs import FolderDataModule, SuperimposedDataModule


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "folder"
    (root / "radiographs").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(12):
        pixels = rng.integers(60, 200, (200, 160)).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"radiographs/f{number}.png")
        row = {
            "image": f"radiographs/f{number}.png",
            "patient_id": f"P{number // 2}",
            "spacing_mm": 0.5,
        }
        rows.append({**row, "split": ("train", "train", "test")[number // 4]})
    pd.DataFrame(rows).to_csv(root / "radiographs.csv", index=False)
    return root


def change(root: Path, line: int, column: str, value: Any) -> None:
    table = pd.read_csv(root / "radiographs.csv", dtype=object)
    table.loc[line, column] = value
    table.to_csv(root / "radiographs.csv", index=False)


def test_the_table_says_split_and_spacing(folder: Path) -> None:
    data = FolderDataModule(folder, points_per_radiograph=3, roi=Roi(32, 0.5))
    data.setup()
    assert {name: len(part) for name, part in data.datasets.items()} == {
        "train": 24,
        "val": 0,
        "test": 12,
        "predict": 12,
    }
    item = data.datasets["train"][0]
    assert item["image"].shape == (1, 32, 32)
    assert not item["mask"].any()
    radiograph = np.asarray(Image.open(folder / "radiographs/f0.png"), float)
    # the ROI has the radiograph's own spacing: it is a piece of it, between its pixels
    assert abs(float(item["image"].mean()) - radiograph.mean()) < 20


def test_without_a_split_patients_are_divided(folder: Path) -> None:
    table = pd.read_csv(folder / "radiographs.csv").drop(columns="split")
    table.to_csv(folder / "radiographs.csv", index=False)
    data = FolderDataModule(folder, roi=Roi(16), fractions=(0.5, 0.0, 0.5), split_seed=1)
    data.setup()
    patients = {
        name: set(part.table["patient_id"]) for name, part in data.datasets.items() if len(part)
    }
    assert not patients["train"] & patients["test"]


def test_they_are_hosts(folder: Path, store: Path) -> None:
    settings: dict[str, Any] = {
        "roi": Roi(16),
        "radiographs_per_nodule": 1,
        "fractions": (0.6, 0.0, 0.4),
    }
    data = SuperimposedDataModule(store, FolderCollection(folder), **settings)
    data.setup()
    radiographs = {
        name: {path.stem for path in part.table["path"]}
        for name, part in data.datasets.items()
        if len(part)
    }
    assert radiographs["train"] <= {f"f{n}" for n in range(8)}
    assert radiographs["test"] <= {f"f{n}" for n in range(8, 12)}
    settings["fractions"] = (0.4, 0.2, 0.4)
    with pytest.raises(
        ValueError,
        match=r"val split has .* nodules, but the background_radiographs have no radiograph",
    ):
        SuperimposedDataModule(store, FolderCollection(folder), **settings).setup()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (
            "spacing_mm",
            "wide",
            r"spacing_mm of radiographs/f1\.png is 'wide', expected a number above 0",
        ),
        ("spacing_mm", -1, "expected a number above 0"),
        ("split", "exam", r"split of radiographs/f1\.png is 'exam', expected one of"),
        ("patient_id", None, r"patient_id is empty in line\(s\) 3"),
        ("split", "test", "Patient 'P0' is in both train and test"),
        ("image", "radiographs/absent.png", "does not exist"),
    ],
)
def test_faults_are_named(folder: Path, column: str, value: Any, message: str) -> None:
    change(folder, 1, column, value)
    with pytest.raises(ValueError, match=message):
        FolderDataModule(folder, roi=Roi(16)).setup()


def test_names_and_patients_are_whole(folder: Path) -> None:
    table = pd.read_csv(folder / "radiographs.csv")
    table["image"] = [f"radiographs/1.2.3.{n}" for n in range(12)]
    table["patient_id"] = [f" {n // 2}\u00a0" for n in range(12)]
    table["split"] += " "
    table.to_csv(folder / "radiographs.csv", index=False)
    read = FolderCollection(folder).normal_radiographs()
    assert read["name"].tolist() == [f"radiographs/1.2.3.{n}" for n in range(12)]
    assert read["patient_id"].tolist() == [str(n // 2) for n in range(12)]
    change(folder, 3, "patient_id", "00")
    with pytest.raises(ValueError, match="patient_id '0' and '00' read the same"):
        FolderCollection(folder).normal_radiographs()


def test_a_missing_table_column_or_nodule_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nodules\.csv does not exist"):
        FolderDataModule(folder, content="nodules", roi=Roi(16)).setup()
    with pytest.raises(FileNotFoundError, match=r"radiographs\.csv does not exist"):
        FolderDataModule(tmp_path, roi=Roi(16)).setup()
    table = pd.read_csv(folder / "radiographs.csv").drop(columns="spacing_mm")
    table.to_csv(folder / "radiographs.csv", index=False)
    with pytest.raises(ValueError, match=r"lacks the column\(s\) spacing_mm"):
        FolderDataModule(folder, roi=Roi(16)).setup()


@pytest.fixture
def nodules(folder: Path) -> Path:
    """Two nodules on each of the radiographs, in the form that inserting synthetic ones writes."""
    rows = []
    for number in range(12):
        for k, (y, x) in enumerate(((60, 50), (130, 110))):
            mask = np.zeros((200, 160), np.uint8)
            mask[y : y + 9, x : x + 5] = 1
            name = f"synthetic-f{number}-{k}"
            volume = Volume(mask, (0.5, 0.25), (0.0, 0.0), np.eye(2))
            write_volume(folder / f"masks/{name}.nii.gz", volume)
            row = {
                "nodule_id": name,
                "patient_id": str(number // 2),
                "image": f"radiographs/f{number}.png",
            }
            rows.append(
                {**row, "mask": f"masks/{name}.nii.gz", "subtype": "", "status": "inserted"}
            )
    rows.append({"nodule_id": "synthetic-lost", "subtype": "", "status": "failed"})
    pd.DataFrame(rows).to_csv(folder / "nodules.csv", index=False)
    return folder


def test_inserted_nodules_are_training_data(nodules: Path) -> None:
    settings = {"select": "status == 'inserted'", "roi": Roi(24, 0.5)}
    data = FolderDataModule(nodules, content="nodules", **settings, fractions=(0.5, 0.0, 0.5))
    data.setup()
    parts = [data.datasets[split] for split in ("train", "test")]
    assert sum(map(len, parts)) == 24
    assert not {*parts[0].table["patient_id"]} & {*parts[1].table["patient_id"]}
    item = parts[0][0]
    assert item["patient_id"] in "012345"
    # 9 x 5 pixels of 0.5 x 0.25 mm around the middle: 9 x 2 or 3 of 0.5 mm
    y, x = np.nonzero(item["mask"][0].numpy())
    assert (y.min(), y.max()) == (8, 16)
    assert x.min() >= 10
    assert x.max() <= 13
    area = 45 * 0.5 * 0.25
    assert item["attributes"]["diameter_mm"].item() == pytest.approx(2 * (area / np.pi) ** 0.5)
    # another mask is other data
    before = data.datasets["train"].fingerprint
    for path in nodules.glob("masks/*"):
        write_volume(path, Volume(np.ones((200, 160), np.uint8), (0.5, 0.25), (0, 0), np.eye(2)))
    assert data.datasets["train"].fingerprint != before


@pytest.mark.parametrize(
    ("shape", "value", "message"),
    [
        ((200, 160), 0, "0 of them in the nodule"),
        ((20, 16), 1, "give a mask on the radiograph's grid"),
        ((20, 16, 4), 1, "has 3 dimensions, expected a mask of a radiograph with 2"),
    ],
)
def test_faulty_masks_are_named(
    nodules: Path, shape: tuple[int, ...], value: int, message: str
) -> None:
    n = len(shape)
    for path in nodules.glob("masks/*"):
        write_volume(path, Volume(np.full(shape, value, np.uint8), (1.0,) * n, (0,) * n, np.eye(n)))
    settings = {"select": "status == 'inserted'", "roi": Roi(16), "fractions": (1.0, 0.0, 0.0)}
    data = FolderDataModule(nodules, content="nodules", **settings)
    with pytest.raises(ValueError, match=message):  # noqa: PT012  # some faults show when read
        data.setup()
        data.datasets["train"][0]
