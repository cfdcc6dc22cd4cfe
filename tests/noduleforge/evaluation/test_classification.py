"""Figures of a classifier by class."""

import numpy as np
import pandas as pd
import pytest

from noduleforge.evaluation.classification import class_figures
from noduleforge.evaluation.probabilities import auroc, average_precision


@pytest.fixture
def judged() -> pd.DataFrame:
    """Three classes of 30 nodules of 15 patients; the third is unknown for some."""
    rng = np.random.default_rng(0)
    rows = []
    for name, share in (("solid", 0.6), ("part-solid", 0.3), ("ground-glass", 0.2)):
        for k in range(30 if name != "ground-glass" else 24):
            label = int(rng.random() < share)
            probability = float(rng.uniform(0.3 * label, 0.7 + 0.3 * label))
            row = {"name": f"n{k}", "patient_id": f"P{k // 2}", "characteristic": name}
            row |= {"label": label, "probability": probability, "calibrated": probability / 2}
            rows.append(row)
    return pd.DataFrame(rows)


def test_every_class_and_their_means(judged: pd.DataFrame) -> None:
    table = class_figures(judged).set_index(["characteristic", "figure"])
    areas = {
        name: float(auroc(part["label"].to_numpy(), part["probability"].to_numpy()))
        for name, part in judged.groupby("characteristic")
    }
    for name, area in areas.items():
        row = table.loc[(name, "auroc")]
        assert row["value"] == pytest.approx(area)
        assert row["low"] < area < row["high"]
        assert row["with"] == judged.query("characteristic == @name")["label"].sum()
    assert table.loc[("macro", "auroc"), "value"] == pytest.approx(np.mean([*areas.values()]))
    minority = [area for name, area in areas.items() if name != "solid"]
    assert table.loc[("minority", "auroc"), "value"] == pytest.approx(np.mean(minority))
    solid = judged[judged["characteristic"] == "solid"]
    labels, said = solid["label"].to_numpy(), solid["probability"].to_numpy()
    assert table.loc[("solid", "auprc"), "value"] == pytest.approx(average_precision(labels, said))
    assert table.loc[("solid", "sensitivity"), "value"] == np.mean(said[labels == 1] > 0.5)
    assert table.loc[("solid", "specificity"), "value"] == np.mean(said[labels == 0] <= 0.5)
    # calibration is that of the probabilities at the prevalence
    squared = np.mean((solid["calibrated"] - labels) ** 2)
    assert table.loc[("solid", "brier"), "value"] == pytest.approx(squared)


def test_one_class_has_no_mean_over_classes(judged: pd.DataFrame) -> None:
    table = class_figures(judged[judged["characteristic"] == "solid"])
    assert set(table["characteristic"]) == {"solid"}
