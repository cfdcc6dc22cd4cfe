"""A modality head: intensity window, conditioners and regularizers."""

from collections.abc import Mapping

from torch import nn

from lightning_modules.core.conditioning import Conditioner
from lightning_modules.core.regularizer import Regularizer
from lightning_modules.core.window import IntensityWindow


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
