"""How far readers agree, with what was asked for and with each other."""

import numpy as np
from numpy.typing import NDArray
from scipy import stats


def cohen_kappa(first: NDArray[np.int_], second: NDArray[np.int_], linear: bool = False) -> float:
    """Cohen's kappa (1960): agreement beyond what shares alone give; NaN where both say one thing.

    Args:
        first: category of each case, by one.
        second: by another.
        linear: whether categories are steps of a scale, neighbours half agreeing (Cohen 1968,
            linear weights).
    """
    from sklearn.metrics import cohen_kappa_score

    if len({*first.tolist(), *second.tolist()}) < 2:
        return np.nan
    return float(cohen_kappa_score(first, second, weights="linear" if linear else None))


def fleiss_kappa(answers: NDArray[np.int_]) -> float:
    """Fleiss' kappa (1971) of several readers; NaN where all say one thing.

    Args:
        answers: `(cases, readers)`, categories from 0 on.
    """
    readers = answers.shape[1]
    counts = np.stack([(answers == k).sum(1) for k in range(int(answers.max()) + 1)], axis=1)
    agreeing = ((counts**2).sum(1) - readers) / (readers * (readers - 1))
    by_chance = float(((counts.sum(0) / counts.sum()) ** 2).sum())
    if by_chance == 1:
        return np.nan
    return float((agreeing.mean() - by_chance) / (1 - by_chance))


def ordering_tau(order: list[int]) -> float:
    """Kendall's tau of an order of strengths with the true one, -1 (reversed) to 1.

    Args:
        order: the true ranks, 0 to n - 1, in the order in which they were put.
    """
    return float(stats.kendalltau(order, range(len(order))).statistic)
