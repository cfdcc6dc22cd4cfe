"""Histogram figures against NumPy and SciPy."""

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from callbacks.histogram import HistogramSums
from datamodules.batch import SUBTYPES

BINS, WIDTH = 8, 50.0
CENTERS = WIDTH * np.arange(BINS)


@pytest.fixture
def nodules() -> dict[str, torch.Tensor]:
    stream = torch.Generator().manual_seed(0)
    drawn = torch.rand(3, 30, BINS, generator=stream).double()
    drawn = drawn / drawn.sum(-1, keepdim=True)
    return {
        "requested": drawn[0],
        "generated": drawn[1:],
        "subtype": torch.arange(30) % 3,
        "diameter_mm": torch.linspace(4, 20, 30),
    }


def test_figures_against_numpy(nodules: dict[str, torch.Tensor]) -> None:
    metric = HistogramSums(BINS, WIDTH)
    metric.update(**nodules)
    figures = metric.compute()
    requested, (first, second) = nodules["requested"].numpy(), nodules["generated"].numpy()
    for code, name in enumerate(SUBTYPES):
        rows = nodules["subtype"].numpy() == code
        pairs = {"w1": (requested, first), "spread": (first, second)}
        for figure, (p, q) in pairs.items():
            expected = np.mean(
                [
                    wasserstein_distance(CENTERS, CENTERS, a, b)
                    for a, b in zip(p[rows], q[rows], strict=True)
                ]
            )
            assert figures[f"{figure}/{name}"] == pytest.approx(expected)
        means = (values[rows].mean(0) for values in (requested, first))
        expected = wasserstein_distance(CENTERS, CENTERS, *means)
        assert figures[f"w1_of_means/{name}"] == pytest.approx(expected)
        ratio = first[rows].var(0).sum() / requested[rows].var(0).sum()
        assert figures[f"variance_ratio/{name}"] == pytest.approx(ratio)
    assert figures["count/over_8mm"] == int((nodules["diameter_mm"] > 8).sum())
    assert figures["count/all"] == 30


def test_sums_do_not_depend_on_the_batches(nodules: dict[str, torch.Tensor]) -> None:
    whole, parts = HistogramSums(BINS, WIDTH), HistogramSums(BINS, WIDTH)
    whole.update(**nodules)
    for cut in (slice(0, 7), slice(7, 30)):
        parts.update(
            nodules["requested"][cut],
            nodules["generated"][:, cut],
            nodules["subtype"][cut],
            nodules["diameter_mm"][cut],
        )
    assert parts.compute() == pytest.approx(whole.compute())


def test_a_copy_of_the_real_nodules_is_perfect(nodules: dict[str, torch.Tensor]) -> None:
    metric = HistogramSums(BINS, WIDTH)
    metric.update(**{**nodules, "generated": nodules["requested"].expand(2, -1, -1)})
    figures = metric.compute()
    assert figures["w1/all"] == figures["spread/all"] == 0
    assert figures["variance_ratio/solid"] == pytest.approx(1)


def test_absent_groups_are_left_out(nodules: dict[str, torch.Tensor]) -> None:
    metric = HistogramSums(BINS, WIDTH)
    metric.update(**{**nodules, "subtype": torch.zeros(30, dtype=torch.int64)})
    assert not any("ground-glass" in name for name in metric.compute())
