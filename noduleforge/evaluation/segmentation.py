"""Dice coefficients of outlined nodules, by subtype and size."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from noduleforge.evaluation.bootstrap import interval, mean_estimate
from noduleforge.evaluation.groups import by_subtype_and_size

TABLE = "segmentation.csv"
"""What is measured of every nodule: `name`, `patient_id`, `subtype`, `diameter_mm`, `dice`."""


def dice(found: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
    """Dice coefficient 2 |A and B| / (|A| + |B|) of each of a batch (Dice 1945), 0 to 1.

    Args:
        found: `(B, ...)`, 1 inside and 0 elsewhere.
        truth: `(B, ...)`; not empty.

    Returns:
        `(B,)`.
    """
    one, other = (mask.reshape(len(mask), -1).astype(float) for mask in (found, truth))
    coefficient: NDArray[np.float64] = 2 * (one * other).sum(1) / (one.sum(1) + other.sum(1))
    return coefficient


def by_group(table: pd.DataFrame) -> pd.DataFrame:
    """Mean Dice of all, by subtype and by size: `group`, `nodules`, `dice`, `low`, `high`.

    Args:
        table: of `TABLE`.
    """
    rows = []
    for name, chosen in by_subtype_and_size(table).items():
        part = table[chosen]
        found = mean_estimate(part["dice"].to_numpy(), part["patient_id"].to_list())
        low, high = interval(found.draws)
        row = {"group": name, "nodules": len(part), "dice": part["dice"].mean()}
        rows.append({**row, "low": low, "high": high})
    return pd.DataFrame(rows)
