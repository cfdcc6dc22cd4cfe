"""Voxels moved to a requested histogram: against sorting by hand, and by what must hold."""

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from lightning_modules.core.histogram import soft_histogram, wasserstein1
from lightning_modules.core.histogram_matching import match_histogram, quantiles

LOW, HIGH, BINS = -1000.0, 400.0, 16
WIDTH = (HIGH - LOW) / BINS


def test_quantiles_are_those_of_a_density_that_is_constant_in_each_bin() -> None:
    """Against numpy's interpolation of the cumulative histogram, with empty bins in it."""
    histogram = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25, 0.0], dtype=torch.float64)
    shares = torch.linspace(0.01, 0.99, 57, dtype=torch.float64)
    found = quantiles(histogram, shares, -3.0, 3.0)
    edges = np.linspace(-3, 3, 7)
    # an empty bin's edge is no quantile of anything: leave those of equal height out
    below = np.concatenate([[0], histogram.numpy().cumsum()])
    kept = [1, 2, 4, 5]
    jump = shares.numpy() <= 0.25
    expected = np.where(
        jump,
        np.interp(shares, below[[1, 2]], edges[[1, 2]]),
        np.interp(shares, [0.25, *below[kept[2:]]], [edges[3], *edges[kept[2:]]]),
    )
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("shape", [(2, 1, 24, 24), (2, 1, 14, 14, 14)])
def test_the_histogram_is_met_and_the_order_kept(shape: tuple[int, ...]) -> None:
    stream = torch.Generator().manual_seed(0)
    image = 200 * torch.randn(shape, generator=stream) - 300
    mask = (torch.rand(shape, generator=stream) > 0.4).float()
    real = (150 * torch.randn(shape, generator=stream) - 100).clamp(LOW, HIGH)
    wanted = soft_histogram(real.flatten(1), mask.flatten(1), BINS, LOW, HIGH)
    moved = match_histogram(image, mask, wanted, (LOW, HIGH), torch.arange(2), 0)
    found = soft_histogram(moved.flatten(1), mask.flatten(1), BINS, LOW, HIGH)
    before = soft_histogram(image.flatten(1), mask.flatten(1), BINS, LOW, HIGH)
    assert (wasserstein1(wanted, before, WIDTH) > 100).all()
    assert (wasserstein1(wanted, found, WIDTH) < 0.1 * WIDTH).all()
    for k in range(2):
        inside = mask[k] > 0
        assert torch.equal(moved[k][~inside], image[k][~inside])
        order = image[k][inside].argsort()
        assert (moved[k][inside][order].diff() >= 0).all()
        # an upper bound on how far a histogram of 16 bins can be from the values themselves
        assert wasserstein_distance(moved[k][inside], real[k][inside]) < WIDTH / 4


def test_equal_voxels_are_told_apart_by_seed_and_sample_alone() -> None:
    image, mask = torch.zeros(3, 1, 8, 8), torch.ones(3, 1, 8, 8)
    wanted = torch.full((3, BINS), 1 / BINS)

    def move(index: list[int], seed: int) -> torch.Tensor:
        count = len(index)
        given = (image[:count], mask[:count], wanted[:count], (LOW, HIGH))
        return match_histogram(*given, torch.tensor(index), seed)

    all_three = move([4, 5, 6], 0)
    assert torch.equal(move([5], 0)[0], all_three[1])
    assert not torch.equal(all_three[0], all_three[1])
    assert not torch.equal(move([5], 1)[0], all_three[1])


def test_without_a_nodule_nothing_moves() -> None:
    image = torch.rand(1, 1, 6, 6)
    wanted = torch.full((1, BINS), 1 / BINS)
    moved = match_histogram(image, torch.zeros_like(image), wanted, (LOW, HIGH), torch.arange(1), 0)
    assert torch.equal(moved, image)
