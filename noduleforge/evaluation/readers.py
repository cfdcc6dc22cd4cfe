"""Figures of reader studies, from tables of answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from noduleforge.evaluation.agreement import cohen_kappa, fleiss_kappa
from noduleforge.evaluation.groups import by_subtype_and_size
from noduleforge.evaluation.multireader import OfWeights, reader_mean
from noduleforge.evaluation.probabilities import auroc, share, weighted_mean

ALL = "all"
"""Stands for the mean over readers."""

QUARTERS = 4
"""Parts of a sitting over which learning is looked at."""

Measure = Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], NDArray[np.float64]]
"""From labels (1 is synthetic), scores (above 0 is called synthetic) and weights."""

TURING: Mapping[str, Measure] = {
    "AUC": auroc,
    "accuracy": lambda y, s, w: weighted_mean(((s > 0) == (y == 1)).astype(float), w),
    "sensitivity": lambda y, s, w: share(s > 0, y == 1, w),
    "specificity": lambda y, s, w: share(s < 0, y == 0, w),
    "synthetic taken for real": lambda y, s, w: share(s < 0, y == 1, w),
    "real taken for synthetic": lambda y, s, w: share(s > 0, y == 0, w),
}
"""What is reported of real or synthetic; a synthetic nodule that is recognized is a hit."""


def turing_figures(cases: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Figures of real or synthetic, of each reader and their mean, by subtype and size.

    Intervals of 95 %: of the mean, `reader_mean` with readers and patients as random; of a single
    reader, the same over patients alone, and Wilson's (1927) where it is a share.

    Args:
        cases: one case a row: `kind`, `patients`, `subtype`, `diameter_mm`.
        scores: of the same rows, one column a reader, without gaps.

    Returns:
        Rows with `group`, `reader`, `figure`, `value`, `low`, `high`, `readers`, `cases`.
    """
    labels = (cases["kind"] == "synthetic").to_numpy(int)
    rows = []
    for group, chosen in by_subtype_and_size(cases).items():
        patients = cases["patients"][chosen].tolist()
        for name, measure in TURING.items():
            if name == "AUC" and len(np.unique(labels[chosen])) < 2:
                continue
            figures = {
                reader: partial(measure, labels[chosen], scores[reader].to_numpy()[chosen])
                for reader in scores
            }
            for reader, those in _means_and_each(figures).items():
                found = reader_mean(those, patients)
                row = {"group": group, "reader": reader, "figure": name, "value": found.value}
                ends = {"low": found.low, "high": found.high}
                if name != "AUC" and len(those) == 1:
                    ends = _wilson(found.value, _number(name, labels[chosen]))
                rows.append(row | ends | {"readers": len(those), "cases": int(chosen.sum())})
    return pd.DataFrame(rows).dropna(subset="value")


def _means_and_each(figures: Mapping[Any, OfWeights]) -> dict[Any, list[OfWeights]]:
    """What the mean over readers, where there are several, and each reader are measured by."""
    every = {ALL: list(figures.values())} if len(figures) > 1 else {}
    return every | {reader: [figure] for reader, figure in figures.items()}


def _number(figure: str, labels: NDArray[Any]) -> int:
    """Of how many cases a figure is the share."""
    if figure == "accuracy":
        return len(labels)
    synthetic = figure in ("sensitivity", "synthetic taken for real")
    return int((labels == int(synthetic)).sum())


def _wilson(value: float, number: int) -> dict[str, float]:
    if not number:
        return {"low": np.nan, "high": np.nan}
    ends = stats.binomtest(round(value * number), number).proportion_ci(method="wilson")
    return {"low": float(ends.low), "high": float(ends.high)}


def share_figures(cases: pd.DataFrame, right: pd.DataFrame, figure: str) -> pd.DataFrame:
    """The mean of a figure of single cases, of each reader and over readers.

    Args:
        cases: one case a row: `patients`.
        right: of the same rows, one column a reader, without gaps.
        figure: its name.

    Returns:
        Rows as `turing_figures` has them.
    """
    patients = cases["patients"].tolist()
    figures = {r: partial(weighted_mean, right[r].to_numpy(float)) for r in right}
    rows = []
    for reader, those in _means_and_each(figures).items():
        found = reader_mean(those, patients)
        row = {"group": ALL, "reader": reader, "figure": figure, "value": found.value}
        rows.append(
            {**row, "low": found.low, "high": found.high}
            | {"readers": len(those), "cases": len(cases)}
        )
    return pd.DataFrame(rows)


def agreement_figures(
    kinds: NDArray[Any], known: NDArray[np.int_], said: pd.DataFrame, linear: bool
) -> pd.DataFrame:
    """How far readers agree with what was asked for, and with each other, on both kinds.

    Args:
        kinds: real or synthetic, of each case.
        known: category of each case, from 0 on: of synthetic nodules what was asked for.
        said: of the same cases the category, one column a reader, without gaps.
        linear: whether categories are steps of a scale.

    Returns:
        Rows with `kind`, `reader`, `cases`, `share` (that agree) and `kappa` (Cohen's); of the
        reader `ALL` the means, and `fleiss`, the agreement among readers.
    """
    rows = []
    for kind in ("real", "synthetic"):
        chosen = kinds == kind
        if not chosen.any():
            continue
        truth, answers = known[chosen], said[chosen].to_numpy()
        each = [
            {
                "kind": kind,
                "reader": reader,
                "cases": int(chosen.sum()),
                "share": float((answers[:, k] == truth).mean()),
                "kappa": cohen_kappa(truth, answers[:, k], linear),
            }
            for k, reader in enumerate(said)
        ]
        rows += each
        if len(each) > 1:
            means = pd.DataFrame(each)[["share", "kappa"]].mean()
            row = {"kind": kind, "reader": ALL, "cases": int(chosen.sum())}
            rows.append({**row, **means, "fleiss": fleiss_kappa(answers)})
    return pd.DataFrame(rows)


def learning(position: NDArray[np.int_], right: NDArray[np.bool_]) -> tuple[list[float], float]:
    """Whether a reader becomes better over the sitting.

    Args:
        position: of each case in the sitting.
        right: whether it was judged right.

    Returns:
        The share that is right in each quarter, and the p value of Spearman's rank correlation of
        place and being right (NaN where all are right or none).
    """
    order = np.argsort(position)
    parts = [float(part.mean()) for part in np.array_split(right[order], QUARTERS) if len(part)]
    if len(np.unique(right)) < 2:
        return parts, np.nan
    return parts, float(stats.spearmanr(position, right).pvalue)
