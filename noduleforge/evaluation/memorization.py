"""How near synthetic nodules are to training nodules, next to held-out real ones."""

from typing import Any

import numpy as np
import pandas as pd

from noduleforge.evaluation.bootstrap import interval, patient_weights

SPACES = {"voxels": "root mean square difference", "features": "Euclidean distance"}
QUANTILE = 0.05
"""A synthetic nodule is near if so few held-out real ones are as near to a training nodule."""


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """For each space, and with and without a nodule's own patient, how near synthetic ones are.

    Args:
        table: one nodule a row: `kind` (synthetic or held-out), `patient_id`, and for each space
            the distance to the nearest training nodule, `..._other_patients`, to the nearest of
            another patient, and `..._same_patient`, whether the nearest is of the same.

    Returns:
        Rows with `space`, `training nodules` (all, or of other patients), `synthetic` and
        `held-out` (median distances), `nearer` (the share of synthetic nodules that is nearer than
        the 5 % quantile of held-out ones; 0.05 if they are alike) with its 95 % bootstrap interval
        over patients of both, `nearer than any` (than every held-out one) with that of the
        synthetic patients alone, since a minimum cannot be resampled, and `same patient` (the
        share whose nearest training nodule is of the image's own patient).
    """
    rows = []
    for space in [space for space in SPACES if space in table]:
        for which, column in (("all", space), ("of other patients", f"{space}_other_patients")):
            made, held = (table[table["kind"] == kind] for kind in ("synthetic", "held-out"))
            ours, theirs = made[column].to_numpy(), held[column].to_numpy()
            of_made = patient_weights(made["patient_id"].tolist())
            of_held = patient_weights(held["patient_id"].tolist(), seed=1).astype(int)
            shares = [
                np.average(ours < np.quantile(np.repeat(theirs, times), QUANTILE), weights=weights)
                for weights, times in zip(of_made, of_held, strict=True)
            ]
            low, high = interval(np.array(shares))
            row: dict[str, Any] = {"space": space, "training nodules": which}
            row |= {"synthetic": np.median(ours), "held-out": np.median(theirs)}
            row |= {"nearer": np.mean(ours < np.quantile(theirs, QUANTILE)), "low": low}
            nearest_of_all = ours < theirs.min()
            row |= {"high": high, "nearer than any": nearest_of_all.mean()}
            low, high = interval(of_made @ nearest_of_all / of_made.sum(1))
            row |= {"low of any": low, "high of any": high}
            same = made[f"{space}_same_patient"].mean() if which == "all" else 0.0
            rows.append({**row, "same patient": same})
    return pd.DataFrame(rows)
