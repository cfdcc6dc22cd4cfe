"""The moving average of weights that samples are drawn with."""

import copy

import torch
from torch import Tensor, nn


class MovingAverage(nn.Module):
    """Exponential moving average of a network's weights, beginning with those that it has.

    `torch.optim.swa_utils.AveragedModel` counts its updates on the device, and reads them back in
    each: the host would wait for the device at every step.

    Args:
        network: whose weights are averaged.
        decay: of the average; it warms up as (1 + n) / (10 + n) after n updates.

    Attributes:
        module: a copy of the network with the averaged weights, which want no gradients.
        updates: number of updates so far.

    Raises:
        ValueError: If the decay is not in [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            message = f"ema_decay is {decay}: give a number from 0 to below 1."
            raise ValueError(message)
        super().__init__()
        self.module = copy.deepcopy(network)
        self.requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take the network's weights into the average, all at once; the first are a copy."""
        n = self.updates
        decay = min(self.decay, (1 + n) / (10 + n)) if n else 0.0
        ours: list[Tensor] = [*self.module.parameters()]
        theirs: list[Tensor] = [*network.parameters()]
        torch._foreach_lerp_(ours, theirs, 1 - decay)
        if buffers := [*self.module.buffers()]:
            torch._foreach_copy_(buffers, [*network.buffers()])
        self.updates += 1

    def get_extra_state(self) -> int:
        """The number of updates, for a checkpoint."""
        return self.updates

    def set_extra_state(self, state: int) -> None:
        """Go on behind as many updates."""
        self.updates = state
