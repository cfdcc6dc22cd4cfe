"""How good probabilities are, over weighted cases, and bootstrap intervals over patients.

The cases of a bootstrap's replicate are the same ones with other weights: every figure takes
weights `(..., cases)`, one row for each replicate, and gives all replicates at once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
    _, place = np.unique(scores, return_inverse=True)
    at = np.zeros((len(labels), place.max(initial=-1) + 1))
    at[np.arange(len(labels)), place] = 1
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, float)
    return (weights * (labels == 1)) @ at, (weights * (labels == 0)) @ at


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
"""Figures of probabilities at the training set's prevalence."""


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


def patient_interval(
    table: pd.DataFrame, figure: Callable[[pd.DataFrame], float], seed: int = 0
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of any figure of a table, with patients resampled.

    Args:
        table: rows with a `patient_id`.
        figure: from such rows to a number; resamples for which it is NaN are left out.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    rows = list(table.groupby("patient_id").indices.values())
    drawn = [rng.integers(len(rows), size=len(rows)) for _ in range(REPLICATES)]
    values = [figure(table.iloc[np.concatenate([rows[k] for k in some])]) for some in drawn]
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)
