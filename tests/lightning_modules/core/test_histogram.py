"""Soft histograms and their distances against loops and SciPy."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_modules.core.histogram import (
    bin_centers,
    cramer_von_mises,
    histogram_distance,
    jensen_shannon,
    soft_histogram,
    wasserstein1,
)

KERNELS = ("triangular", "gaussian", "sigmoid")
BINS, LOW, HIGH = 8, -1.0, 3.0
WIDTH = (HIGH - LOW) / BINS


def reference(values: np.ndarray, weights: np.ndarray, kernel: str, bandwidth: float) -> np.ndarray:
    """One histogram, voxel by voxel and bin by bin."""
    centers = [LOW + WIDTH * (k + 0.5) for k in range(BINS)]
    counts = np.zeros(BINS)
    for value, weight in zip(values.ravel(), weights.ravel(), strict=True):
        inside = min(max(value, centers[0]), centers[-1])
        for k, center in enumerate(centers):
            if kernel == "triangular":
                share = max(0.0, 1 - abs(inside - center) / WIDTH)
            elif kernel == "gaussian":
                share = math.exp(-0.5 * ((inside - center) / (bandwidth * WIDTH)) ** 2)
            else:
                left = -math.inf if k == 0 else center - WIDTH / 2
                right = math.inf if k == BINS - 1 else center + WIDTH / 2
                share = sigmoid((value - left) / (bandwidth * WIDTH))
                share -= sigmoid((value - right) / (bandwidth * WIDTH))
            counts[k] += weight * share
    return counts / counts.sum()


def sigmoid(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Values within the range and well beyond both of its ends."""
    stream = torch.Generator().manual_seed(seed)
    return 8 * torch.rand(shape, generator=stream, dtype=dtype) - 3


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("bandwidth", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("kernel", KERNELS)
def test_equals_the_loop_over_voxels_and_bins(
    kernel: Any, bandwidth: float, spatial_dims: int
) -> None:
    values = draw(2, 3, *(4,) * spatial_dims)
    weights = draw(2, 1, *(4,) * spatial_dims, seed=1).clamp(0, 2)
    got = soft_histogram(values.flatten(2), weights.flatten(2), BINS, LOW, HIGH, kernel, bandwidth)
    assert got.shape == (2, 3, BINS)
    assert got.dtype == torch.float64
    for sample in range(2):
        for channel in range(3):
            expected = reference(
                values[sample, channel].numpy(), weights[sample, 0].numpy(), kernel, bandwidth
            )
            np.testing.assert_allclose(got[sample, channel], expected, atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_sums_to_one(kernel: Any) -> None:
    values, weights = draw(5, 300, dtype=torch.float32), draw(5, 300, seed=1).clamp(0).float()
    got = soft_histogram(values, weights, 64, LOW, HIGH, kernel)
    assert (got >= 0).all()
    torch.testing.assert_close(got.sum(-1), torch.ones(5))


@pytest.mark.parametrize("kernel", ["triangular", "sigmoid"])
def test_every_value_counts_once(kernel: Any) -> None:
    # a partition of unity: a mixture's histogram is the mean of the single values' histograms
    values = draw(50)
    single = soft_histogram(values[:, None], torch.ones(50, 1), BINS, LOW, HIGH, kernel)
    together = soft_histogram(values, torch.ones(50), BINS, LOW, HIGH, kernel)
    torch.testing.assert_close(single.mean(0), together)


@pytest.mark.parametrize(("value", "end"), [(-1e4, 0), (LOW, 0), (HIGH, -1), (1e4, -1)])
def test_values_beyond_the_range_are_in_the_end_bins(value: float, end: int) -> None:
    got = soft_histogram(torch.full((7,), value), torch.ones(7), BINS, LOW, HIGH)
    expected = torch.zeros(BINS)
    expected[end] = 1
    assert torch.equal(got, expected)


@pytest.mark.parametrize("kernel", ["gaussian", "sigmoid"])
@pytest.mark.parametrize(("value", "end"), [(-1e4, 0), (1e4, BINS - 1)])
def test_far_values_peak_at_the_end(kernel: Any, value: float, end: int) -> None:
    got = soft_histogram(torch.full((7,), value), torch.ones(7), BINS, LOW, HIGH, kernel, 0.2)
    assert got[end] > 0.99


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_weight_of_two_is_a_voxel_twice(kernel: Any) -> None:
    values = draw(20)
    weights = torch.arange(20, dtype=torch.float64) % 3
    repeated = values.repeat_interleave(weights.long())
    got = soft_histogram(values, weights, BINS, LOW, HIGH, kernel)
    expected = soft_histogram(repeated, torch.ones(len(repeated)), BINS, LOW, HIGH, kernel)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_empty_mask_gives_zeros_and_a_finite_gradient(kernel: Any) -> None:
    values = draw(2, 30, dtype=torch.float32).requires_grad_()
    weights = torch.stack([torch.zeros(30), torch.ones(30)])
    got = soft_histogram(values, weights, BINS, LOW, HIGH, kernel)
    assert torch.equal(got[0], torch.zeros(BINS))
    torch.testing.assert_close(got[1].sum(), torch.tensor(1.0))
    target = torch.full((2, BINS), 1 / BINS)
    total = sum(histogram_distance(got, target, name, WIDTH).sum() for name in ("js", "w1", "cvm"))
    assert isinstance(total, Tensor)
    total.backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert torch.equal(values.grad[0], torch.zeros(30))
    assert torch.isfinite(values.grad).all()
    assert values.grad[1].abs().max() > 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradient_equals_finite_differences(kernel: Any) -> None:
    # between two centres and inside the range, away from the kinks of the triangle
    stream = torch.Generator().manual_seed(0)
    left = torch.randint(0, BINS - 1, (2, 12), generator=stream)
    position = left + 0.2 + 0.6 * torch.rand((2, 12), generator=stream, dtype=torch.float64)
    values = (LOW + WIDTH * (position + 0.5)).requires_grad_()
    weights = (torch.rand((2, 12), generator=stream, dtype=torch.float64) + 0.1).requires_grad_()
    target = torch.rand((2, BINS), generator=stream, dtype=torch.float64)
    target = target / target.sum(-1, keepdim=True)

    def histogram(v: Tensor, w: Tensor) -> Tensor:
        return soft_histogram(v, w, BINS, LOW, HIGH, kernel)

    assert torch.autograd.gradcheck(histogram, (values, weights))
    for name in ("js", "w1", "cvm"):

        def distance(v: Tensor, w: Tensor, name: Any = name) -> Tensor:
            return histogram_distance(histogram(v, w), target, name, WIDTH)

        assert torch.autograd.gradcheck(distance, (values, weights))


class Largest(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.numel = max(self.numel, leaf.untyped_storage().nbytes() // leaf.itemsize)
        return result


@contextmanager
def saved_numel() -> Iterator[list[int]]:
    """Elements of each tensor that is kept for the backward pass."""
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.untyped_storage().nbytes() // tensor.itemsize)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


def footprint(kernel: Any, voxels: int, bins: int) -> tuple[int, int]:
    values = torch.rand(voxels).requires_grad_()
    gauge = Largest()
    with saved_numel() as saved, gauge:
        histogram = soft_histogram(values, torch.ones(voxels), bins, 0, 1, kernel)
        (histogram * torch.arange(bins)).sum().backward()  # type: ignore[no-untyped-call]
    return gauge.numel, sum(saved)


def test_triangular_memory_is_linear_in_voxels() -> None:
    voxels, bins = 2_000_000, 1024
    largest, saved = footprint("triangular", voxels, bins)
    assert largest <= voxels
    assert saved <= 16 * voxels
    # the gauge sees what a dense kernel allocates
    largest, saved = footprint("gaussian", 2000, 64)
    assert largest >= 2000 * 64
    assert saved >= 2000 * 64


def test_many_voxels_keep_single_precision() -> None:
    values = torch.rand(2_000_000, generator=torch.Generator().manual_seed(0))
    args = (torch.ones_like(values), 4, 0.0, 1.0)
    expected = soft_histogram(values.double(), *args)
    torch.testing.assert_close(soft_histogram(values, *args).double(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_order_of_voxels_does_not_matter(kernel: Any) -> None:
    values, weights = draw(100), draw(100, seed=1).clamp(0)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(2))
    args = (BINS, LOW, HIGH, kernel)
    torch.testing.assert_close(
        soft_histogram(values[order], weights[order], *args), soft_histogram(values, weights, *args)
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_shift_by_a_bin_width_shifts_the_histogram(kernel: Any) -> None:
    bins, low, high = 40, 0.0, 10.0
    width = (high - low) / bins
    stream = torch.Generator().manual_seed(0)
    values = 4 + 2 * torch.rand(200, generator=stream, dtype=torch.float64)
    weights = torch.rand(200, generator=stream)
    here = soft_histogram(values, weights, bins, low, high, kernel, 0.5)
    there = soft_histogram(values + 3 * width, weights, bins, low, high, kernel, 0.5)
    torch.testing.assert_close(there[3:], here[:-3], atol=1e-9, rtol=0)


def test_centers() -> None:
    edges = np.linspace(LOW, HIGH, BINS + 1)
    np.testing.assert_allclose(bin_centers(BINS, LOW, HIGH), (edges[1:] + edges[:-1]) / 2)
    # a value at a centre is in that bin alone
    got = soft_histogram(
        bin_centers(BINS, LOW, HIGH)[:, None], torch.ones(BINS, 1), BINS, LOW, HIGH
    )
    torch.testing.assert_close(got, torch.eye(BINS))


@pytest.mark.parametrize("kernel", KERNELS)
def test_precision(kernel: Any) -> None:
    values, weights = draw(4, 50), draw(4, 50, seed=1).clamp(0)

    def everything(v: Tensor, w: Tensor) -> list[Tensor]:
        p = soft_histogram(v, w, BINS, LOW, HIGH, kernel)
        q = p.roll(1, 0)
        return [p, *(histogram_distance(p, q, name, WIDTH) for name in ("js", "w1", "cvm"))]

    wide = everything(values, weights)
    plain = everything(values.float(), weights.float())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = everything(values.float(), weights.float())
    for w, p, m in zip(wide, plain, mixed, strict=True):
        assert w.dtype == torch.float64
        assert p.dtype == m.dtype == torch.float32
        assert torch.equal(p, m)
        torch.testing.assert_close(p.double(), w, rtol=1e-4, atol=1e-5)
    half = soft_histogram(values.bfloat16(), weights.bfloat16(), BINS, LOW, HIGH, kernel)
    assert half.dtype == torch.float32


@pytest.mark.parametrize(
    "change",
    [
        {"bins": 1},
        {"low": 1.0, "high": 1.0},
        {"low": 2.0, "high": 1.0},
        {"bandwidth": 0.0},
        {"kernel": "box"},
    ],
)
def test_what_makes_no_histogram_is_refused(change: dict[str, Any]) -> None:
    settings = {"bins": BINS, "low": LOW, "high": HIGH} | change
    with pytest.raises(ValueError, match=str(next(iter(change.values())))):
        soft_histogram(torch.zeros(3), torch.ones(3), **settings)


def test_unknown_distance_is_refused() -> None:
    with pytest.raises(ValueError, match="'kl'"):
        histogram_distance(torch.ones(2) / 2, torch.ones(2) / 2, "kl", 1.0)  # type: ignore[arg-type]


# --- distances -----------------------------------------------------------------------------------

counts = hnp.arrays(np.float64, 12, elements=st.floats(0, 1).map(lambda x: x if x > 1e-3 else 0.0))


def normalized(p: np.ndarray) -> np.ndarray:
    assume(p.sum() > 0)
    return p / p.sum()


@settings(max_examples=100, deadline=None)
@given(counts, counts)
def test_jensen_shannon_is_a_bounded_symmetric_divergence(p: np.ndarray, q: np.ndarray) -> None:
    p, q = normalized(p), normalized(q)
    pt, qt = torch.tensor(p), torch.tensor(q)
    value = jensen_shannon(pt, qt).item()
    assert -1e-12 <= value <= math.log(2) + 1e-12
    assert value == pytest.approx(jensen_shannon(qt, pt).item(), abs=1e-12)
    assert jensen_shannon(pt, pt).item() == pytest.approx(0, abs=1e-15)
    # zero only if equal: JS >= |p - q|_1^2 / 8 (Pinsker)
    assert value >= np.abs(p - q).sum() ** 2 / 8 - 1e-6
    assert value == pytest.approx(jensenshannon(p, q) ** 2, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(counts, counts, st.floats(0.01, 100))
def test_cumulative_distances_equal_their_references(
    p: np.ndarray, q: np.ndarray, width: float
) -> None:
    p, q = normalized(p), normalized(q)
    pt, qt = torch.tensor(p), torch.tensor(q)
    centers = width * np.arange(len(p))
    expected = wasserstein_distance(centers, centers, p, q)
    assert wasserstein1(pt, qt, width).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    gap, squares = 0.0, 0.0
    for a, b in zip(p, q, strict=True):
        gap += a - b
        squares += width * gap**2
    assert cramer_von_mises(pt, qt, width).item() == pytest.approx(squares, rel=1e-9, abs=1e-12)


def test_disjoint_histograms_are_ln_2_apart() -> None:
    p, q = torch.eye(4)[0], torch.eye(4)[3]
    assert jensen_shannon(p, q).item() == pytest.approx(math.log(2), rel=1e-6)


def test_wasserstein_equals_the_mean_difference_of_sorted_samples() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(-0.5, 0.7, 500), rng.normal(0.8, 0.3, 500)
    expected = np.abs(np.sort(ours) - np.sort(theirs)).mean()
    bins, low, high = 2048, -4.0, 4.0
    p, q = (
        soft_histogram(torch.tensor(x), torch.ones(500), bins, low, high) for x in (ours, theirs)
    )
    width = (high - low) / bins
    assert wasserstein1(p, q, width).item() == pytest.approx(expected, abs=width)


@pytest.mark.parametrize(("name", "expected"), [("js", 0.0), ("w1", 1.0), ("cvm", 1.0)])
def test_gradient_between_separated_histograms(name: Any, expected: float) -> None:
    # far apart: the cumulative distributions differ by 1 between them, so that moving all
    # voxels by dv changes W1 and CvM by dv; JS stays at ln 2
    stream = torch.Generator().manual_seed(0)
    values = (0.5 * torch.rand(40, generator=stream, dtype=torch.float64)).requires_grad_()
    real = 3 + 0.5 * torch.rand(40, generator=stream, dtype=torch.float64)
    p, q = (soft_histogram(x, torch.ones(40), 64, -4, 4) for x in (values, real))
    histogram_distance(p, q, name, 8 / 64).sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    if expected == 0:
        assert values.grad.abs().max() < 1e-5
    else:
        assert (values.grad < 0).all()
        assert -values.grad.sum().item() == pytest.approx(expected, rel=0.05)


def test_a_nan_shows_in_the_histogram() -> None:
    values = torch.tensor([0.1, float("nan"), 0.9])
    assert soft_histogram(values, torch.ones(3), 4, 0, 1).isnan().any()


@pytest.mark.parametrize("kernel", KERNELS)
def test_two_bins_are_enough_and_the_bandwidth_is_one_bin(kernel: Any) -> None:
    values, weights = torch.tensor([[-0.5, 0.2, 2.5]]), torch.ones(1, 3)
    two = soft_histogram(values, weights, 2, LOW, HIGH, kernel)
    assert two.shape == (1, 2)
    torch.testing.assert_close(two.sum(1), torch.ones(1))
    given = soft_histogram(values, weights, BINS, LOW, HIGH, kernel, 1.0)
    assert torch.equal(soft_histogram(values, weights, BINS, LOW, HIGH, kernel), given)
    if kernel != "triangular":
        wider = soft_histogram(values, weights, BINS, LOW, HIGH, kernel, 2.0)
        assert not torch.allclose(wider, given)


def test_centers_are_float32_whatever_the_default() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert bin_centers(4, LOW, HIGH).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
