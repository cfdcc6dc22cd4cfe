"""Differentiable intensity histograms and distances between them.

Pure functions on tensors of any rank; everything is computed in float32 or wider, whatever the
autocast. The end bins catch every value beyond the range. (Those of the Gaussian kernel weigh less:
half of the kernel lies beyond the last centre.)
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lightning_modules.core.window import IntensityWindow

Kernel = Literal["triangular", "gaussian", "sigmoid"]
Distance = Literal["js", "w1", "cvm"]

_EPSILON = 1e-8


def bin_centers(bins: int, low: float, high: float) -> Tensor:
    """Centres of `bins` equal bins between `low` and `high`, `(bins,)` float32."""
    width = (high - low) / bins
    return low + width * (torch.arange(bins, dtype=torch.float32) + 0.5)


def soft_histogram(
    values: Tensor,
    weights: Tensor,
    bins: int,
    low: float,
    high: float,
    kernel: Kernel = "triangular",
    bandwidth: float = 1.0,
) -> Tensor:
    """Weighted histogram that is differentiable in its values.

    `triangular` shares a value between the two nearest bins (Ustinova and Lempitsky 2016); its cost
    and memory are linear in the number of voxels. `gaussian` is a kernel density estimate and
    `sigmoid` the difference of two sigmoids (Avi-Aharon et al. 2020); both cost voxels times bins.

    Args:
        values: `(..., N)`, in any unit; `low` and `high` are in the same one.
        weights: broadcastable to `values`, not negative; usually a mask.
        bins: number of bins, at least 2.
        low: left edge of the first bin.
        high: right edge of the last bin.
        kernel: how a value is shared between bins.
        bandwidth: width of the Gaussian or the sigmoid in bins; `triangular` has none.

    Returns:
        `(..., bins)`; sums to one, or is zero throughout where the weights are.

    Raises:
        ValueError: If the bins, the range or the kernel make no histogram.
    """
    if kernel not in KERNELS:
        message = f"The kernel is {kernel!r}, expected one of {', '.join(KERNELS)}."
        raise ValueError(message)
    if bins < 2 or not low < high or bandwidth <= 0:
        message = (
            f"A histogram needs at least 2 bins, low < high and a bandwidth above 0, but got "
            f"bins={bins}, low={low}, high={high}, bandwidth={bandwidth}."
        )
        raise ValueError(message)
    with torch.autocast(values.device.type, enabled=False):
        values = values if values.dtype == torch.float64 else values.float()
        weights = weights.to(values.dtype).expand_as(values)
        # position in bins, where the centre of bin k is at k
        position = (values - low) / (high - low) * bins - 0.5
        counts = KERNELS[kernel](position, weights, bins, bandwidth)
        total = counts.sum(-1, keepdim=True)
        return counts / torch.where(total > 0, total, torch.ones_like(total))


def _triangular(position: Tensor, weights: Tensor, bins: int, bandwidth: float) -> Tensor:
    position = position.clamp(0, bins - 1)
    left = position.detach().floor().clamp(max=bins - 2)
    right_share = position - left
    # a NaN is counted as NaN, which a loss shows, and must not become an index
    index = left.nan_to_num(0).long()
    counts = position.new_zeros(*position.shape[:-1], bins)
    counts = counts.scatter_add(-1, index, weights * (1 - right_share))
    return counts.scatter_add(-1, index + 1, weights * right_share)


def _gaussian(position: Tensor, weights: Tensor, bins: int, bandwidth: float) -> Tensor:
    offset = position.clamp(0, bins - 1).unsqueeze(-1) - _numbers(bins, position)
    shares = torch.exp(-0.5 * (offset / bandwidth) ** 2)
    return (weights.unsqueeze(-1) * shares).sum(-2)


def _sigmoid(position: Tensor, weights: Tensor, bins: int, bandwidth: float) -> Tensor:
    # inner edges only: the end bins are open, so that the differences telescope to one
    edges = _numbers(bins, position)[:-1] + 0.5
    beyond = torch.sigmoid((position.unsqueeze(-1) - edges) / bandwidth)
    one, zero = torch.ones_like(beyond[..., :1]), torch.zeros_like(beyond[..., :1])
    shares = torch.cat([one, beyond], -1) - torch.cat([beyond, zero], -1)
    return (weights.unsqueeze(-1) * shares).sum(-2)


def _numbers(bins: int, like: Tensor) -> Tensor:
    return torch.arange(bins, dtype=like.dtype, device=like.device)


KERNELS: dict[str, Callable[[Tensor, Tensor, int, float], Tensor]] = {
    "triangular": _triangular,
    "gaussian": _gaussian,
    "sigmoid": _sigmoid,
}
"""How values are shared between bins: from positions in bins `(..., N)`, where bin k has its centre
at k, their weights, the number of bins and the bandwidth to counts `(..., bins)`."""


def masked_histogram(image: Tensor, mask: Tensor, bins: int, window: IntensityWindow) -> Tensor:
    """Histograms over a window, `(B, bins)`, of images `(B, 1, *spatial)` inside their masks."""
    return soft_histogram(image.flatten(1), mask.flatten(1), bins, window.low, window.high)


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats, between 0 and ln 2. `(..., bins)` twice to `(...)`."""
    m = (p + q) / 2
    log_m = torch.log(m + _EPSILON)
    kl_p = p * (torch.log(p + _EPSILON) - log_m)
    kl_q = q * (torch.log(q + _EPSILON) - log_m)
    return 0.5 * (kl_p + kl_q).sum(-1)


def wasserstein1(p: Tensor, q: Tensor, bin_width: float) -> Tensor:
    """Wasserstein-1 (earth mover's) distance in the unit of `bin_width`. `(..., bins)` to `(...)`.

    The area between the two cumulative distributions; it has a gradient between histograms that do
    not overlap, where the Jensen-Shannon divergence has none.
    """
    return bin_width * (p - q).cumsum(-1).abs().sum(-1)


def cramer_von_mises(p: Tensor, q: Tensor, bin_width: float) -> Tensor:
    """Squared area between cumulative distributions, in the unit of `bin_width`."""
    return bin_width * (p - q).cumsum(-1).square().sum(-1)


DISTANCES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "js": lambda p, q, bin_width: jensen_shannon(p, q),
    "w1": wasserstein1,
    "cvm": cramer_von_mises,
}
"""Distances by name, from two histograms `(..., bins)` and the width of a bin to `(...)`."""


def histogram_distance(p: Tensor, q: Tensor, distance: Distance, bin_width: float) -> Tensor:
    """The distance of that name between histograms `(..., bins)`, as `(...)`.

    Raises:
        ValueError: If there is no distance of that name.
    """
    if distance not in DISTANCES:
        message = f"The distance is {distance!r}, expected one of {', '.join(DISTANCES)}."
        raise ValueError(message)
    return DISTANCES[distance](p, q, bin_width)
