"""The learning-rate schedule of every stage."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(optimizer: Optimizer, warmup_steps: int, total_steps: float) -> LambdaLR:
    """Linear warm-up, then cosine decay to zero.

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

    return LambdaLR(optimizer, factor)
