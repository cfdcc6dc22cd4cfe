"""Can synthetic nodules be told from real ones by figures of their texture? Two-sample tests."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noduleforge.evaluation.bootstrap import Estimate, estimate, patient_weights
from noduleforge.evaluation.probabilities import auroc

FOLDS, REPEATS = 5, 3
"""Parts of the patients, each of which is judged by what was learned on the others; and how often
they are divided anew."""


def boosted_trees(seed: int) -> Any:
    """A judge for few figures that mean something each: gradient-boosted trees."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        learning_rate=0.06, max_iter=150, max_leaf_nodes=15, random_state=seed
    )


def linear(seed: int) -> Any:
    """A judge for many features of a network: logistic regression with a strong ridge."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))


def told_apart(
    features: NDArray[np.floating],
    synthetic: NDArray[np.bool_],
    patients: Sequence[str],
    make_judge: Callable[[int], Any] = boosted_trees,
) -> NDArray[np.float64]:
    """How surely each nodule is taken for synthetic, by a classifier that has not seen its patient.

    A classifier two-sample test (Lopez-Paz and Oquab 2017).

    Args:
        features: `(N, figures)`.
        synthetic: `(N,)`; which nodules are.
        patients: of each nodule.
        make_judge: a classifier of scikit-learn's for a seed.

    Returns:
        `(N,)` probabilities, a mean over repeats.

    Raises:
        ValueError: If there are fewer than five patients, or one kind alone in what is learned on.
    """
    known, who = np.unique(np.asarray(patients), return_inverse=True)
    if len(known) < FOLDS:
        message = f"There are nodules of {len(known)} patient(s): give those of at least {FOLDS}"
        raise ValueError(message)
    probabilities = np.zeros(len(features))
    for repeat in range(REPEATS):
        fold = np.random.default_rng(repeat).permutation(len(known))[who] % FOLDS
        for part in range(FOLDS):
            held = fold == part
            if len(np.unique(synthetic[~held])) < 2:
                message = (
                    "All patients but a fifth have nodules of one kind alone: give real and "
                    "synthetic nodules of the same patients"
                )
                raise ValueError(message)
            judge = make_judge(repeat).fit(features[~held], synthetic[~held])
            probabilities[held] += judge.predict_proba(features[held])[:, 1] / REPEATS
    return probabilities


def area_told_apart(
    probabilities: NDArray[np.floating], synthetic: NDArray[np.bool_], patients: Sequence[str]
) -> Estimate:
    """Area under the ROC curve of `told_apart`; 0.5 if nothing tells them apart."""
    return estimate(
        lambda weights: auroc(synthetic, probabilities, weights),
        patient_weights(patients),
        len(probabilities),
    )


def feature_distance(real: NDArray[np.floating], synthetic: NDArray[np.floating]) -> float:
    """Euclidean distance of the mean figures, each over its deviation among real nodules.

    Args:
        real: `(N, figures)`.
        synthetic: `(M, figures)`.
    """
    deviation = real.std(0)
    shift = (synthetic.mean(0) - real.mean(0)) / np.where(deviation > 0, deviation, 1)
    return float(np.linalg.norm(shift))


def halves(patients: Sequence[str], seed: int) -> NDArray[np.bool_]:
    """Which nodules are of one half of the patients, `(N,)`; by chance."""
    known, who = np.unique(np.asarray(patients), return_inverse=True)
    chosen: NDArray[np.bool_] = np.random.default_rng(seed).permutation(len(known))[who] % 2 == 1
    return chosen
