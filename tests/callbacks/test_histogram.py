"""Histogram figures against NumPy and SciPy."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from callbacks import histogram
from callbacks.generation import Drawn
from callbacks.histogram import HistogramFidelity, HistogramSums
from datamodules.batch import SUBTYPES, Provenance, Synthesis

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


def evaluated(nodules: dict[str, torch.Tensor]) -> Drawn:
    """The nodules as an evaluation has them; there are no images."""
    batch: Any = {
        "subtype": nodules["subtype"],
        "attributes": {"diameter_mm": nodules["diameter_mm"]},
    }
    nothing, centers = torch.zeros(0), torch.from_numpy(CENTERS)
    syntheses = [
        Synthesis(
            *(nothing, nothing, batch, nodules["requested"], generated, centers),
            window=(0.0, 1.0),
            provenance=Provenance("", 0, 1, ()),
        )
        for generated in nodules["generated"]
    ]
    return Drawn(batch, torch.arange(30), nothing, [], syntheses)


def test_the_synthesis_says_what_the_bins_are(nodules: dict[str, torch.Tensor]) -> None:
    metric, sums = HistogramFidelity(), HistogramSums(BINS, WIDTH)
    sums.update(**nodules)
    for _ in range(2):  # a second evaluation begins anew
        metric.begin(3, torch.device("cpu"))
        columns = metric.update(evaluated(nodules))
    assert metric.compute() == sums.compute()
    assert metric.provenance["histogram"] == "8 soft bins inside the mask"
    assert float(columns["w1_first"].mean()) == pytest.approx(sums.compute()["w1/all"])


def test_a_process_without_nodules_takes_part_in_the_sums(
    nodules: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It learns the bins from the others; else it would wait for sums that nobody else makes."""
    others = torch.from_numpy(CENTERS)
    monkeypatch.setattr(histogram, "gather_rows", lambda rows: [*rows, others])
    metric = HistogramFidelity()
    metric.begin(3, torch.device("cpu"))
    assert metric.compute() == {}
    assert metric.sums is not None
    assert metric.sums.bin_width == WIDTH
