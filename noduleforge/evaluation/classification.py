"""Figures of a classifier: by characteristic, with intervals over patients."""

from functools import partial

import numpy as np
import pandas as pd

from noduleforge.evaluation.bootstrap import Estimate, estimate, interval, patient_weights
from noduleforge.evaluation.probabilities import CALIBRATION, FIGURES

TABLE = "classification.csv"
"""What is said of every nodule, one nodule and characteristic a row: `name`, `patient_id`,
`characteristic`, `label` (1 or 0), `probability` and `calibrated`."""

COLUMNS = ("name", "patient_id", "characteristic", "label", "probability", "calibrated")
"""What `TABLE` has."""


def class_figures(table: pd.DataFrame) -> pd.DataFrame:
    """Every figure of every characteristic, with 95 % intervals over patients.

    Where several classes are judged there are also `macro`, their mean, and `minority`, the mean of
    all but the most frequent.

    Args:
        table: of `TABLE`.

    Returns:
        Rows with `characteristic`, `figure`, `value`, `low`, `high`, `with` and `without` (cases).
    """
    rows = []
    for (characteristic, figure), found in estimates(table).items():
        low, high = interval(found.draws)
        of_class = table[table["characteristic"] == characteristic]["label"]
        row = {"characteristic": characteristic, "figure": figure, "value": found.value}
        row |= {"low": low, "high": high}
        if len(of_class):
            row |= {"with": (of_class == 1).sum(), "without": (of_class == 0).sum()}
        rows.append(row)
    return pd.DataFrame(rows)


def estimates(table: pd.DataFrame) -> dict[tuple[str, str], Estimate]:
    """Every figure of every characteristic, and of groups of them; see `class_figures`.

    Args:
        table: of `TABLE`; the draws of tables with the same patients are the same.
    """
    found: dict[tuple[str, str], Estimate] = {}
    patients = sorted(table["patient_id"].unique())
    drawn = pd.DataFrame(patient_weights(patients).T, index=patients)
    for name, part in table.groupby("characteristic", sort=False):
        weights = drawn.loc[part["patient_id"]].to_numpy().T
        labels = part["label"].to_numpy()
        for column, figures in (("probability", FIGURES), ("calibrated", CALIBRATION)):
            for figure, measure in figures.items():
                of_weights = partial(measure, labels, part[column].to_numpy())
                found[str(name), figure] = estimate(of_weights, weights, len(part))
    positives = table.groupby("characteristic", sort=False)["label"].sum()
    groups = {"macro": list(positives.index)}
    groups["minority"] = [name for name in positives.index if name != positives.idxmax()]
    for group, names in groups.items() if len(positives) > 1 else ():
        for figure in (*FIGURES, *CALIBRATION):
            of_names = [found[str(name), figure] for name in names]
            value = float(np.mean([each.value for each in of_names]))
            draws = np.mean([each.draws for each in of_names], axis=0)
            found[group, figure] = Estimate(value, draws, table["name"].nunique())
    return found
