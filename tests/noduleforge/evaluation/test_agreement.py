"""Kappas and tau against published examples."""

import numpy as np
import pytest

from noduleforge.evaluation.agreement import cohen_kappa, fleiss_kappa, ordering_tau


def test_fleiss_published_example() -> None:
    """Ten subjects, fourteen raters, five categories: kappa is 0.210."""
    counts = [
        *([0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1]),
        *([7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]),
    ]
    answers = np.array([np.repeat(range(5), row) for row in counts])
    assert fleiss_kappa(answers) == pytest.approx(0.210, abs=5e-4)
    assert fleiss_kappa(np.array([[0, 0], [1, 1]])) == 1
    assert np.isnan(fleiss_kappa(np.zeros((4, 3), int)))


def test_cohen() -> None:
    """Of 50 proposals 20 have two yes, 15 two no, 5 and 10 one of each: kappa is 0.4."""
    first = np.repeat([1, 1, 0, 0], [20, 5, 10, 15])
    second = np.repeat([1, 0, 1, 0], [20, 5, 10, 15])
    assert cohen_kappa(first, second) == pytest.approx(0.4)
    assert np.isnan(cohen_kappa(np.ones(4, int), np.ones(4, int)))
    # on a scale, who is off by one agrees more than who is off by four
    truth = np.array([1, 2, 3, 4, 5] * 3)
    near, far = np.where(truth == 1, 2, truth), np.where(truth == 1, 5, truth)
    assert cohen_kappa(truth, near, linear=True) > cohen_kappa(truth, far, linear=True)


def test_ordering() -> None:
    assert ordering_tau([0, 1, 2, 3]) == 1
    assert ordering_tau([3, 2, 1, 0]) == -1
    assert ordering_tau([0, 2, 1, 3]) == pytest.approx(4 / 6)
