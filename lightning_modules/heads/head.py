"""A modality head: intensity window, conditioners and regularizers."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from lightning_modules.core.conditioning import Conditioner
from lightning_modules.core.regularizer import Regularizer


@dataclass(frozen=True)
class IntensityWindow:
    """Physical intensities that are mapped to [-1, 1].

    Attributes:
        low: intensity that becomes -1; what is below is clipped.
        high: intensity that becomes 1; what is above is clipped.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        """Refuse an empty window."""
        if not self.low < self.high:
            message = f"The intensity window is [{self.low}, {self.high}], expected low < high."
            raise ValueError(message)

    def normalize(self, image: Tensor) -> Tensor:
        """From physical units to [-1, 1]."""
        scaled = 2 * (image - self.low) / (self.high - self.low) - 1
        return scaled.clamp(-1, 1)

    def denormalize(self, image: Tensor) -> Tensor:
        """From [-1, 1] to physical units, clipped to the window."""
        return (image.clamp(-1, 1) + 1) / 2 * (self.high - self.low) + self.low


class ModalityHead(nn.Module):
    """What distinguishes one modality from another over the shared core.

    Args:
        window: intensities seen by the model.
        conditioners: what the denoiser is told, by name.
        regularizers: losses beside the diffusion loss, by name.
        joint_dropout: probability, for each sample, that all guided conditions are withheld
            together, as they are in classifier-free guidance.
        margin_voxels: how far beyond the mask the synthetic nodule reaches into its surroundings.
    """

    def __init__(
        self,
        window: IntensityWindow,
        conditioners: Mapping[str, Conditioner],
        regularizers: Mapping[str, Regularizer] | None = None,
        joint_dropout: float = 0.1,
        margin_voxels: int = 3,
    ) -> None:
        super().__init__()
        self.window = window
        # not registered: the denoiser owns the conditioners' weights
        self.conditioners = dict(conditioners)
        self.regularizers = nn.ModuleDict(regularizers or {})
        self.joint_dropout = joint_dropout
        self.margin_voxels = margin_voxels
