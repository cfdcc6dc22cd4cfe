"""Figures of several readers on the same cases, where both could have been others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

OfWeights = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""A figure of one reader: from weights `(..., cases)` to `(...)`."""

READER_DEVIATION, CORRELATION = 0.05, 0.4
"""Assumed before a study: standard deviation of true areas under the ROC curve among readers, and
correlation of the errors of two readers on the same cases (Van Dyke's study has 0.48)."""

POWER = 0.8


class ReaderMean(NamedTuple):
    """The mean of a figure over readers, and what it would be with other readers and cases.

    Attributes:
        value: mean over the readers.
        error: its standard error.
        degrees: of freedom of t; infinite for one reader, whose interval is for cases alone.
        variance: of one reader's figure by cases, mean over readers.
        covariance: of two readers' figures by cases, mean over pairs; NaN for one reader.
        low: lower end of the 95 % interval, not below 0.
        high: upper end, not above 1.
    """

    value: float
    error: float
    degrees: float
    variance: float
    covariance: float
    low: float
    high: float


def reader_mean(figures: Sequence[OfWeights], clusters: Sequence[object]) -> ReaderMean:
    """The mean of a share or an area over readers by Obuchowski and Rockette (1995).

    Covariances are the jackknife's over clusters of cases, such as patients; standard error and
    degrees of freedom are those of a single treatment (Hillis 2007, ddf_H_single): with r readers
    se^2 = (MS(R) + r max(Cov2, 0)) / r and df = (r - 1) (r se^2 / MS(R))^2.

    Args:
        figures: of each reader.
        clusters: of each case, that all of them have judged.
    """
    codes, unique = pd.factorize(np.asarray(clusters))
    number, readers = len(unique), len(figures)
    weights = np.vstack([np.ones(len(codes)), codes != np.arange(number)[:, None]])
    every = np.stack([figure(weights) for figure in figures])
    values, left_out = every[:, 0], every[:, 1:]
    spread = left_out - left_out.mean(1, keepdims=True)
    covariances = (number - 1) / number * spread @ spread.T
    variance = float(np.trace(covariances) / readers)
    if readers == 1:
        error, degrees, covariance = float(np.sqrt(variance)), np.inf, np.nan
    else:
        covariance = float((covariances.sum() - np.trace(covariances)) / (readers * (readers - 1)))
        error, degrees = mean_error(float(values.var(ddof=1)), covariance, readers)
    value = float(values.mean())
    reach = float(stats.t.ppf(0.975, degrees)) * error
    low, high = max(value - reach, 0.0), min(value + reach, 1.0)
    return ReaderMean(value, error, degrees, variance, covariance, low, high)


def mean_error(between: float, covariance: float, readers: int) -> tuple[float, float]:
    """Standard error and degrees of freedom of a mean over readers; see `reader_mean`.

    Args:
        between: mean square of readers.
        covariance: of two readers by cases.
        readers: two or more.
    """
    total = between + readers * max(covariance, 0.0)
    degrees = (readers - 1) * (total / between) ** 2 if between > 0 else np.inf
    return float(np.sqrt(total / readers)), float(degrees)


def area_variance(area: float, positives: int, negatives: int) -> float:
    """Variance of an area under the ROC curve by cases (Hanley and McNeil 1982)."""
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (positives - 1) * (first - area**2)
    return (spread + (negatives - 1) * (second - area**2)) / (positives * negatives)


def planned_error(
    area: float,
    readers: int,
    cases: int,
    deviation: float = READER_DEVIATION,
    correlation: float = CORRELATION,
) -> tuple[float, float]:
    """Standard error and degrees of freedom that a study is expected to have.

    Args:
        area: the readers' mean area under the ROC curve.
        readers: number of readers; the interval of one is for cases alone.
        cases: of each kind.
        deviation: of true areas among readers.
        correlation: of two readers' errors.
    """
    variance = area_variance(area, cases, cases)
    if readers == 1:
        return float(np.sqrt(variance)), np.inf
    between = deviation**2 + variance * (1 - correlation)
    return mean_error(between, correlation * variance, readers)


def power(area: float, readers: int, cases: int) -> float:
    """How likely a study finds that an area is not 0.5, at a level of 5 % on both sides.

    Args:
        area: the true one.
        readers: number of readers.
        cases: of each kind.
    """
    error, degrees = planned_error(area, readers, cases)
    limit, shift = stats.t.ppf(0.975, degrees), (area - 0.5) / error
    if np.isinf(degrees):
        return float(stats.norm.sf(limit - shift) + stats.norm.cdf(-limit - shift))
    return float(stats.nct.sf(limit, degrees, shift) + stats.nct.cdf(-limit, degrees, shift))


def detectable_area(readers: int, cases: int) -> float:
    """The smallest area above 0.5 that a study finds with a power of 80 %; NaN if there is none."""
    areas = np.arange(0.51, 1.0, 0.01)
    found = [area for area in areas.tolist() if power(area, readers, cases) >= POWER]
    return float(min(found, default=np.nan))


def cases_needed(area: float, readers: int, most: int = 2000) -> int | None:
    """Cases of each kind with which an area is found with a power of 80 %; None beyond `most`.

    Rounded up by at most 5 %. With two readers more cases can make power smaller: what is left is
    the deviation between them, of which two say little.
    """
    steps = np.unique(np.geomspace(2, most, 150).round().astype(int))
    return next((n for n in steps.tolist() if power(area, readers, n) >= POWER), None)


def expected(readers: int, cases: int) -> str:
    """What a study of real against synthetic nodules can show, in words.

    Args:
        readers: number of readers.
        cases: of each kind.
    """
    error, degrees = planned_error(0.5, readers, cases)
    half = stats.t.ppf(0.975, degrees) * error
    smallest = detectable_area(readers, cases)
    needed = cases_needed(0.6, readers)
    people = "1 reader" if readers == 1 else f"{readers} readers"
    found = "no area" if np.isnan(smallest) else f"an area of {smallest:.2f} or more"
    more = "no number of cases is enough" if needed is None else f"{needed} of each are needed"
    return (
        f"{people} with {cases} real and {cases} synthetic nodules find {found} under the ROC "
        f"curve to differ from chance, with a power of {POWER:.0%}; at chance the 95 % interval "
        f"reaches {half:.2f} to either side. For an area of 0.60 {more}. (Assumed: areas of "
        f"readers deviate by {READER_DEVIATION}, their errors correlate by {CORRELATION}.)"
    )
