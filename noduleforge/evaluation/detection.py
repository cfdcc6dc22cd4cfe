"""Figures of a detector on whole images: area under the ROC curve, FROC, overlap, thresholds."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datamodules.tables import read_table
from noduleforge.evaluation.bootstrap import Estimate, estimate, interval, patient_weights
from noduleforge.evaluation.froc import (
    RATES,
    Bools,
    Floats,
    find_candidates,
    find_nodules,
    hit_nodule,
    sensitivity_at,
)
from noduleforge.evaluation.probabilities import auroc, share

TABLE = "detection.csv"
"""What is said of every image."""

THRESHOLDS = np.arange(1, 20) / 20
"""Probabilities of a pixel out of which the one with the best IoU is chosen."""


def overlap(pixels: Floats, mask: Bools) -> Floats:
    """Intersection over union with a mask, not empty, at each of `THRESHOLDS`."""
    found = pixels[None] > THRESHOLDS[:, None, None]
    iou: Floats = (found & mask).sum((1, 2)) / (found | mask).sum((1, 2))
    return iou


def measure(pixels: Floats, mask: Bools, threshold: float, distance_px: float) -> dict[str, Any]:
    """What a detector finds on one image, as columns of the table that `estimates` takes.

    Args:
        pixels: probabilities `(y, x)`.
        mask: of all nodules `(y, x)`; empty where there is none.
        threshold: probability that a candidate exceeds.
        distance_px: candidates that are nearer to each other are one, the more probable.

    Returns:
        `found` and `false_positives` as `sensitivity_at` takes them, `candidates` (score, y, x and
        the number of the nodule that is hit, or None) and `ious`, at each of `THRESHOLDS`, None
        without a nodule.
    """
    nodules = find_nodules(mask)
    candidates = find_candidates(pixels, threshold, distance_px)
    hits = [hit_nodule((y, x), nodules) for _, y, x in candidates]
    scores: dict[int | None, list[float]] = {}
    for (score, _, _), hit in zip(candidates, hits, strict=True):
        scores.setdefault(hit, []).append(score)
    best = [max(scores.get(k, [-np.inf])) for k in range(len(nodules))]
    return {
        "found": np.array(best, float),
        "false_positives": np.array(scores.get(None, []), float),
        "candidates": [(*c, hit) for c, hit in zip(candidates, hits, strict=True)],
        "ious": overlap(pixels, mask) if nodules else None,
    }


def youden_threshold(labels: NDArray[Any], scores: Floats) -> float:
    """The score from which on sensitivity + specificity - 1 is highest (Youden 1950).

    Of several it is the highest.

    Args:
        labels: 1 or 0, both present.
        scores: as many.
    """
    values = np.unique(scores)[::-1]
    said = scores >= values[:, None]
    positive, negative = labels == 1, labels == 0
    # sensitivity + specificity - 1, times both numbers: whole numbers, in which ties are exact
    gain = said[:, positive].sum(1) * negative.sum() - said[:, negative].sum(1) * positive.sum()
    return float(values[int(gain.argmax())])


def estimates(table: pd.DataFrame, youden: float) -> dict[str, Estimate]:
    """All figures, by the names that `callbacks.DetectionMetrics` explains.

    Args:
        table: one image a row: `patient_id`, `label`, `probability`, `subtlety`, `iou`, and what
            `sensitivity_at` needs.
        youden: the probability from which on an image counts as one with a nodule.

    Returns:
        Their `number` is that of the images or nodules that they are of.
    """
    label, score = table["label"].to_numpy(), table["probability"].to_numpy()
    iou, subtlety = table["iou"].fillna(0).to_numpy(), np.floor(table["subtlety"] + 0.5).to_numpy()
    positive, nodule, said = label == 1, table["found"].map(len).to_numpy(), score >= youden

    def froc(weights: Floats, rate: float) -> Floats:
        return sensitivity_at(table, weights, rate)

    def among(chosen: Bools, of: Bools) -> tuple[Bools, Callable[[Floats], Floats]]:
        return of, lambda weights: share(chosen, of, weights)

    # of each figure what it is of, and how it comes from weights of the images
    listed: dict[str, tuple[NDArray[Any], Callable[[Floats], Floats]]] = {
        "auc": (np.ones(len(table)), lambda w: auroc(label, score, w)),
        "best_iou": (positive, lambda w: (w * iou).sum(-1) / (w * positive).sum(-1)),
        **{f"froc_{rate:g}": (nodule, partial(froc, rate=rate)) for rate in RATES},
        "cpm": (nodule, lambda w: np.mean([froc(w, rate) for rate in RATES], axis=0)),
        "sensitivity": among(said, positive),
        "specificity": among(~said, ~positive),
        **{
            f"sensitivity_subtlety_{level:.0f}": among(said, positive & (subtlety == level))
            for level in np.unique(subtlety[positive & np.isfinite(subtlety)])
        },
    }
    drawn = patient_weights(table["patient_id"].to_list())
    return {name: estimate(figure, drawn, of.sum()) for name, (of, figure) in listed.items()}


def figures_of(table: pd.DataFrame, youden: float) -> pd.DataFrame:
    """All figures, with 95 % bootstrap intervals over patients.

    Args:
        table: as for `estimates`.
        youden: as for `estimates`.

    Returns:
        `figure`, `value`, `low`, `high`, and `n`, the images or nodules that it is of.
    """
    rows = []
    for name, found in estimates(table, youden).items():
        low, high = interval(found.draws)
        row = {"figure": name, "value": found.value, "low": low, "high": high}
        rows.append(row | {"n": int(found.number)})
    return pd.DataFrame(rows)


def read_tables(folder: Path) -> tuple[pd.DataFrame, float]:
    """Read what `callbacks.DetectionMetrics` wrote, as `estimates` takes it.

    Args:
        folder: of the run.

    Returns:
        The table and Youden's point.

    Raises:
        FileNotFoundError: If a table is missing.
    """
    for name in (TABLE, "candidates.csv", "detection_figures.csv"):
        if not (folder / name).is_file():
            message = f"{folder / name} is missing: run `lightning test` there again."
            raise FileNotFoundError(message)
    table = read_table(folder / TABLE, dtype={"name": str, "patient_id": str})
    candidates = read_table(folder / "candidates.csv", dtype={"image": str}, empty=True)
    false = candidates[candidates["hit"] == 0].groupby("image")["score"]
    hits = candidates[candidates["hit"] == 1].groupby(["image", "nodule"])["score"].max()
    scores = {str(name): part.to_numpy(float) for name, part in false}
    found = [
        np.array([hits.get((name, k), -np.inf) for k in range(number)], float)
        for name, number in zip(table["name"], table["nodules"], strict=True)
    ]
    table["found"] = pd.Series(found)
    table["false_positives"] = pd.Series([scores.get(n, np.empty(0)) for n in table["name"]])
    figures = read_table(folder / "detection_figures.csv").set_index("figure")["value"]
    youden = figures[figures.index.str.startswith("youden_threshold")]
    return table, float(youden.iloc[0])


def table_of_images(table: pd.DataFrame) -> pd.DataFrame:
    """What `detection.csv` says: of each image also how many nodules it has and how many are hit.

    Args:
        table: as for `estimates`.
    """
    named = table[["name", "patient_id", "label", "probability", "subtlety", "iou"]]
    return named.assign(
        nodules=table["found"].map(len),
        hit=table["found"].map(lambda found: int(np.isfinite(found).sum())),
        false_positives=table["false_positives"].map(len),
    )


def table_of_candidates(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """What `candidates.csv` says.

    Args:
        rows: one image each, of `measure`.
    """
    found = [(row["name"], *candidate) for row in rows for candidate in row["candidates"]]
    table = pd.DataFrame(found, columns=["image", "score", "y", "x", "nodule"])
    table = table.astype({"nodule": "Int64"})
    return table.assign(hit=table["nodule"].notna().astype(int))
