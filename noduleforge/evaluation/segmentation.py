"""Dice coefficients of outlined nodules, by subtype and size."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datamodules.batch import SUBTYPES
from noduleforge.evaluation.bootstrap import interval, mean_estimate

TABLE = "segmentation.csv"
"""What is measured of every nodule: `name`, `patient_id`, `subtype`, `diameter_mm`, `dice`."""

SIZES_MM = {"up to 8 mm": (0.0, 8.0), "8 to 15 mm": (8.0, 15.0), "over 15 mm": (15.0, np.inf)}
"""Groups by diameter, the lower end left out: Fleischner's 8 mm, and larger ones."""


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
    groups = {"all": pd.Series(True, table.index)}
    groups |= {name: table["subtype"] == name for name in SUBTYPES}
    for name, (low, high) in SIZES_MM.items():
        groups[name] = (table["diameter_mm"] > low) & (table["diameter_mm"] <= high)
    rows = []
    for name, chosen in groups.items():
        part = table[chosen]
        if len(part):
            found = mean_estimate(part["dice"].to_numpy(), part["patient_id"].to_list())
            low, high = interval(found.draws)
            row = {"group": name, "nodules": len(part), "dice": part["dice"].mean()}
            rows.append({**row, "low": low, "high": high})
    return pd.DataFrame(rows)
