"""The head for chest CT."""

from collections.abc import Mapping

from lightning_modules.core.conditioners import (
    BackgroundConditioner,
    HistogramConditioner,
    MaskConditioner,
    SubtypeConditioner,
)
from lightning_modules.core.conditioning import Conditioner
from lightning_modules.core.regularizer import HistogramRegularizer, Regularizer
from lightning_modules.heads.head import ModalityHead


class CTHead(ModalityHead):
    """CT nodules by subtype, mask and HU histogram (paper B: Kannan et al., HR-LDM).

    Args:
        window: Hounsfield units that are mapped to [-1, 1], and that histograms cover.
        conditioners: by default mask, background, subtype and histogram.
        regularizers: by default one HistogramRegularizer; an empty mapping is the model without.
        joint_dropout: see `ModalityHead`.
        margin_voxels: see `ModalityHead`.
        histogram_bins: see `ModalityHead`.
    """

    def __init__(
        self,
        window: tuple[float, float] = (-1000.0, 400.0),
        conditioners: Mapping[str, Conditioner] | None = None,
        regularizers: Mapping[str, Regularizer] | None = None,
        joint_dropout: float = 0.1,
        margin_voxels: int = 3,
        histogram_bins: int = 16,
    ) -> None:
        if conditioners is None:
            conditioners = {
                "mask": MaskConditioner(),
                "background": BackgroundConditioner(),
                "subtype": SubtypeConditioner(),
                "histogram": HistogramConditioner(),
            }
        if regularizers is None:
            regularizers = {"histogram": HistogramRegularizer()}
        super().__init__(
            window, conditioners, regularizers, joint_dropout, margin_voxels, histogram_bins
        )
