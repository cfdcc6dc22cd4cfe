"""Moving the voxels of a nodule to a requested intensity histogram: optimal transport on a line.

On a line the map that moves one distribution to another with the least work is monotone: the voxel
of rank r gets the requested distribution's quantile of r (Peyre and Cuturi 2019, section 2.6). No
voxel overtakes another, so that what a model has painted keeps its order and its shape.
"""

import torch
from torch import Tensor

from lightning_modules.core.randomness import generator


def quantiles(histogram: Tensor, shares: Tensor, low: float, high: float) -> Tensor:
    """Intensities below which given shares of a histogram lie; uniform within each bin.

    Args:
        histogram: `(bins,)`, at least 0, sums to one.
        shares: `(N,)` in [0, 1].
        low: left edge of the first bin.
        high: right edge of the last bin.

    Returns:
        `(N,)`, in the unit of `low` and `high`.
    """
    bins = len(histogram)
    below = torch.cat([histogram.new_zeros(1), histogram.cumsum(0)])
    below = below / below[-1]
    # the bin in which each share lies; empty bins are passed over
    place = torch.searchsorted(below, shares.contiguous(), right=True).clamp(1, bins) - 1
    within = (shares - below[place]) / histogram[place].clamp(min=torch.finfo(shares.dtype).tiny)
    return low + (high - low) / bins * (place + within.clamp(0, 1))


def match_histogram(
    image: Tensor,
    mask: Tensor,
    histogram: Tensor,
    window: tuple[float, float],
    index: Tensor,
    seed: int,
) -> Tensor:
    """Move the voxels inside each mask to the histogram that is requested for it.

    Args:
        image: `(B, 1, *spatial)`, in any unit.
        mask: `(B, 1, *spatial)`, 1 inside the nodule; where it is empty nothing moves.
        histogram: `(B, bins)`, each sums to one.
        window: left edge of the first bin and right edge of the last one, in the image's unit.
        index: `(B,)` numbers of the samples; with the seed they decide between equal voxels.
        seed: the sampling seed.

    Returns:
        `(B, 1, *spatial)`; the image bit for bit outside the masks.
    """
    moved = image.clone()
    for one, inside, wanted, number in zip(
        moved, mask > 0, histogram.double(), index.tolist(), strict=True
    ):
        values = one[inside]
        chance = torch.randperm(len(values), generator=generator("ties", seed, number))
        chance = chance.to(values.device)
        order = chance[values[chance].argsort(stable=True)]
        shares = (torch.arange(len(values), device=values.device) + 0.5) / max(len(values), 1)
        targets = torch.empty_like(values)
        targets[order] = quantiles(wanted, shares.double(), *window).to(values)
        one[inside] = targets
    return moved
