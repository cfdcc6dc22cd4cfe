"""Figures of probabilities, against brute force and SciPy."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from callbacks.scores import (
    CALIBRATION,
    FIGURES,
    REPLICATES,
    auroc,
    average_precision,
    brier,
    calibration_error,
    interval,
    mean_estimate,
    patient_weights,
    seed_weights,
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


def test_bootstrap_resamples_patients_not_cases() -> None:
    """Cases of one patient are no more than one: the interval is that of the patients' means."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=40)
    patients = [f"P{k}" for k in range(40)]
    found = []
    for often in (1, 25):
        weights = patient_weights(np.repeat(patients, often).tolist())
        assert (weights.sum(1) == 40 * often).all()
        found.append(interval((weights * np.repeat(values, often)).sum(1) / weights.sum(1)))
    assert found[0] == pytest.approx(found[1])
    error = values.std() / np.sqrt(40)
    assert found[0] == pytest.approx(values.mean() + np.array([-1.96, 1.96]) * error, abs=0.1)


def test_the_interval_of_a_mean_resamples_patients() -> None:
    """More nodules of the same patients tell no more; the spread is that of a mean of 40."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=40)
    patients = [str(number) for number in range(40)]
    once = mean_estimate(values, patients)
    often = mean_estimate(values.repeat(25), np.repeat(patients, 25).tolist())
    assert once.value == pytest.approx(values.mean())
    assert interval(often.draws) == pytest.approx(interval(once.draws))
    assert once.draws.std() == pytest.approx(values.std() / 40**0.5, rel=0.1)
    assert (once.number, often.number) == (40, 1000)


def test_seeds_are_resampled_apart_from_patients() -> None:
    weights = seed_weights(5)
    assert weights.shape == (REPLICATES, 5)
    np.testing.assert_allclose(weights.sum(1), 1)
    np.testing.assert_allclose(weights.mean(0), 0.2, atol=0.02)
    # the mean of 5 resampled seeds has the variance of one, over 5
    assert (weights @ [-1, 0, 0, 0, 1]).std() == pytest.approx((2 / 5 / 5) ** 0.5, rel=0.1)
    of_patients = patient_weights([str(number) for number in range(5)])
    correlation = np.corrcoef(weights[:, 0], of_patients[:, 0])[0, 1]
    assert abs(correlation) < 0.15
