"""What the callback of classifiers refuses, and what it writes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from callbacks.classification import ClassificationMetrics, reliability
from datamodules.batch import Classification


def said(labels: list[float], probabilities: list[float]) -> Classification:
    """Of one characteristic; calibrated probabilities are half as high."""
    columns = [torch.tensor(values)[:, None] for values in (labels, probabilities)]
    return Classification(("malignant",), *columns, columns[1] / 2)


def test_what_is_known_is_written(tmp_path: Path) -> None:
    callback, module = ClassificationMetrics(), SimpleNamespace()
    trainer: Any = SimpleNamespace(is_global_zero=True, default_root_dir=str(tmp_path))
    callback.on_test_start(trainer, module)  # type: ignore[arg-type]
    batch: Any = {"name": ["a", "b", "c"], "patient_id": ["1", "2", "3"]}
    outputs = said([1.0, torch.nan, 0.0], [0.75, 0.5, 0.25])
    callback.on_test_batch_end(trainer, module, outputs, batch, 0)  # type: ignore[arg-type]
    callback.on_test_end(trainer, module)  # type: ignore[arg-type]
    table = pd.read_csv(tmp_path / "classification.csv")
    assert table.to_dict("list") == {
        "name": ["a", "c"],
        "patient_id": [1, 3],
        "characteristic": ["malignant"] * 2,
        "label": [1, 0],
        "probability": [0.75, 0.25],
        "calibrated": [0.375, 0.125],
    }
    accuracy = pd.read_csv(tmp_path / "accuracy.csv", index_col="figure")
    assert accuracy.loc["auroc", "value"] == 1
    assert (tmp_path / "calibration.png").stat().st_size > 2_000


def test_each_class_has_its_panel() -> None:
    table = pd.DataFrame({"characteristic": ["a", "b", "b"], "label": [0, 1, 0]})
    figure = reliability(table.assign(calibrated=[0.05, 0.95, 1.0]))
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]


def test_nodules_without_a_rating_cannot_be_judged() -> None:
    callback, trainer = ClassificationMetrics(), SimpleNamespace(is_global_zero=True)
    module: Any = SimpleNamespace()
    callback.on_test_start(trainer, module)  # type: ignore[arg-type]
    batch: Any = {"name": ["a"], "patient_id": ["1"]}
    callback.on_test_batch_end(trainer, module, said([torch.nan], [0.5]), batch, 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="known of no test nodule whether it is malignant: give"):
        callback.on_test_end(trainer, module)  # type: ignore[arg-type]
