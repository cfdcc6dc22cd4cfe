"""The learning-rate schedule of every stage."""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR


def warmup_cosine(optimizer: Optimizer, warmup_steps: int, total_steps: float) -> dict[str, Any]:
    """Linear warm-up, then cosine decay to zero, in the form that Lightning takes.

    Args:
        optimizer: whose learning rate is the peak.
        warmup_steps: optimizer steps of the warm-up.
        total_steps: optimizer steps of the whole run; infinite for a run without an end, whose
            learning rate then stays at its peak.
    """
    warmup = LinearLR(optimizer, 1 / max(warmup_steps, 1), total_iters=max(warmup_steps, 1))
    schedule: LRScheduler = warmup
    if total_steps != float("inf") and total_steps > warmup_steps:
        decay = CosineAnnealingLR(optimizer, int(total_steps) - warmup_steps)
        schedule = SequentialLR(optimizer, [warmup, decay], [warmup_steps])
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": schedule, "interval": "step"},
    }
