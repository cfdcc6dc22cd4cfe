"""Losses on the denoiser's estimate of x_0, beside the diffusion loss."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lightning_modules.core.histogram import (
    Distance,
    Kernel,
    histogram_distance,
    soft_histogram,
)
from lightning_modules.core.inpainting import occupancy


@dataclass(frozen=True)
class Estimate:
    """What a regularizer may look at.

    Attributes:
        x0: `(B, C, *latent)`; the denoiser's estimate, with gradient.
        latent: `(B, C, *latent)`; the real latent.
        signal_share: `(B,)` in [0, 1]; alpha-bar, how much of x_t is signal.
        image: `(B, 1, *spatial)` in [-1, 1].
        mask: `(B, 1, *spatial)`, 0 or 1.
        decode: the codec's decoder, from latent to image in [-1, 1].
    """

    x0: Tensor
    latent: Tensor
    signal_share: Tensor
    image: Tensor
    mask: Tensor
    decode: Callable[[Tensor], Tensor]


class Regularizer(nn.Module, ABC):
    """An extra loss with its weight.

    Args:
        weight: factor of the loss beside the diffusion loss.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    @abstractmethod
    def forward(self, estimate: Estimate) -> Tensor:
        """The loss before its weight, a scalar."""


class Compared(NamedTuple):
    """Values whose histograms are compared.

    Attributes:
        ours: `(B, C, *)`; those of the estimate, with gradient.
        real: `(B, C, *)`; those of the real nodule.
        inside: `(B, 1, *)`; the weight of each voxel in the histograms.
    """

    ours: Tensor
    real: Tensor
    inside: Tensor


def _latents(estimate: Estimate) -> Compared:
    compression = estimate.mask.shape[2] // estimate.latent.shape[2]
    with torch.autocast(estimate.x0.device.type, enabled=False):
        inside = occupancy(estimate.mask, compression)
    return Compared(estimate.x0.float(), estimate.latent.float(), inside)


def _images(estimate: Estimate) -> Compared:
    ours = estimate.decode(estimate.x0).float()
    return Compared(ours, estimate.image.float(), estimate.mask)


SPACES: dict[str, Callable[[Estimate], Compared]] = {"latent": _latents, "image": _images}
"""What is compared, by the name of the space."""

TIMESTEP_WEIGHTS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "alpha_bar": lambda signal_share, least: signal_share,
    "cut": lambda signal_share, least: (signal_share >= least).float(),
}
"""Weight of each sample, `(B,)`, from its share of signal and the smallest that counts."""


class HistogramRegularizer(Regularizer):
    """Distance between the histograms of the estimate and of the real nodule inside the mask.

    In `latent` space it is the mean over channels (paper B: Kannan et al., HR-LDM, with
    Jensen-Shannon divergence); in `image` space it is that of the decoded estimate.

    Args:
        space: `latent` (range in standard deviations) or `image` (range [-1, 1]).
        distances: weight of each distance, such as `{js: 1, w1: 1}`.
        bins: number of bins. A nodule of 10 mm fills 65 latent voxels at 1 mm and 2x compression:
            more than 16 bins count noise.
        limit: the histogram covers [-limit, limit]; the end bins catch what is beyond.
        kernel: see `soft_histogram`.
        bandwidth: see `soft_histogram`.
        weight: see `Regularizer`.
        timestep_weight: `alpha_bar` weights each sample by its share of signal; `cut` takes only
            samples whose share is at least `min_signal`.
        min_signal: smallest share of signal with `cut`.
        min_voxels: smallest number of voxels, latent or image, that make a histogram; smaller
            nodules are left out of the mean.
    """

    def __init__(
        self,
        space: Literal["latent", "image"] = "latent",
        distances: Mapping[Distance, float] | None = None,
        bins: int = 16,
        limit: float = 4.0,
        kernel: Kernel = "triangular",
        bandwidth: float = 1.0,
        weight: float = 0.5,
        timestep_weight: Literal["alpha_bar", "cut"] = "alpha_bar",
        min_signal: float = 0.5,
        min_voxels: float = 8.0,
    ) -> None:
        super().__init__(weight)
        self.space = space
        default: dict[Distance, float] = {"js": 1.0, "w1": 1.0}
        self.distances = dict(distances or default)
        self.bins, self.limit = bins, limit
        self.kernel, self.bandwidth = kernel, bandwidth
        self.timestep_weight, self.min_signal = timestep_weight, min_signal
        self.min_voxels = min_voxels

    def forward(self, estimate: Estimate) -> Tensor:
        """Weighted mean of the distances over the samples that count; zero if none does."""
        weight = TIMESTEP_WEIGHTS[self.timestep_weight](estimate.signal_share, self.min_signal)
        ours, real, inside = SPACES[self.space](estimate)
        weight = weight * (inside.flatten(1).sum(1) >= self.min_voxels)
        distance = self.distance(ours, real, inside)
        return (weight * distance).sum() / weight.count_nonzero().clamp(min=1)

    def distance(self, ours: Tensor, real: Tensor, inside: Tensor) -> Tensor:
        """Distance of each sample, `(B,)`, between `(B, C, *)` values weighted by `(B, 1, *)`."""
        p, q = (
            soft_histogram(
                values.flatten(2),
                inside.flatten(2),
                self.bins,
                -self.limit,
                self.limit,
                self.kernel,
                self.bandwidth,
            )
            for values in (ours, real)
        )
        width = 2 * self.limit / self.bins
        total = torch.zeros(len(ours), device=ours.device)
        for name, factor in self.distances.items():
            total = total + factor * histogram_distance(p, q, name, width).mean(1)
        return total
