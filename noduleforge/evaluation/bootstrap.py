"""Bootstrap intervals over patients and seeds.

The cases of a replicate are the same ones with other weights: every figure takes weights
`(..., cases)`, one row for each replicate, and gives all replicates at once.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from noduleforge.evaluation.probabilities import weighted_mean

REPLICATES = 1000
"""Resamples of a bootstrap."""


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
    return estimate(lambda w: weighted_mean(values, w), patient_weights(patients), len(values))


def seed_weights(seeds: int) -> NDArray[np.float64]:
    """Weights of runs with several seeds in each replicate of a bootstrap over seeds.

    Returns:
        `(REPLICATES, seeds)`; the sum over the seeds is 1.
    """
    generator = np.random.default_rng(1)  # not the one that draws patients
    return generator.multinomial(seeds, np.full(seeds, 1 / seeds), REPLICATES) / seeds
