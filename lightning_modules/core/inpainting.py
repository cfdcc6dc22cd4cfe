"""The region around a nodule that is synthesized, and how it meets the known background."""

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.batch import NoduleBatch
from lightning_modules.core.window import IntensityWindow

MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
MEAN_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
"""Pooling functions by the number of spatial axes."""


def dilate(mask: Tensor, voxels: int) -> Tensor:
    """Grow a binary mask `(B, 1, *spatial)` by `voxels` along every axis (Chebyshev distance)."""
    rank = mask.ndim - 2
    for axis in range(rank):  # a cube is one line after the other
        reach = [voxels if axis == k else 0 for k in range(rank)]
        mask = MAX_POOL[rank](mask, [2 * r + 1 for r in reach], 1, reach)
    return mask


def inpaint_mask(mask: Tensor, margin_voxels: int) -> Tensor:
    """The region that is synthesized: the mask with its margin, or everything where it is empty.

    Args:
        mask: `(B, 1, *spatial)`, 0 or 1; empty for an image without a nodule.
        margin_voxels: how far the region reaches beyond the mask.

    Returns:
        `(B, 1, *spatial)`, 0 or 1.
    """
    return torch.where(_is_empty(mask), 1.0, dilate(mask, margin_voxels))


def _is_empty(mask: Tensor) -> Tensor:
    return mask.amax(tuple(range(1, mask.ndim)), keepdim=True) == 0


def box_blur(image: Tensor, radius: int) -> Tensor:
    """Mean over a cube of `2 * radius + 1` voxels; the border is repeated outwards."""
    padded = F.pad(image, [radius] * (2 * (image.ndim - 2)), mode="replicate")
    return MEAN_POOL[image.ndim - 2](padded, 2 * radius + 1, 1)


def feather(mask: Tensor, margin_voxels: int) -> Tensor:
    """Weight of the synthetic image: 1 inside the mask, falling to exactly 0 at the margin.

    Args:
        mask: `(B, 1, *spatial)`, 0 or 1; where it is empty, the weight is 1 everywhere.
        margin_voxels: Chebyshev distance from the mask at which the weight reaches 0.

    Returns:
        `(B, 1, *spatial)` in [0, 1].
    """
    blur = margin_voxels // 2
    grown = inpaint_mask(mask, margin_voxels - blur)
    if blur == 0:
        return grown
    return torch.where(mask > 0, 1.0, box_blur(grown, blur))


def mean_fill(image: Tensor, region: Tensor) -> Tensor:
    """Replace the region by the mean of what surrounds it.

    What is hidden this way cannot reach the encoder, so a model learns nothing from the nodule that
    it is to synthesize, and sees in training what it will see in a background without a nodule.

    Args:
        image: `(B, 1, *spatial)`.
        region: `(B, 1, *spatial)`, 0 or 1.

    Returns:
        `(B, 1, *spatial)`.
    """
    axes = tuple(range(1, image.ndim))
    known = 1 - region
    mean = (image * known).sum(axes, keepdim=True) / known.sum(axes, keepdim=True).clamp(min=1)
    return torch.where(region > 0, mean, image)


def known_image(
    batch: NoduleBatch, region: Tensor, window: IntensityWindow, through: bool
) -> Tensor:
    """What is known where a nodule is to be.

    Args:
        batch: nodules or requests.
        region: `(B, 1, *spatial)`, 0 or 1; what is synthesized.
        window: intensities that are mapped to [-1, 1].
        through: whether the image without the nodule is, inside the region too.

    Returns:
        `(B, 1, *spatial)` in [-1, 1]: the image without the nodule, or that with the region filled
        in.

    Raises:
        ValueError: If the image without the nodule is not known, but has to be.
    """
    if not through:
        return mean_fill(window.normalize(batch["image"]), region)
    if "underlay" not in batch:
        message = (
            "The model is shown what lies under nodules (BackgroundConditioner's through), but the "
            "data have no image without them: give nodules that were projected into radiographs or "
            "requests, or set through to false."
        )
        raise ValueError(message)
    return window.normalize(batch["underlay"])


def occupancy(mask: Tensor, compression: int) -> Tensor:
    """Share of each latent voxel that the mask fills, `(B, 1, *latent)` in [0, 1]."""
    return MEAN_POOL[mask.ndim - 2](mask, compression)


def to_latent_mask(region: Tensor, compression: int) -> Tensor:
    """1 for each latent voxel that the region touches, `(B, 1, *latent)`."""
    return MAX_POOL[region.ndim - 2](region, compression)


def paste(background: Tensor, synthetic: Tensor, weight: Tensor) -> Tensor:
    """Blend by `weight`; where it is 0 the background is returned bit for bit."""
    return torch.where(weight > 0, torch.lerp(background, synthetic, weight), background)
