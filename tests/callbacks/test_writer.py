"""Files of synthetic nodules."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch

from callbacks.writer import NiftiWriter
from datamodules.batch import Provenance, Synthesis
from datamodules.file_names import is_file_name


def test_names_that_are_paths_stay_in_the_folder(tmp_path: Path) -> None:
    """Whatever a collection calls its nodules."""
    names = ["n0", "x/../../../victim/n1", "患者一"]
    count = len(names)
    box = torch.zeros(count, 1, 4, 4, 4)
    batch: Any = {
        "name": names,
        "patient_id": ["p"] * count,
        "index": torch.arange(count),
        "subtype": torch.zeros(count, dtype=torch.int64),
        "mask": box,
        "spacing_mm": torch.ones(count, 3),
        "origin_mm": torch.zeros(count, 3),
        "direction": torch.eye(3).expand(count, 3, 3),
        "attributes": {"diameter_mm": torch.ones(count)},
    }
    none = torch.zeros(count, 0)
    provenance = Provenance("a.ckpt", 0, 1, ())
    synthesis = Synthesis(
        *(box, box, batch, none, none, none[0]), window=(-1000.0, 400.0), provenance=provenance
    )
    trainer: Any = SimpleNamespace(default_root_dir=tmp_path / "run", is_global_zero=True)
    model: Any = SimpleNamespace(provenance=provenance)
    writer = NiftiWriter()
    writer.on_predict_start(trainer, model)
    writer.on_predict_batch_end(trainer, model, synthesis, batch, 0)
    writer.on_predict_end(trainer, model)
    table = pd.read_csv(tmp_path / "run/synthetic/nodules.csv")
    assert table["image"][0] == "images/synthetic-n0.nii.gz"
    assert table["nodule_id"].map(is_file_name).all()
    for path in (*table["image"], *table["mask"]):
        assert ".." not in path
        assert (tmp_path / "run/synthetic" / path).is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    card = (tmp_path / "run/synthetic/README.md").read_text()
    assert "| synthetic nodules | 3 (3 solid) |" in card
    assert "| refused | 0 (0.0 %) |" in card
    assert not any(name in card for name in names)
