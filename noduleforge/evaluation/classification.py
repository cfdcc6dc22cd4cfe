"""Figures of a classifier: by characteristic, with intervals over patients."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from noduleforge.evaluation.bootstrap import Estimate, estimate, interval, patient_weights
from noduleforge.evaluation.probabilities import BINS, CALIBRATION, FIGURES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE = "classification.csv"
"""What is said of every nodule, one nodule and characteristic a row: `name`, `patient_id`,
`characteristic`, `label` (1 or 0), `probability` and `calibrated`."""


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


def reliability(table: pd.DataFrame) -> "Figure":
    """Share of positives against the mean probability, in bins, one panel for each class.

    Args:
        table: of `TABLE`.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = list(table["characteristic"].unique())
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(2.4 * len(names), 2.6), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            part = table[table["characteristic"] == name]
            bins = np.minimum((part["calibrated"] * BINS).astype(int), BINS - 1)
            means = part.groupby(bins)[["calibrated", "label"]].mean()
            sizes = part.groupby(bins).size()
            axes.plot([0, 1], [0, 1], color="0.7", lw=0.8)
            axes.scatter(means["calibrated"], means["label"], s=4 + sizes)
            axes.set(title=name, xlim=(0, 1), ylim=(0, 1), aspect="equal")
            axes.set_xlabel("probability")
        figure.supylabel("share")
    return figure
