"""The moving average of weights that samples are drawn with."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class MovingAverage(AveragedModel):
    """Exponential moving average of a network's weights, beginning with those that it has.

    Args:
        network: whose weights are averaged; `module` is a copy of it.
        decay: of the average; it warms up as (1 + n) / (10 + n) after n updates.

    Raises:
        ValueError: If the decay is not in [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            message = f"ema_decay is {decay}: give a number from 0 to below 1."
            raise ValueError(message)

        def average(ema: Tensor, value: Tensor, updates: Tensor | int) -> Tensor:
            warm = min(decay, (1 + int(updates)) / (10 + int(updates)))
            return torch.lerp(value, ema, warm)

        super().__init__(network, avg_fn=average)
        self.requires_grad_(False)
