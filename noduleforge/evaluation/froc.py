"""Free-response ROC: which nodules a detector finds, at how many false positives per image."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from noduleforge.evaluation.probabilities import share

RATES = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)
"""False positives per image at which sensitivity is reported (Setio et al. 2017, LUNA16)."""

NEIGHBOURS = np.ones((3, 3), bool)
"""Pixels that touch at a corner belong together."""

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def find_nodules(mask: Bools) -> list[Bools]:
    """The connected components of a mask `(y, x)`."""
    from scipy import ndimage

    labels, number = ndimage.label(mask, NEIGHBOURS)
    return [labels == k for k in range(1, number + 1)]


def find_candidates(
    pixels: Floats, threshold: float, distance_px: float
) -> list[tuple[float, float, float]]:
    """List the local maxima of a probability map above a threshold.

    Connected components above the threshold would grow together where it is low, and FROC needs it
    low: nodules would then be lost, whatever their probability.

    Args:
        pixels: probabilities `(y, x)`.
        threshold: what a maximum must exceed.
        distance_px: in what distance nothing may exceed a maximum; of equal ones in this distance
            the first is kept, and those that touch are one.

    Returns:
        Of each its probability, and y and x of its centre, in pixels.
    """
    from scipy import ndimage

    reach = int(distance_px)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    highest = ndimage.maximum_filter(pixels, footprint=np.hypot(y, x) <= distance_px)
    labels, number = ndimage.label((pixels == highest) & (pixels > threshold), NEIGHBOURS)
    places = range(1, number + 1)
    scores = ndimage.maximum(pixels, labels, places)
    centers = ndimage.center_of_mass(labels > 0, labels, places)
    found = [(float(s), float(y), float(x)) for s, (y, x) in zip(scores, centers, strict=True)]
    kept: list[tuple[float, float, float]] = []
    for score, row, column in found:  # in half precision equal probabilities are frequent
        near = [s for s, y, x in kept if np.hypot(y - row, x - column) <= distance_px]
        if score not in near:
            kept.append((score, row, column))
    return kept


def hit_nodule(center: Sequence[float], nodules: Sequence[Bools]) -> int | None:
    """Say which nodule a candidate hits.

    It hits a nodule if its centre lies in the nodule's mask, or no farther from the mask's centre
    than the radius of the disc with the mask's area (as in LUNA16, Setio et al. 2017, where nodules
    are balls); of several, the one whose centre is nearest.

    Args:
        center: of the candidate, (y, x) in pixels.
        nodules: their masks `(y, x)`, none of them empty.

    Returns:
        Its position in `nodules`, or None.
    """
    row, column = (round(c) for c in center)
    hits = []
    for number, mask in enumerate(nodules):
        middle = [axis.mean() for axis in np.nonzero(mask)]
        distance = float(np.hypot(*np.subtract(center, middle)))
        if mask[row, column] or distance <= (mask.sum() / np.pi) ** 0.5:
            hits.append((distance, number))
    return min(hits)[1] if hits else None


def sensitivity_at(table: pd.DataFrame, weights: Floats, rate: float) -> Floats:
    """Share of nodules found at no more than `rate` false positives per image (Bunch et al. 1978).

    The threshold is the lowest that allows no more; nothing is interpolated.

    Args:
        table: one image a row: `false_positives`, the scores of the candidates that hit nothing,
            and `found`, for each nodule the highest score of the candidates that hit it, minus
            infinity if none does.
        weights: `(..., images)`, how often each image is there.
        rate: false positives per image, over all images.

    Returns:
        `(...)`; NaN where there is no nodule.
    """
    scores, of_score = _flat(table["false_positives"])
    falling = np.argsort(-scores)
    limits, of_score = np.append(scores[falling], -np.inf), of_score[falling]
    found, of_nodule = _flat(table["found"])

    def of_one(often: Floats) -> Floats:
        # so many false positives have scores that are allowed; the next one's is the limit
        allowed = (np.cumsum(often[of_score]) <= rate * often.sum() + 1e-9).sum()
        return share(found > limits[allowed], np.ones(len(found), bool), often[of_nodule])

    # one after the other: all at once, of a large test set, would not fit into memory
    return np.apply_along_axis(of_one, -1, weights)


def _flat(column: pd.Series) -> tuple[Floats, NDArray[np.intp]]:
    """The numbers of all rows, and the row of each."""
    counts = [len(values) for values in column]
    return np.concatenate([*column]), np.repeat(np.arange(len(column)), counts)
