"""Figures of a classifier, against scikit-learn's definitions and brute force."""

import numpy as np
import pandas as pd
import pytest

from callbacks.classification import FIGURES, auroc, patient_interval


def test_auroc_is_the_share_of_ordered_pairs() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(2, size=60), rng.integers(8, size=60) / 8
    pairs = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p in scores[labels == 1]
        for n in scores[labels == 0]
    ]
    assert auroc(labels, scores) == pytest.approx(np.mean(pairs))
    assert auroc(labels, 1 - scores) == pytest.approx(1 - np.mean(pairs))
    assert np.isnan(auroc(np.ones(4), np.arange(4)))


def test_sensitivity_and_specificity() -> None:
    table = pd.DataFrame(
        {"label": [1, 1, 1, 0, 0], "probability": [0.9, 0.6, 0.5, 0.5, 0.8], "patient_id": "a"}
    )
    assert FIGURES["sensitivity"](table) == pytest.approx(2 / 3)
    assert FIGURES["specificity"](table) == pytest.approx(1 / 2)


def test_intervals_resample_patients_not_rows() -> None:
    """Rows of one patient are no more than one: the interval is that of the patients' means."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=40)
    table = pd.DataFrame({"patient_id": np.arange(40), "value": values})
    often = table.loc[table.index.repeat(25)]
    once = patient_interval(table, lambda t: float(t["value"].mean()))
    assert patient_interval(often, lambda t: float(t["value"].mean())) == pytest.approx(once)
    error = values.std() / np.sqrt(40)
    assert once == pytest.approx(values.mean() + np.array([-1.96, 1.96]) * error, abs=0.1)
