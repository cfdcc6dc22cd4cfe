"""Real nodules in other places."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lightning import Trainer

from callbacks import NiftiWriter
from datamodules.batch import Roi
from datamodules.io.volumes import read_volume
from datamodules.lidc import LIDCDataModule
from lightning_modules import CopyPaste


def test_nodules_change_places(store: Path, tmp_path: Path) -> None:
    settings = {"roi": Roi(16), "cache_dir": None, "predict_split": "train"}
    data = LIDCDataModule(store, **settings)
    trainer = Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False,
        callbacks=[NiftiWriter()],
    )  # fmt: skip
    trainer.predict(CopyPaste(margin_voxels=2), data, return_predictions=False)
    train = data.datasets["train"]
    real = [train[k] for k in range(len(train))]
    table = pd.read_csv(tmp_path / "synthetic/nodules.csv")
    assert len(table) == len(train)
    for host, row in zip(real, table.to_dict("records"), strict=True):
        image, mask = (
            read_volume(tmp_path / "synthetic" / row[kind]).array for kind in ("image", "mask")
        )
        inside = mask > 0
        donors = [
            item
            for item in real
            if np.array_equal(item["mask"][0] > 0, inside)
            and np.array_equal(item["image"][0].numpy()[inside], image[inside])
        ]
        assert len(donors) == 1
        assert donors[0]["patient_id"] != host["patient_id"]
        assert row["patient_id"] == host["patient_id"]
        assert row["subtlety"] == float(donors[0]["attributes"]["subtlety"])
        # of the background radiograph's nodule nothing is left, and its corner is untouched
        was = host["mask"][0].numpy() > 0
        np.testing.assert_array_equal(
            image[was & ~inside], donors[0]["image"][0].numpy()[was & ~inside]
        )
        np.testing.assert_array_equal(image[:2, :2], host["image"][0].numpy()[:2, :2])
    seen = json.loads((tmp_path / "synthetic/generator.json").read_text())["training_patients"]
    assert set(seen) == data.training_patients


def test_one_patient_is_too_few(store: Path) -> None:
    data = LIDCDataModule(store, roi=Roi(16), cache_dir=None, select="patient_id == 'P0'",
                          fractions=(1.0, 0.0, 0.0), predict_split="train")  # fmt: skip
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    with pytest.raises(ValueError, match="All training nodules are of the patient P0"):
        trainer.predict(CopyPaste(), data, return_predictions=False)
