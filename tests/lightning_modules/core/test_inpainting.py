"""The region against SciPy's morphology and loops over blocks."""

import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, distance_transform_cdt
from torch import Tensor

from lightning_modules.core.inpainting import (
    dilate,
    feather,
    inpaint_mask,
    mean_fill,
    occupancy,
    paste,
    to_latent_mask,
)

pytestmark = pytest.mark.parametrize("spatial_dims", [2, 3])


def blobs(spatial_dims: int, share: float = 0.03, side: int = 12, seed: int = 0) -> Tensor:
    """Two masks, with voxels at the border too."""
    stream = torch.Generator().manual_seed(seed)
    mask = (torch.rand((2, 1, *(side,) * spatial_dims), generator=stream) < share).float()
    mask[(0, 0, *(0,) * spatial_dims)] = 1
    mask[(1, 0, *(side // 2,) * spatial_dims)] = 1
    return mask


def distance(mask: Tensor) -> np.ndarray:
    """Chebyshev distance of each voxel from its mask."""
    each = [distance_transform_cdt(m.numpy() == 0, metric="chessboard") for m in mask[:, 0]]
    return np.stack(each)[:, None]


@pytest.mark.parametrize("voxels", [0, 1, 2, 3])
def test_dilate_equals_scipy(spatial_dims: int, voxels: int) -> None:
    mask = blobs(spatial_dims)
    cube = np.ones((2 * voxels + 1,) * spatial_dims, dtype=bool)
    expected = np.stack([binary_dilation(m.numpy() > 0, cube) for m in mask[:, 0]])[:, None]
    np.testing.assert_array_equal(dilate(mask, voxels).numpy(), expected.astype(np.float32))


@pytest.mark.parametrize("margin", [0, 1, 2, 3, 4])
def test_feather_is_one_inside_and_exactly_zero_beyond_the_margin(
    spatial_dims: int, margin: int
) -> None:
    mask = blobs(spatial_dims, 0.005)
    weight, far = feather(mask, margin).numpy(), distance(mask)
    assert (weight[far == 0] == 1).all()
    assert (weight[far > margin] == 0).all()
    assert (weight[far <= margin] > 0).all()
    assert weight.min() >= 0
    assert weight.max() <= 1
    # what is blended is what is synthesized
    np.testing.assert_array_equal(weight > 0, dilate(mask, margin).numpy() > 0)


@pytest.mark.parametrize("margin", [2, 3, 4, 5])
def test_feather_falls_with_the_distance(spatial_dims: int, margin: int) -> None:
    mask = torch.zeros(1, 1, *(15,) * spatial_dims)
    mask[(0, 0, *(slice(6, 9),) * spatial_dims)] = 1
    ray = feather(mask, margin)[(0, 0, *(7,) * (spatial_dims - 1), slice(8, None))]
    steps = ray.diff()
    assert (steps <= 0).all()
    assert ((ray > 0) & (ray < 1)).any()
    # no step is a hard edge
    assert steps.min() > -0.9


def test_fill_hides_the_region(spatial_dims: int) -> None:
    stream = torch.Generator().manual_seed(0)
    image = torch.rand((2, 1, *(12,) * spatial_dims), generator=stream)
    region = dilate(blobs(spatial_dims, 0.005), 1)
    other = torch.where(region > 0, 1e3 * torch.rand(image.shape, generator=stream), image)
    filled = mean_fill(image, region)
    assert torch.equal(filled, mean_fill(other, region))
    assert torch.equal(filled[region == 0], image[region == 0])
    for sample in range(2):
        known = image[sample].double()[region[sample] == 0].mean().item()
        inside = filled[sample][region[sample] > 0]
        np.testing.assert_allclose(inside, known, rtol=1e-5)


def test_fill_of_everything_is_finite(spatial_dims: int) -> None:
    image = torch.rand((1, 1, *(4,) * spatial_dims))
    assert torch.isfinite(mean_fill(image, torch.ones_like(image))).all()
    assert torch.equal(mean_fill(image, torch.zeros_like(image)), image)


def test_paste_keeps_the_background_bit_for_bit(spatial_dims: int) -> None:
    stream = torch.Generator().manual_seed(0)
    shape = (2, 1, *(12,) * spatial_dims)
    background = 1e3 * torch.randn(shape, generator=stream)
    synthetic = 1e3 * torch.randn(shape, generator=stream)
    weight = feather(blobs(spatial_dims, 0.005), 3)
    # 0 * nan is nan: a plain blend would not return the background
    pasted = paste(background, torch.where(weight > 0, synthetic, torch.nan), weight)
    assert torch.equal(pasted[weight == 0], background[weight == 0])
    w, b, s = (x.double().numpy() for x in (weight, background, synthetic))
    np.testing.assert_allclose(pasted, (1 - w) * b + w * s, atol=1e-2)


@pytest.mark.parametrize("compression", [1, 2, 4])
def test_latent_masks_equal_loops_over_blocks(spatial_dims: int, compression: int) -> None:
    mask = blobs(spatial_dims, 0.2, side=8)
    share, hit = occupancy(mask, compression), to_latent_mask(mask, compression)
    side = 8 // compression
    assert share.shape == hit.shape == (2, 1, *(side,) * spatial_dims)
    for sample, *block in itertools.product(range(2), *[range(side)] * spatial_dims):
        voxels = tuple(slice(i * compression, (i + 1) * compression) for i in block)
        inside = mask[(sample, 0, *voxels)].numpy()
        assert share[(sample, 0, *block)].item() == pytest.approx(inside.mean())
        assert hit[(sample, 0, *block)].item() == float(inside.any())


def test_without_a_nodule_everything_is_synthesized(spatial_dims: int) -> None:
    mask = blobs(spatial_dims)
    mask[1] = 0
    region, weight = inpaint_mask(mask, 2), feather(mask, 2)
    assert region[1].eq(1).all()
    assert weight[1].eq(1).all()
    assert torch.equal(region[:1], dilate(mask[:1], 2))
    assert torch.equal(weight[:1], feather(mask[:1], 2))
    assert weight[0].min() == 0
    image = torch.randn(mask.shape, generator=torch.Generator().manual_seed(1))
    assert torch.isfinite(mean_fill(image, region)).all()
    assert mean_fill(image, region)[1].unique().numel() == 1
