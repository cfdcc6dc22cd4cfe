"""How good probabilities are, over weighted cases.

Every figure takes weights `(..., cases)`, such as one row for each replicate of a bootstrap, and
gives all replicates at once.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    return weighted_mean((probabilities - labels) ** 2, weights)


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


def weighted_mean(values: NDArray[Any], weights: NDArray[Any] | None) -> NDArray[np.float64]:
    """The mean of values `(cases,)` under weights `(..., cases)`, or none, as `(...)`."""
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
