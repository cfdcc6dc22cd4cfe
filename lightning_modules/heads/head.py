"""A modality head: intensity window, conditioners and regularizers."""

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn

from lightning_modules.core.conditioning import Conditioner
from lightning_modules.core.randomness import SampleStreams
from lightning_modules.core.regularizer import Regularizer
from lightning_modules.core.window import IntensityWindow


class ModalityHead(nn.Module):
    """What distinguishes one modality from another over the shared core.

    It owns what the model's parts share, and what insertion must know of it.

    Args:
        window: physical intensities that are mapped to [-1, 1], and that histograms cover.
        conditioners: what the denoiser is told, by name.
        regularizers: losses beside the diffusion loss, by name.
        joint_dropout: probability, for each sample, that all guided conditions are withheld
            together, as they are in classifier-free guidance.
        margin_voxels: how far beyond the mask the synthetic nodule reaches into its surroundings.
        histogram_bins: bins of the intensity histograms inside the mask, which are asked for and
            reported; LeFusion (Zhang et al., ICLR 2025) uses 16.

    Raises:
        ValueError: If the window is empty, the margin negative, or there are fewer than two bins.
    """

    def __init__(
        self,
        window: tuple[float, float],
        conditioners: Mapping[str, Conditioner],
        regularizers: Mapping[str, Regularizer] | None = None,
        joint_dropout: float = 0.1,
        margin_voxels: int = 3,
        histogram_bins: int = 16,
    ) -> None:
        super().__init__()
        if margin_voxels < 0 or histogram_bins < 2:
            message = (
                f"The head has margin_voxels {margin_voxels} and histogram_bins {histogram_bins}: "
                "give a margin of at least 0 and at least 2 bins."
            )
            raise ValueError(message)
        self.window = IntensityWindow(*window)
        # not registered: the denoiser owns the conditioners' weights
        self.conditioners = dict(conditioners)
        self.regularizers = nn.ModuleDict(regularizers or {})
        self.joint_dropout = joint_dropout
        self.margin_voxels, self.histogram_bins = margin_voxels, histogram_bins

    def withhold(self, streams: SampleStreams) -> dict[str, Tensor]:
        """Which conditions are withheld in a training step: each alone, or all guided together.

        Args:
            streams: where it is drawn from, one for each of `B` samples.

        Returns:
            For each conditioner `(B,)` boolean.
        """
        together = streams.uniform() < self.joint_dropout
        withheld = {}
        for name, conditioner in self.conditioners.items():
            alone = streams.uniform() < conditioner.dropout
            withheld[name] = alone | together if conditioner.guided else alone
        return withheld

    def weighted(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The diffusion loss and the regularizers times their weights, a scalar.

        Args:
            losses: scalars; `diffusion`, and one by the name of each regularizer.
        """
        total = losses["diffusion"]
        for name, regularizer in self.regularizers.items():
            total = total + cast(Regularizer, regularizer).weight * losses[name]
        return total
