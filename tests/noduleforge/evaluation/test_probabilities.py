"""Figures of probabilities, against brute force and SciPy."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from noduleforge.evaluation.probabilities import (
    CALIBRATION,
    FIGURES,
    auroc,
    average_precision,
    brier,
    calibration_error,
)


def cases(seed: int = 0, number: int = 60) -> tuple[Any, Any]:
    """Labels and probabilities with ties."""
    rng = np.random.default_rng(seed)
    return rng.integers(2, size=number), rng.integers(8, size=number) / 8 + 1 / 16


def test_auroc_is_mann_whitneys_u() -> None:
    labels, scores = cases()
    positive, negative = scores[labels == 1], scores[labels == 0]
    u = stats.mannwhitneyu(positive, negative).statistic
    assert auroc(labels, scores) == pytest.approx(u / (len(positive) * len(negative)))
    assert auroc(labels, 1 - scores) == pytest.approx(1 - auroc(labels, scores))
    assert np.isnan(auroc(np.ones(4), np.arange(4)))


def test_average_precision_is_the_sum_over_thresholds() -> None:
    labels, scores = cases()
    area, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        found = scores >= threshold
        now = (found & (labels == 1)).sum() / (labels == 1).sum()
        area += (now - recall) * (found & (labels == 1)).sum() / found.sum()
        recall = now
    assert average_precision(labels, scores) == pytest.approx(area)
    assert average_precision(labels, np.zeros(60)) == pytest.approx(labels.mean())
    assert average_precision(labels, labels) == 1
    assert np.isnan(average_precision(np.zeros(4), np.arange(4)))


def test_calibration_error_and_brier() -> None:
    labels, scores = cases()
    gaps = [
        (scores == value).sum() * abs(labels[scores == value].mean() - value)
        for value in set(scores)  # eight values in eight different bins
    ]
    assert calibration_error(labels, scores) == pytest.approx(sum(gaps) / 60)
    assert brier(labels, scores) == pytest.approx(np.mean((labels - scores) ** 2))
    assert calibration_error(np.array([1, 1]), np.array([1.0, 1.0])) == 0


@pytest.mark.parametrize("name", [*FIGURES, *CALIBRATION])
def test_weights_are_repetitions(name: str) -> None:
    labels, scores = cases()
    measure = {**FIGURES, **CALIBRATION}[name]
    weights = np.random.default_rng(1).integers(3, size=(5, 60))
    together = measure(labels, scores, weights)
    assert together.shape == (5,)
    for row, value in zip(weights, together, strict=True):
        again = np.repeat(labels, row), np.repeat(scores, row)
        assert value == pytest.approx(measure(*again, np.ones(row.sum())))
