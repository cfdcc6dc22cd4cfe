"""Does how pictures are stored tell real from synthetic ones? A decision tree tries."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

from noduleforge.evaluation.probabilities import auroc

FOLDS, REPEATS, PERMUTATIONS = 5, 3, 100


class Audit(NamedTuple):
    """What a decision tree can tell by storage alone.

    Attributes:
        auc: area under its ROC curve, on pairs that it has not learned on.
        chance: the area that 95 % of trees stay below if it is chance that decides.
    """

    auc: float
    chance: float

    @property
    def told_apart(self) -> bool:
        """Whether the tree beats chance."""
        return self.auc > self.chance


def storage_features(stored: bytes, shape: tuple[int, ...]) -> list[float]:
    """What a file says without its nodule: bytes, grey levels, and noise at the rim.

    Args:
        stored: of `study.encode`.
        shape: voxels along each axis.
    """
    image = np.frombuffer(stored, "<u2").reshape(shape).astype(float)
    rim = np.ones(shape, bool)
    rim[(slice(2, -2),) * len(shape)] = False
    levels, counts = np.unique(image[rim], return_counts=True)
    shares = counts / counts.sum()
    second = np.diff(image, 2, -1)[rim[..., 1:-1]]
    sides = [np.take(image, end, axis) for axis in range(len(shape)) for end in (0, -1)]
    smooth = image - ndimage.uniform_filter(image, 3)
    return [
        float(len(stored)),
        float(len(levels)),
        float(np.gcd.reduce(np.rint(levels).astype(int))),
        float((image[rim] % 2).mean()),
        float((image[rim] == 0).mean()),
        float((image[rim] == image.max()).mean()),
        float(-(shares * np.log(shares)).sum()),
        float(np.median(np.abs(second))),
        float(smooth[rim].std()),
        float(stats.iqr(smooth[rim])),
        float(min(np.ptp(side) for side in sides)),
    ]


def audit(
    features: NDArray[np.float64], synthetic: NDArray[np.bool_], twins: NDArray[np.int_]
) -> Audit:
    """Let a decision tree tell synthetic pictures by how they are stored.

    Both of a pair are judged by a tree that has seen neither. Chance is known by trees that learn
    the same with real and synthetic exchanged at random within pairs.

    Args:
        features: `(pictures, figures)`.
        synthetic: `(pictures,)`.
        twins: `(pictures,)`, the number of the pair.
    """
    rng = np.random.default_rng(0)
    found = _area(features, synthetic, twins)
    draws = []
    for _ in range(PERMUTATIONS):
        exchanged = rng.random(int(twins.max()) + 1) < 0.5
        draws.append(_area(features, synthetic ^ exchanged[twins], twins, repeats=1))
    return Audit(found, float(np.quantile(draws, 0.95)))


def _area(
    features: NDArray[np.float64],
    synthetic: NDArray[np.bool_],
    twins: NDArray[np.int_],
    repeats: int = REPEATS,
) -> float:
    from sklearn.tree import DecisionTreeClassifier

    number = int(twins.max()) + 1
    areas = []
    for repeat in range(repeats):
        fold = np.random.default_rng(repeat).permutation(number)[twins] % min(FOLDS, number)
        said = np.zeros(len(twins))
        for part in np.unique(fold):
            held = fold == part
            tree = DecisionTreeClassifier(max_depth=3, min_samples_leaf=3, random_state=repeat)
            said[held] = tree.fit(features[~held], synthetic[~held]).predict_proba(features[held])[
                :, 1
            ]
        areas.append(float(auroc(synthetic, said)))
    return float(np.mean(areas))
