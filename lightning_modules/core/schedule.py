"""The learning-rate schedule of every stage."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class ConfiguredRate(LambdaLR):
    """Takes no more than the step from a checkpoint: peak and course are those that it has."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at the step of a checkpoint, with the learning rate that it has here."""
        super().load_state_dict({**state_dict, "base_lrs": self.base_lrs})
        factors = [factor(self.last_epoch) for factor in self.lr_lambdas]
        self._last_lr = [peak * f for peak, f in zip(self.base_lrs, factors, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


def warmup_cosine(optimizer: Optimizer, warmup_steps: int, total_steps: float) -> LambdaLR:
    """Linear warm-up, then cosine decay to zero.

    What a checkpoint says of the rate, its course and other settings of the optimizer is not taken:
    those count that the optimizer and this function are given.

    Diffusers' `get_cosine_schedule_with_warmup` has other rates: its warm-up begins with 0, so that
    the first step does nothing, and it knows no run without an end.

    Args:
        optimizer: whose learning rate is the peak.
        warmup_steps: optimizer steps of the warm-up.
        total_steps: optimizer steps of the whole run; infinite for a run without an end, whose
            learning rate then stays at its peak.
    """

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / max(warmup_steps, 1))
        if math.isinf(total_steps):
            return warmup
        progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
        return warmup * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))

    optimizer.register_load_state_dict_pre_hook(_with_own_settings)
    return ConfiguredRate(optimizer, factor)


def _with_own_settings(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state with the settings that it has (weight decay, betas, kernels)."""
    own = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    saved = state_dict["param_groups"]
    if len(saved) != len(own):  # the optimizer says so
        return state_dict
    groups = [{**group, **settings} for group, settings in zip(saved, own, strict=True)]
    return {**state_dict, "param_groups": groups}
