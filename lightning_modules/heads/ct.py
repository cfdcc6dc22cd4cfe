"""The head for chest CT."""

from collections.abc import Mapping

from lightning_modules.core.conditioning import (
    BackgroundConditioner,
    Conditioner,
    HistogramConditioner,
    MaskConditioner,
    SubtypeConditioner,
)
from lightning_modules.core.regularizer import HistogramRegularizer, Regularizer
from lightning_modules.core.window import IntensityWindow
from lightning_modules.heads.head import ModalityHead


class CTHead(ModalityHead):
    """CT nodules by subtype, mask and HU histogram (paper B: Kannan et al., HR-LDM).

    Args:
        window_hu: Hounsfield units that are mapped to [-1, 1].
        conditioners: by default mask, background, subtype and histogram.
        regularizers: by default one HistogramRegularizer; an empty mapping is the model without.
        joint_dropout: see `ModalityHead`.
        margin_voxels: see `ModalityHead`.
    """

    def __init__(
        self,
        window_hu: tuple[float, float] = (-1000.0, 400.0),
        conditioners: Mapping[str, Conditioner] | None = None,
        regularizers: Mapping[str, Regularizer] | None = None,
        joint_dropout: float = 0.1,
        margin_voxels: int = 3,
    ) -> None:
        low, high = window_hu
        if conditioners is None:
            conditioners = {
                "mask": MaskConditioner(),
                "background": BackgroundConditioner(),
                "subtype": SubtypeConditioner(),
                "histogram": HistogramConditioner(low=low, high=high),
            }
        if regularizers is None:
            regularizers = {"histogram": HistogramRegularizer()}
        window = IntensityWindow(low, high)
        super().__init__(window, conditioners, regularizers, joint_dropout, margin_voxels)
