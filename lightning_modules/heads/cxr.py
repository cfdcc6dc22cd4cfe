"""The head for chest radiographs."""

from collections.abc import Mapping

from lightning_modules.core.conditioners import BackgroundConditioner, MaskConditioner
from lightning_modules.core.conditioning import Conditioner
from lightning_modules.core.regularizer import Regularizer
from lightning_modules.heads.head import ModalityHead


class CXRHead(ModalityHead):
    """Radiograph nodules by mask (paper A: Singh et al., MIDL 2026, stages 1 and 2).

    Args:
        window: detector units that are mapped to [-1, 1]; 8-bit radiographs have [0, 255], JSRT's
            [0, 4095].
        conditioners: by default the mask, which guidance contrasts with no mask, and the
            background.
        regularizers: by default none.
        joint_dropout: see `ModalityHead`.
        margin_voxels: see `ModalityHead`.
        histogram_bins: see `ModalityHead`.
    """

    def __init__(
        self,
        window: tuple[float, float] = (0.0, 255.0),
        conditioners: Mapping[str, Conditioner] | None = None,
        regularizers: Mapping[str, Regularizer] | None = None,
        joint_dropout: float = 0.1,
        margin_voxels: int = 4,
        histogram_bins: int = 16,
    ) -> None:
        if conditioners is None:
            conditioners = {
                "mask": MaskConditioner(guided=True),
                "background": BackgroundConditioner(),
            }
        super().__init__(
            window, conditioners, regularizers, joint_dropout, margin_voxels, histogram_bins
        )
