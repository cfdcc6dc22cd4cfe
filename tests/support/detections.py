"""What a detector might have found, for tests."""

from typing import Any

import numpy as np
import pandas as pd


def random_table(images: int = 30, seed: int = 0) -> pd.DataFrame:
    """Candidates with scores in tenths, so that there are ties; some nodules are missed."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(images):
        label = number % 2
        found = rng.integers(1, 11, label * rng.integers(1, 3)) / 10
        rows.append(
            {
                "patient_id": str(number // 3),
                "label": label,
                "probability": rng.integers(11) / 10,
                "subtlety": float(rng.integers(1, 4)) if label else np.nan,
                "iou": rng.random() if label else np.nan,
                "false_positives": rng.integers(1, 11, rng.integers(5)) / 10,
                "found": np.where(rng.random(len(found)) < 0.2, -np.inf, found),
            }
        )
    return pd.DataFrame(rows)


def disc(y: float, x: float, radius: float, side: int = 32) -> Any:
    rows, columns = np.mgrid[:side, :side]
    return np.hypot(rows - y, columns - x) <= radius
