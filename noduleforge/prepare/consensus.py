"""Which readers' outlines are of one nodule, and what they agree on."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

READERS = 4
"""So many readers looked at each scan of LIDC-IDRI."""


class Marking(NamedTuple):
    """One reader's mask of one nodule on the grid of a scan.

    Attributes:
        mask: `(z, y, x)` bool, a box around the nodule.
        start: index of the box's first voxel in the scan; may lie outside.
        reader: who; empty where unknown.
        ratings: the reader's, by name.
        name: how the source calls it.
    """

    mask: NDArray[np.bool_]
    start: tuple[int, int, int]
    reader: str
    ratings: dict[str, int]
    name: str

    @property
    def voxels(self) -> NDArray[np.int64]:
        """`(n, 3)` indices in the scan."""
        indices: NDArray[np.int64] = np.argwhere(self.mask) + np.array(self.start)
        return indices


def group_markings(
    markings: Sequence[Marking], spacing_mm: Sequence[float], tolerance_mm: float
) -> list[list[int]]:
    """Put the outlines of one nodule together.

    Outlines are joined from the nearest pair on, where they overlap or are at most the tolerance
    apart; a nodule has one outline of each reader at most, and no more than `READERS`. Overlapping
    pairs come in the order of how much of both they share.

    Args:
        markings: of one scan, each with at least one voxel.
        spacing_mm: of the scan, z, y, x.
        tolerance_mm: between the nearest voxels of two outlines.

    Returns:
        For each nodule the positions of its outlines; nodules and outlines in the order given.
    """
    voxels = [one.voxels * np.asarray(spacing_mm) for one in markings]
    trees = [cKDTree(points) for points in voxels]
    low = [points.min(axis=0) - tolerance_mm for points in voxels]
    high = [points.max(axis=0) for points in voxels]
    near = []
    for a, b in combinations(range(len(markings)), 2):
        if (low[a] > high[b]).any() or (low[b] > high[a]).any():
            continue
        distance = float(np.min(trees[a].query(voxels[b])[0]))
        if distance > tolerance_mm:
            continue
        shared = 0 if distance else _shared(markings[a], markings[b])
        near.append((distance, -shared / (len(voxels[a]) + len(voxels[b])), a, b))
    nodule = {a: [a] for a in range(len(markings))}
    for _, _, a, b in sorted(near):
        one, other = nodule[a], nodule[b]
        together = one + other
        readers = [markings[k].reader for k in together if markings[k].reader]
        if one is other or len(together) > READERS or len(set(readers)) < len(readers):
            continue
        nodule |= dict.fromkeys(together, together)
    unique = {id(members): sorted(members) for members in nodule.values()}
    return sorted(unique.values())


def _shared(one: Marking, other: Marking) -> int:
    """Number of voxels in both."""
    ours, theirs = ({*map(tuple, marking.voxels.tolist())} for marking in (one, other))
    return len(ours & theirs)


def agreement_mask(
    markings: Sequence[Marking], agreement: float
) -> tuple[NDArray[np.bool_], tuple[int, int, int]]:
    """The voxels that at least a share of a nodule's outlines has.

    Args:
        markings: one nodule's.
        agreement: share of them, above 0 and up to 1.

    Returns:
        The mask and where its box begins in the scan; see `Marking`.
    """
    start = np.min([one.start for one in markings], axis=0)
    stop = np.max([np.add(one.start, one.mask.shape) for one in markings], axis=0)
    votes = np.zeros(stop - start, np.int64)
    for one in markings:
        low = np.subtract(one.start, start)
        votes[tuple(map(slice, low, low + one.mask.shape))] += one.mask
    z, y, x = start.tolist()
    return votes >= agreement * len(markings), (z, y, x)
