"""A folder of films with a table."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules import FolderDataModule, SuperimposedDataModule


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "folder"
    (root / "films").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(12):
        pixels = rng.integers(60, 200, (200, 160)).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"films/f{number}.png")
        row = {"image": f"films/f{number}.png", "patient_id": f"P{number // 2}", "spacing_mm": 0.5}
        rows.append({**row, "split": ("train", "train", "test")[number // 4]})
    pd.DataFrame(rows).to_csv(root / "films.csv", index=False)
    return root


def change(root: Path, line: int, column: str, value: Any) -> None:
    table = pd.read_csv(root / "films.csv", dtype=object)
    table.loc[line, column] = value
    table.to_csv(root / "films.csv", index=False)


def test_the_table_says_split_and_spacing(folder: Path) -> None:
    data = FolderDataModule(folder, points_per_film=3, roi_size=32, roi_spacing_mm=0.5)
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
    film = np.asarray(Image.open(folder / "films/f0.png"), float)
    # the ROI has the film's own spacing: it is a piece of it, between its pixels
    assert abs(float(item["image"].mean()) - film.mean()) < 20


def test_without_a_split_patients_are_divided(folder: Path) -> None:
    table = pd.read_csv(folder / "films.csv").drop(columns="split")
    table.to_csv(folder / "films.csv", index=False)
    data = FolderDataModule(folder, fractions=(0.5, 0.0, 0.5), seed=1)
    data.setup()
    patients = {
        name: set(part.table["patient_id"]) for name, part in data.datasets.items() if len(part)
    }
    assert not patients["train"] & patients["test"]


def test_they_are_hosts(folder: Path, store: Path) -> None:
    settings: dict[str, Any] = {"films_per_nodule": 1, "fractions": (0.6, 0.0, 0.4)}
    data = SuperimposedDataModule(store, FolderDataModule(folder), **settings)
    data.setup()
    films = {
        name: {path.stem for path in part.table["path"]}
        for name, part in data.datasets.items()
        if len(part)
    }
    assert films["train"] <= {f"f{n}" for n in range(8)}
    assert films["test"] <= {f"f{n}" for n in range(8, 12)}
    settings["fractions"] = (0.4, 0.2, 0.4)
    with pytest.raises(ValueError, match=r"val split has .* nodules, but the hosts have no film"):
        SuperimposedDataModule(store, FolderDataModule(folder), **settings).setup()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("spacing_mm", "wide", r"spacing_mm of films/f1\.png is 'wide', expected a number above 0"),
        ("spacing_mm", -1, "expected a number above 0"),
        ("split", "exam", r"split of films/f1\.png is 'exam', expected one of"),
        ("patient_id", None, r"patient_id is empty in line\(s\) 3"),
        ("split", "test", "Patient 'P0' is in both train and test"),
        ("image", "films/absent.png", "does not exist"),
    ],
)
def test_faults_are_named(folder: Path, column: str, value: Any, message: str) -> None:
    change(folder, 1, column, value)
    with pytest.raises(ValueError, match=message):
        FolderDataModule(folder).setup()


def test_a_missing_table_column_or_nodule_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lists films without a nodule"):
        FolderDataModule(folder, content="nodules").setup()
    with pytest.raises(FileNotFoundError, match=r"films\.csv does not exist"):
        FolderDataModule(tmp_path).setup()
    table = pd.read_csv(folder / "films.csv").drop(columns="spacing_mm")
    table.to_csv(folder / "films.csv", index=False)
    with pytest.raises(ValueError, match=r"lacks the column\(s\) \['spacing_mm'\]"):
        FolderDataModule(folder).setup()
