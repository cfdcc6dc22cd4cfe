"""The histogram regularizer: what it sees, what it leaves out, and where its gradient leads."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance
from torch import Tensor

from lightning_modules.core.codec import LatentCodec
from lightning_modules.core.regularizer import Estimate, HistogramRegularizer

dims = pytest.mark.parametrize("spatial_dims", [2, 3])
spaces = pytest.mark.parametrize("space", ["latent", "image"])

SIDE, COMPRESSION = 16, 2
LIMIT = {"latent": 4.0, "image": 1.0}


def upsample(latent: Tensor) -> Tensor:
    """A decoder that can be computed by hand: the mean channel, squashed and enlarged."""
    image = torch.tanh(latent.mean(1, keepdim=True))
    for axis in range(2, latent.ndim):
        image = image.repeat_interleave(COMPRESSION, axis)
    return image


def nodules(spatial_dims: int, first: int = 2, last: int = 11) -> Tensor:
    """A box whose sides cut through latent voxels."""
    mask = torch.zeros(2, 1, *(SIDE,) * spatial_dims)
    mask[(..., *(slice(first, last),) * spatial_dims)] = 1
    return mask


def estimate(spatial_dims: int, shift: float = 0.0, seed: int = 0) -> Estimate:
    stream = torch.Generator().manual_seed(seed)
    shape = (2, 3, *(SIDE // COMPRESSION,) * spatial_dims)
    latent = torch.randn(shape, generator=stream)
    return Estimate(
        x0=latent + shift,
        latent=latent,
        signal_share=torch.tensor([0.9, 0.3]),
        image=upsample(latent),
        mask=nodules(spatial_dims),
        decode=upsample,
    )


def build(space: Any, **settings: Any) -> HistogramRegularizer:
    return HistogramRegularizer(space, limit=LIMIT[space], **settings)


def by_hand(case: Estimate, space: str, distances: Mapping[str, float], bins: int) -> np.ndarray:
    """The distance of each sample, in NumPy and SciPy."""
    limit = LIMIT[space]
    centers = -limit + 2 * limit / bins * (np.arange(bins) + 0.5)
    results = np.zeros(len(case.x0))
    for sample in range(len(case.x0)):
        mask = case.mask[sample, 0].double().numpy()
        if space == "latent":
            split = [n for side in mask.shape for n in (side // COMPRESSION, COMPRESSION)]
            weights = mask.reshape(split).mean(tuple(range(1, 2 * mask.ndim, 2))).ravel()
            pair = case.x0[sample], case.latent[sample]
        else:
            weights = mask.ravel()
            pair = case.decode(case.x0)[sample], case.image[sample]
        channels = [c.detach().double().flatten(1).numpy() for c in pair]
        for ours, real in zip(*channels, strict=True):
            p, q = (
                (
                    (
                        1
                        - np.abs(v.clip(centers[0], centers[-1])[:, None] - centers)
                        * bins
                        / 2
                        / limit
                    )
                    .clip(0)
                    .T
                    @ weights
                )
                / weights.sum()
                for v in (ours, real)
            )
            value = {
                "js": jensenshannon(p, q) ** 2,
                "w1": wasserstein_distance(centers, centers, p, q),
                "cvm": 2 * limit / bins * (np.cumsum(p - q) ** 2).sum(),
            }
            results[sample] += sum(f * value[n] for n, f in distances.items()) / len(channels[0])
    return results


@dims
@spaces
@pytest.mark.parametrize("distances", [{"js": 1.0}, {"w1": 2.0}, {"cvm": 0.5, "js": 3.0}])
def test_equals_the_distance_by_hand(space: Any, distances: Any, spatial_dims: int) -> None:
    case = estimate(spatial_dims, shift=0.7)
    got = build(space, distances=distances, bins=12)(case)
    expected = (by_hand(case, space, distances, 12) * [0.9, 0.3]).sum() / 2
    assert expected > 0.01
    assert got.shape == ()
    assert got.item() == pytest.approx(expected, rel=1e-3)


@dims
@spaces
def test_zero_for_the_real_nodule_and_positive_for_another(space: Any, spatial_dims: int) -> None:
    regularizer = build(space)
    assert regularizer(estimate(spatial_dims)).item() == pytest.approx(0, abs=1e-6)
    values = [regularizer(estimate(spatial_dims, shift)).item() for shift in (0.1, 0.5, 1.0)]
    assert 0 < values[0] < values[1] < values[2]


@dims
@spaces
def test_only_the_mask_is_seen(space: Any, spatial_dims: int) -> None:
    case = estimate(spatial_dims, shift=0.5)
    inside = case.latent[:, :1].new_zeros(2, 1, *(SIDE // COMPRESSION,) * spatial_dims)
    inside[(..., *(slice(1, 6),) * spatial_dims)] = 1
    noise = 5 * torch.randn(case.x0.shape, generator=torch.Generator().manual_seed(3))
    regularizer = build(space)
    before = regularizer(case)
    outside = replace(case, x0=torch.where(inside > 0, case.x0, noise))
    assert torch.equal(regularizer(outside), before)
    hit = replace(case, x0=torch.where(inside > 0, noise, case.x0))
    assert not torch.isclose(regularizer(hit), before)


@dims
@spaces
def test_voxels_within_the_mask_may_change_places(space: Any, spatial_dims: int) -> None:
    # a box of whole latent voxels: mirrored within it, the histogram stays
    case = replace(estimate(spatial_dims), mask=nodules(spatial_dims, 2, 10))
    box = (..., *(slice(1, 5),) * spatial_dims)
    moved = case.x0.clone()
    moved[box] = moved[box].flip(-1)
    assert not torch.equal(moved, case.x0)
    assert build(space)(replace(case, x0=moved)).item() == pytest.approx(0, abs=1e-5)


@dims
@spaces
def test_small_nodules_are_left_out(space: Any, spatial_dims: int) -> None:
    case = estimate(spatial_dims, shift=0.5)
    mask = case.mask.clone()
    mask[1] = 0
    mask[(1, 0, *(slice(4, 6),) * spatial_dims)] = 1  # one latent voxel
    case = replace(case, mask=mask, x0=case.x0.clone().requires_grad_())
    voxels = 1 if space == "latent" else 2**spatial_dims
    with_it, without = build(space, min_voxels=voxels), build(space, min_voxels=voxels + 0.5)
    each = by_hand(case, space, {"js": 1.0, "w1": 1.0}, 16) * [0.9, 0.3]
    assert with_it(case).item() == pytest.approx(each.mean(), rel=1e-3)
    loss = without(case)
    # the mean is over those that count
    assert loss.item() == pytest.approx(each[0], rel=1e-3)
    loss.backward()
    assert case.x0.grad is not None
    assert case.x0.grad[0].abs().max() > 0
    assert torch.equal(case.x0.grad[1], torch.zeros_like(case.x0.grad[1]))


@dims
@spaces
@pytest.mark.parametrize("min_voxels", [0.0, 8.0])
@pytest.mark.parametrize("kernel", ["triangular", "gaussian", "sigmoid"])
def test_an_empty_mask_is_no_nan(
    space: Any, min_voxels: float, kernel: Any, spatial_dims: int
) -> None:
    case = estimate(spatial_dims, shift=0.5)
    x0 = case.x0.clone().requires_grad_()
    case = replace(case, x0=x0, mask=torch.zeros_like(case.mask))
    distances = {"js": 1.0, "w1": 1.0, "cvm": 1.0}
    loss = build(space, kernel=kernel, distances=distances, min_voxels=min_voxels)(case)
    assert loss.item() == 0
    loss.backward()
    assert x0.grad is not None
    assert torch.equal(x0.grad, torch.zeros_like(x0))


@dims
@spaces
def test_timesteps_are_weighted_by_their_signal(space: Any, spatial_dims: int) -> None:
    case = estimate(spatial_dims, shift=0.5)
    each = by_hand(case, space, {"js": 1.0, "w1": 1.0}, 16)
    shares = torch.tensor([0.8, 0.2])
    case = replace(case, signal_share=shares)
    weighted = build(space, timestep_weight="alpha_bar")(case).item()
    assert weighted == pytest.approx((0.8 * each[0] + 0.2 * each[1]) / 2, rel=1e-3)

    def cut(least: float) -> float:
        return float(build(space, timestep_weight="cut", min_signal=least)(case))

    assert cut(0.1) == pytest.approx(each.mean(), rel=1e-3)
    assert cut(0.5) == pytest.approx(each[0], rel=1e-3)
    assert cut(0.9) == 0


@dims
@spaces
@pytest.mark.parametrize("distance", ["w1", "cvm"])
def test_its_gradient_leads_to_the_target(space: Any, distance: Any, spatial_dims: int) -> None:
    torch.manual_seed(0)
    codec = LatentCodec(spatial_dims, channels=(4, 4), latent_channels=3, norm_num_groups=2)
    codec.eval().requires_grad_(False)
    codec.measure(
        [(torch.randn(4, 3, *(4,) * spatial_dims), torch.full((4, 3, *(4,) * spatial_dims), -9.0))]
    )
    with torch.no_grad():
        # an untrained decoder's image lies in a small part of [-1, 1]
        raw = codec.decode(estimate(spatial_dims).latent)
        middle, scale = raw.mean(), 0.3 / raw.std()

    def decode(latent: Tensor) -> Tensor:
        return (codec.decode(latent) - middle) * scale

    case = estimate(spatial_dims)
    case = replace(case, image=decode(case.latent), decode=decode)
    x0 = (0.3 * case.latent.flip(0) - 1).requires_grad_()
    case = replace(case, x0=x0, signal_share=torch.ones(2))
    regularizer = build(space, distances={distance: 1.0})
    optimizer = torch.optim.Adam([x0], 0.1)

    def far() -> float:
        return float(by_hand(case, space, {"w1": 1.0}, 16).mean())

    before = far()
    for _ in range(30):
        optimizer.zero_grad()
        regularizer(case).backward()
        optimizer.step()
    assert far() < 0.4 * before


@dims
@spaces
def test_single_precision_under_autocast(space: Any, spatial_dims: int) -> None:
    case = estimate(spatial_dims, shift=0.5)
    regularizer = build(space)
    exact = regularizer(case)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = regularizer(case)
        half = regularizer(replace(case, decode=lambda x: upsample(x).bfloat16()))
    assert mixed.dtype == half.dtype == torch.float32
    torch.testing.assert_close(mixed, exact)
    torch.testing.assert_close(half, exact, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    "make",
    [lambda: HistogramRegularizer(distances={"kl": 1.0}), lambda: HistogramRegularizer(bins=1)],
)
def test_what_makes_no_distance_is_refused(make: Callable[[], HistogramRegularizer]) -> None:
    with pytest.raises(ValueError, match=r"'kl'|bins=1"):
        make()(estimate(2))
