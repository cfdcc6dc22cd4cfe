"""Intervals resample patients and seeds, and nothing else."""

import numpy as np
import pytest

from noduleforge.evaluation.bootstrap import (
    REPLICATES,
    interval,
    mean_estimate,
    patient_weights,
    seed_weights,
)


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
