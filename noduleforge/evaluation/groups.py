"""Groups of nodules that figures are reported for, by subtype and size."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datamodules.batch import SUBTYPES

LARGE_MM = 8.0
"""Solid nodules over this diameter are followed up most closely (Fleischner Society 2017)."""

LARGE = "over_8mm"
"""Nodules over `LARGE_MM`; without a space, which TensorBoard and command lines do not like."""

GROUPS = (*SUBTYPES, LARGE, "all")
"""Every group, in the order of reports."""

SIZES_MM = {"up to 8 mm": (0.0, 8.0), "8 to 15 mm": (8.0, 15.0), "over 15 mm": (15.0, np.inf)}
"""Groups by diameter, the lower end left out: Fleischner's 8 mm, and larger ones."""


def by_subtype_and_size(table: pd.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """All rows, those of each subtype, and of each size, where there are any.

    Args:
        table: with `subtype` and `diameter_mm`.
    """
    size = table["diameter_mm"].to_numpy(float)
    found = {"all": np.ones(len(table), bool)}
    found |= {name: (table["subtype"] == name).to_numpy() for name in SUBTYPES}
    found |= {name: (size > low) & (size <= high) for name, (low, high) in SIZES_MM.items()}
    return {name: chosen for name, chosen in found.items() if chosen.any()}
