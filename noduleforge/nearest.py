"""The nearest of many nodules, in voxels over flips and shifts, and in features."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.core.features import FeatureExtractor
from noduleforge.nodules import Nodules

CONVOLVE = {2: F.conv2d, 3: F.conv3d}

BATCH = 64
"""How many images are worked on at once."""


class Found(NamedTuple):
    """The training nodule that is nearest.

    Attributes:
        distance: in the units of the space.
        number: which training nodule.
        flips: the axes along which the query is flipped.
        shift: voxels by which the query, flipped, is then shifted along each axis; empty for
            features.
    """

    distance: float
    number: int
    flips: tuple[int, ...]
    shift: tuple[int, ...]


def all_flips(rank: int) -> list[tuple[int, ...]]:
    """Every set of axes that can be flipped, the empty one first."""
    return [axes for n in range(rank + 1) for axes in combinations(range(rank), n)]


def flips_of(image: Tensor) -> Tensor:
    """An image `(*spatial)` in all its flips, `(flips, *spatial)`."""
    return torch.stack([image.flip(axes) for axes in all_flips(image.ndim)])


def view(chosen: Tensor, table: Tensor) -> Tensor:
    """A mask over training nodules `(N,)` for a table `(N, ...)`."""
    return chosen.view(-1, *(1,) * (table.ndim - 1))


class VoxelDistances:
    """Distances from a nodule to all training nodules, over flips and shifts.

    sum m (q - t)^2 = sum m q^2 - 2 (m q) * t + m * t^2, where * is a correlation: one convolution
    for all training nodules, flips and shifts.

    Args:
        images: training nodules `(N, *spatial)`, larger than the queries by `shift_voxels` on every
            side.
        shift_voxels: greatest shift along each axis.
    """

    def __init__(self, images: Tensor, shift_voxels: int) -> None:
        self.images = images
        self.middle = images.mean()  # about a common value, for the sake of rounding
        self.shift = shift_voxels

    def to(self, image: Tensor, mask: Tensor) -> Tensor:
        """Root mean square differences inside the mask, up to rounding; see `exact`.

        Args:
            image: `(*spatial)`, an odd number of voxels along each axis; flipped about the middle.
            mask: `(*spatial)`, not empty.

        Returns:
            `(N, flips, *shifts)`, `2 shift_voxels + 1` along each axis.
        """
        rank, center = image.ndim, np.array(image.shape) // 2
        reach = np.abs(np.argwhere(mask.numpy() > 0) - center).max(0)
        inner, outer = (
            tuple(slice(c - r, c + r + 1 + more) for c, r in zip(center, reach, strict=True))
            for more in (0, 2 * self.shift)
        )
        weight, query = mask[inner].float(), (image[inner] - self.middle).float()
        kernel = torch.stack([flips_of(-2 * weight * query), flips_of(weight)], 1)
        products = []
        for batch in torch.split(self.images[(slice(None), *outer)], BATCH):
            centred = (batch - self.middle).float()
            inputs = torch.stack([centred, centred.square()], 1)
            products.append(CONVOLVE[rank](inputs, kernel))
        squares = torch.cat(products) + (weight * query.square()).sum()
        return (squares / weight.sum()).clamp(min=0).sqrt()


def aligned(image: Tensor, found: Found, size: Sequence[int]) -> Tensor:
    """A training nodule in the place of its query.

    Args:
        image: `(*spatial)`, the training nodule with its margin.
        found: where the query lies in it.
        size: of the query.
    """
    margin = (image.shape[0] - size[0]) // 2
    part = tuple(slice(margin + s, margin + s + n) for s, n in zip(found.shift, size, strict=True))
    return image[part].flip(found.flips)


def exact(found: Found, nodules: Nodules, k: int, training: Nodules) -> Found:
    """What was found for nodule `k` in voxels, with a distance that is free of rounding."""
    image, inside = nodules.images[k].double(), nodules.masks[k] > 0
    partner = aligned(training.images[found.number].double(), found, image.shape)
    return found._replace(distance=float((image - partner)[inside].square().mean().sqrt()))


def embed(images: Tensor, features: FeatureExtractor, window: tuple[float, float]) -> Tensor:
    """Features `(N, D)` of ROIs `(N, *spatial)`; those of several views side by side."""
    low, high = window
    seen = ((images - low) / (high - low))[:, None].float()
    with torch.no_grad():
        parts = [features.views(batch).values() for batch in torch.split(seen, BATCH)]
        return torch.cat([torch.cat(list(views), 1) for views in parts])


def nearest(table: Tensor, shift: int) -> Found:
    """The least of distances `(N, flips)` or `(N, flips, *shifts)`."""
    place = np.unravel_index(int(table.argmin()), table.shape)
    number, flip, *at = (int(k) for k in place)
    rank = len(at) or int(np.log2(table.shape[1]))
    return Found(float(table[place]), number, all_flips(rank)[flip], tuple(k - shift for k in at))
