"""How good probabilities are, over weighted cases, and bootstrap intervals over patients.

The cases of a bootstrap's replicate are the same ones with other weights: every figure takes
weights `(..., cases)`, one row for each replicate, and gives all replicates at once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

REPLICATES = 1000
"""Resamples of a bootstrap."""

BINS = 10
"""Bins of the calibration error."""

Figure = Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], NDArray[np.float64]]
"""From labels `(cases,)`, probabilities `(cases,)` and weights `(..., cases)` to `(...)`."""


def auroc(
    labels: NDArray[Any], scores: NDArray[Any], weights: NDArray[Any] | None = None
) -> NDArray[np.float64]:
    """Area under the receiver operating characteristic, ties counted half (Hanley and McNeil 1982).

    Args:
        labels: `(cases,)`, 1 or 0.
        scores: `(cases,)`.
        weights: `(..., cases)`, at least 0; None for 1 each.

    Returns:
        `(...)`; NaN where there is only one label.
    """
    positive, negative = _by_score(labels, scores, weights)
    below = np.cumsum(negative, -1) - negative
    pairs = positive.sum(-1) * negative.sum(-1)
    with np.errstate(invalid="ignore"):
        area: NDArray[np.float64] = (positive * (below + negative / 2)).sum(-1) / pairs
    return area


def average_precision(
    labels: NDArray[Any], scores: NDArray[Any], weights: NDArray[Any] | None = None
) -> NDArray[np.float64]:
    """Area under the precision-recall curve, as a sum over steps, without interpolation.

    AP = sum_n (R_n - R_(n-1)) P_n over falling thresholds (Davis and Goadrich 2006 on why it must
    not be interpolated). A score that says nothing has the share of positives.

    Args:
        labels: `(cases,)`, 1 or 0.
        scores: `(cases,)`.
        weights: `(..., cases)`, at least 0; None for 1 each.

    Returns:
        `(...)`; NaN where there is no positive.
    """
    positive, negative = (side[..., ::-1] for side in _by_score(labels, scores, weights))
    hits, misses = np.cumsum(positive, -1), np.cumsum(negative, -1)
    total = hits + misses
    with np.errstate(invalid="ignore"):
        precision = np.divide(hits, total, out=np.zeros_like(hits), where=total > 0)
        area: NDArray[np.float64] = (positive * precision).sum(-1) / hits[..., -1]
    return area


def brier(
    labels: NDArray[Any], probabilities: NDArray[Any], weights: NDArray[Any] | None = None
) -> NDArray[np.float64]:
    """Mean squared difference between probability and label (Brier 1950); 0 is best."""
    return _mean((probabilities - labels) ** 2, weights)


def calibration_error(
    labels: NDArray[Any], probabilities: NDArray[Any], weights: NDArray[Any] | None = None
) -> NDArray[np.float64]:
    """Expected calibration error (Naeini et al. 2015), in 10 bins of equal width.

    The mean over cases of how far their bin's mean probability is from its share of positives.
    """
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    weights = np.ones(len(labels)) if weights is None else weights
    gaps = [np.abs((weights * (bins == k) * (probabilities - labels)).sum(-1)) for k in range(BINS)]
    error: NDArray[np.float64] = sum(gaps) / weights.sum(-1)
    return error


def _by_score(
    labels: NDArray[Any], scores: NDArray[Any], weights: NDArray[Any] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight of positives and of negatives at each different score, from the lowest on."""
    order = np.argsort(scores, kind="stable")
    first = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, float)
    sides = [(weights * (labels == answer))[..., order] for answer in (1, 0)]
    positive, negative = (np.add.reduceat(side, first, axis=-1) for side in sides)
    return positive, negative


def _mean(values: NDArray[Any], weights: NDArray[Any] | None) -> NDArray[np.float64]:
    weights = np.ones(len(values)) if weights is None else weights
    mean: NDArray[np.float64] = (weights * values).sum(-1) / weights.sum(-1)
    return mean


def share(
    chosen: NDArray[np.bool_], of: NDArray[np.bool_], weights: NDArray[Any]
) -> NDArray[np.float64]:
    """Which share of some cases is chosen; NaN where there are none."""
    with np.errstate(invalid="ignore"):
        found: NDArray[np.float64] = (weights * (chosen & of)).sum(-1) / (weights * of).sum(-1)
    return found


FIGURES: Mapping[str, Figure] = {
    "auroc": auroc,
    "auprc": average_precision,
    "sensitivity": lambda y, p, w: share(p > 0.5, y == 1, w),
    "specificity": lambda y, p, w: share(p <= 0.5, y == 0, w),
}
"""Figures of probabilities for which both answers weigh alike."""

CALIBRATION: Mapping[str, Figure] = {"brier": brier, "calibration_error": calibration_error}
"""Figures of probabilities at the prevalence among real training nodules."""


def patient_weights(
    patients: Sequence[str], replicates: int = REPLICATES, seed: int = 0
) -> NDArray[np.float64]:
    """How often each case is in each replicate of a bootstrap over patients.

    Args:
        patients: of each case.
        replicates: number of replicates.
        seed: of the resampling.

    Returns:
        `(replicates, cases)`.
    """
    codes, unique = pd.factorize(np.asarray(patients))
    shares = np.full(len(unique), 1 / len(unique))
    counts = np.random.default_rng(seed).multinomial(len(unique), shares, size=replicates)
    return counts[:, codes].astype(float)


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % percentile interval of a bootstrap's replicates; those that are NaN are left out."""
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


class Estimate(NamedTuple):
    """A figure, and what it would be with other patients.

    Attributes:
        value: of the cases as they are.
        draws: `(REPLICATES,)`, of a bootstrap over patients; those of other figures of the same
            cases have the same patients.
        number: of the cases that it is of.
    """

    value: float
    draws: NDArray[np.float64]
    number: float


def estimate(
    figure: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    drawn: NDArray[np.float64],
    number: float,
) -> Estimate:
    """Measure cases, and their replicates.

    Args:
        figure: from weights `(..., cases)` to `(...)`.
        drawn: weights of the replicates, `(REPLICATES, cases)`.
        number: of the cases that it is of.
    """
    values = figure(np.vstack([np.ones(drawn.shape[1]), drawn]))
    return Estimate(float(values[0]), values[1:], number)


def mean_estimate(values: NDArray[np.float64], patients: Sequence[str]) -> Estimate:
    """The mean of values `(cases,)`, with patients resampled."""
    return estimate(lambda w: _mean(values, w), patient_weights(patients), len(values))


def seed_weights(seeds: int) -> NDArray[np.float64]:
    """Weights of runs with several seeds in each replicate of a bootstrap over seeds.

    Returns:
        `(REPLICATES, seeds)`; the sum over the seeds is 1.
    """
    generator = np.random.default_rng(1)  # not the one that draws patients
    return generator.multinomial(seeds, np.full(seeds, 1 / seeds), REPLICATES) / seeds
