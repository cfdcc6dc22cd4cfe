"""The callback of detectors: tables and pictures; the config from training to figures."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from detections import disc

from callbacks.detection import DetectionMetrics
from datamodules.batch import Detection
from lightning_modules.cli import main

CONFIG = Path(__file__).parents[2] / "configs/downstream/cxr_detection.yaml"


def perfect(labels: list[int], seed: int = 0) -> tuple[Any, Detection]:
    """A batch, and a detector's answer that is right everywhere."""
    rng = np.random.default_rng(seed)
    masks = np.stack([disc(*rng.uniform(8, 24, 2), 4 if label else -1) for label in labels])
    mask = torch.from_numpy(masks.astype(np.float32))[:, None]
    label = torch.tensor(labels, dtype=torch.float32)
    subtlety = torch.where(label > 0, 1 + torch.arange(len(labels)) % 5, torch.nan)
    batch = {
        "image": mask * 50 + 100,
        "mask": mask,
        "spacing_mm": torch.full((len(labels), 2), 2.0),
        "attributes": {"nodule": label, "subtlety": subtlety},
        "name": [f"{seed}-{number}" for number in range(len(labels))],
        "patient_id": [f"{seed}-{number}" for number in range(len(labels))],
    }
    return batch, Detection(0.2 + 0.6 * label, 0.01 + 0.9 * mask)


@pytest.mark.parametrize("validation", [[1, 0], [1, 1]])
def test_a_perfect_detector_has_perfect_figures(validation: list[int], tmp_path: Path) -> None:
    split = [1, 0, 1, 0, 1, 1]
    batch, found = perfect(split)
    held, said = perfect(validation, seed=1)
    data = SimpleNamespace(
        datasets={
            "test": SimpleNamespace(subtypes=split),
            "val": SimpleNamespace(subtypes=validation),
        },
        val_dataloader=lambda: [held],
    )
    trainer: Any = SimpleNamespace(
        datamodule=data,
        strategy=SimpleNamespace(batch_to_device=lambda batch: batch),
        precision_plugin=SimpleNamespace(forward_context=lambda: torch.no_grad()),
        is_global_zero=True,
        default_root_dir=str(tmp_path),
    )
    module: Any = SimpleNamespace(detect=lambda image: said)
    callback = DetectionMetrics()
    callback.on_test_start(trainer, module)
    for _ in range(2):  # a rank may be given images that another one has had
        callback.on_test_batch_end(trainer, module, found, batch, 0)
    callback.on_test_end(trainer, module)
    figures = pd.read_csv(tmp_path / "detection_figures.csv", index_col="figure")
    thresholds = figures[figures["low"].isna()]
    name = "val" if 0 in validation else "test"
    assert list(thresholds.index) == [f"youden_threshold_{name}", f"iou_threshold_{name}"]
    shares = figures.drop(thresholds.index)[["value", "low", "high"]]
    np.testing.assert_allclose(shares.to_numpy(), 1)
    images = pd.read_csv(tmp_path / "detection.csv")
    assert len(images) == 6
    assert images["nodules"].tolist() == split
    candidates = pd.read_csv(tmp_path / "candidates.csv")
    assert candidates["hit"].tolist() == [1] * 4
    assert set(candidates["image"]) == set(images.loc[images["label"] == 1, "name"])
    for picture in ("froc.png", "detections.png"):
        assert (tmp_path / picture).stat().st_size > 5_000


def test_both_kinds_of_images_are_needed() -> None:
    datasets = {"test": SimpleNamespace(subtypes=[1, 1])}
    trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(datasets=datasets))
    module: Any = None
    with pytest.raises(ValueError, match="has 2 images with a nodule and 0 without"):
        DetectionMetrics().on_test_start(trainer, module)


def test_the_config_takes_a_shrunken_step(
    tmp_path: Path, store: Path, radiographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fit, resume and test with everything that the config chooses but its size."""
    chest = {"class_path": "ChestXray14Collection", "init_args": {"root": str(radiographs)}}
    put = {
        "root": str(store),
        "select": None,
        "background_radiographs": chest,
        "radiographs_per_nodule": 1,
        "subtlety": "drawn",
    }
    nodules = {"class_path": "SuperimposedCollection", "init_args": put}
    sources = {
        "nodules": {"collection": nodules},
        "normal": {"collection": chest, "content": "normal"},
    }
    root = tmp_path / "run"
    trainer = {"max_steps": 1, "accelerator": "cpu", "log_every_n_steps": 1}
    data = {
        "sources": sources,
        "fractions": [0.5, 0.2, 0.3],
        "split_seed": 0,
        "radiograph_size": 64,
        "radiograph_spacing_mm": 4.0,
        "batch_size": 2,
    }
    small = {
        "data": {"init_args": {**data, "cache_dir": str(tmp_path / "cache")}},
        "trainer": {**trainer, "enable_progress_bar": False, "default_root_dir": str(root)},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    config = ["--config", str(CONFIG), "--config", str(tmp_path / "small.yaml")]
    main(["fit", *config])
    main(["fit", *config, "--trainer.max_steps", "2"])
    assert torch.load(root / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
    main(["test", *config])
    figures = pd.read_csv(root / "detection_figures.csv", index_col="figure")
    assert {"auc", "best_iou", "froc_0.125", "cpm", "sensitivity"} <= set(figures.index)
    assert len(pd.read_csv(root / "detection.csv")) == figures.loc["auc", "n"]
