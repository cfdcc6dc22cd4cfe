"""Synthetic nodules beside real ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from datamodules.batch import SUBTYPES, Roi
from datamodules.collections import LIDCCollection
from datamodules.io.checksums import write_json
from datamodules.lidc import LIDCDataModule
from datamodules.patients import patient_key
from datamodules.real_and_synthetic import RealAndSyntheticDataModule

FRACTIONS = (0.6, 0.2, 0.2)
ROI: dict[str, Any] = {"roi": Roi(12), "cache_dir": None, "fractions": FRACTIONS}


def real_module(store: Path, **settings: Any) -> LIDCDataModule:
    data = LIDCDataModule(store, **{**ROI, **settings})
    data.setup()
    return data


@pytest.fixture
def synthetic(store: Path, tmp_path: Path) -> Path:
    """Two synthetic nodules for each real training nodule, of every subtype in turn."""
    real = real_module(store)
    root = tmp_path / "synthetic"
    root.mkdir()
    table = real.datasets["train"].table
    rows = []
    for number, row in enumerate([*table.to_dict("records")] * 2):
        for kind in ("image", "mask"):
            (root / row[kind]).parent.mkdir(exist_ok=True)
            shutil.copy(store / row[kind], root / row[kind])
        kept = {name: row[name] for name in ("patient_id", "image", "mask")}
        subtype = SUBTYPES[number % 3]
        rows.append({"nodule_id": f"synthetic-{number}", **kept, "subtype": subtype})
    pd.DataFrame(rows).to_csv(root / "nodules.csv", index=False)
    seen = sorted(real.training_patients)
    (root / "generator.json").write_text(json.dumps({"training_patients": seen}))
    return root


def augmented(store: Path, synthetic: Path | None, **settings: Any) -> RealAndSyntheticDataModule:
    made = None if synthetic is None else LIDCCollection(synthetic)
    data = RealAndSyntheticDataModule(LIDCCollection(store), made, **{**ROI, **settings})
    data.setup()
    return data


@pytest.mark.parametrize("per_real", [0.0, 0.5, 1.0, 2.0])
def test_so_many_synthetic_nodules_join_each_real_one(
    store: Path, synthetic: Path, per_real: float
) -> None:
    real = real_module(store)
    data = augmented(store, synthetic, per_real=per_real)
    count = len(real.datasets["train"])
    train = data.datasets["train"]
    assert len(train) == count + round(per_real * count)
    # validation and test are untouched
    for split in ("val", "test"):
        assert data.datasets[split].fingerprint == real.datasets[split].fingerprint
        assert not train.patients & real.datasets[split].patients
    np.testing.assert_array_equal(train[0]["image"], real.datasets["train"][0]["image"])
    names = [train[k]["name"] for k in range(len(train))]
    assert len({*names}) == len(names)
    assert sum(name.startswith("synthetic") for name in names) == round(per_real * count)
    # what the copies do not know is not a number, and batches can be made
    ratings = [float(train[k]["attributes"]["subtlety"]) for k in range(len(train))]
    assert np.isnan(ratings).sum() == round(per_real * count)
    assert len(next(iter(data.train_dataloader()))["name"]) == data.batch_size


def test_equal_subtypes_and_synthetic_nodules_alone(store: Path, synthetic: Path) -> None:
    table = pd.read_csv(store / "nodules.csv")
    real = real_module(store, select="subtype != 'solid'")
    table.loc[table["subtype"] == "part-solid", "subtype"] = "solid"
    table.to_csv(store / "nodules.csv", index=False)
    data = augmented(store, synthetic, equal_subtypes=True)
    counts = [data.datasets["train"].subtypes.count(code) for code in range(3)]
    assert counts == [max(counts)] * 3
    alone = augmented(store, synthetic, without_real=True)
    names = [alone.datasets["train"][k]["name"] for k in range(len(alone.datasets["train"]))]
    assert all(name.startswith("synthetic") for name in names)
    assert len(names) > len(real.datasets["train"])


def test_the_choice_is_the_seeds(store: Path, synthetic: Path) -> None:
    prints = [
        augmented(store, synthetic, per_real=0.5, seed=seed).datasets["train"].fingerprint
        for seed in (0, 0, 1)
    ]
    assert prints[0] == prints[1] != prints[2]


def test_real_nodules_alone_are_the_real_data(store: Path) -> None:
    data = augmented(store, None, augmented_copies=3)
    real = real_module(store)
    assert len(data.datasets["train"]) == 3 * len(real.datasets["train"])
    assert data.training_patients == real.training_patients


def test_patients_of_test_reach_neither_generator_nor_images(store: Path, synthetic: Path) -> None:
    real = real_module(store)
    generator = synthetic / "generator.json"
    seen = json.loads(generator.read_text())["training_patients"]
    for split in ("val", "test"):
        stranger = min(real.datasets[split].patients)
        generator.write_text(json.dumps({"training_patients": [*seen, patient_key(stranger)]}))
        with pytest.raises(ValueError, match=rf"1 patient\(s\) of the {split} split.*{stranger}"):
            augmented(store, synthetic)
    generator.write_text(json.dumps({"training_patients": [*seen, "unknown"]}))
    with pytest.raises(ValueError, match="do not say on whom"):
        augmented(store, synthetic)
    for listed in ({}, {"training_patients": "all"}, {"training_patients": [1]}):
        generator.write_text(json.dumps(listed))
        with pytest.raises(ValueError, match=r"does not list the generator's training_patients"):
            augmented(store, synthetic)
    write_json(generator, {"training_patients": seen})
    generator.write_text(generator.read_text().replace(seen[0], "0" * len(seen[0])))
    with pytest.raises(ValueError, match=r"generator\.json differs from its checksum"):
        augmented(store, synthetic)
    generator.unlink()
    with pytest.raises(FileNotFoundError, match=r"generator\.json is missing"):
        augmented(store, synthetic)
    table = pd.read_csv(synthetic / "nodules.csv")
    table.loc[0, "patient_id"] = min(real.datasets["test"].patients)
    table.to_csv(synthetic / "nodules.csv", index=False)
    with pytest.raises(ValueError, match="are not in the real training split"):
        augmented(store, synthetic)


def test_faults_are_named(
    store: Path, synthetic: Path, tmp_path: Path, write_store: Callable[..., Path]
) -> None:
    with pytest.raises(ValueError, match="synthetic nodules are needed, but there are"):
        augmented(store, synthetic, per_real=9.0)
    with pytest.raises(ValueError, match="per_real is -1"):
        augmented(store, synthetic, per_real=-1)
    with pytest.raises(ValueError, match="give at least 0, and synthetic nodules"):
        augmented(store, None, without_real=True)
    flat = LIDCCollection(write_store(tmp_path / "flat", 2))
    with pytest.raises(ValueError, match="nodules are 2D images of int16, the real ones 3D"):
        RealAndSyntheticDataModule(LIDCCollection(store), flat, **ROI).setup()


@pytest.mark.parametrize("settings", [{"per_real": 2.0}, {"without_real": True}])
def test_prevalence_is_that_of_real_nodules(
    store: Path, synthetic: Path, settings: dict[str, Any]
) -> None:
    data = augmented(store, synthetic, **settings)
    names = [name for batch in data.real_batches() for name in batch["name"]]
    assert names == real_module(store).datasets["train"].table["nodule_id"].tolist()
    assert len(data.datasets["train"]) != len(names) or "without_real" in settings
    plain = augmented(store, None)
    assert [name for batch in plain.real_batches() for name in batch["name"]] == names
