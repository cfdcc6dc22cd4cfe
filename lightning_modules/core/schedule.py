"""The learning-rate schedule of every stage."""

import math
from typing import Any, cast

from lightning import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from datamodules.base import NoduleDataModule


def training_steps(trainer: Trainer) -> float:
    """Optimizer steps of the whole run; infinite for one without an end.

    Lightning's own estimate makes the training loader, which must not be made before latents are
    cached and a checkpoint is read.
    """
    if trainer.max_steps > -1:
        return trainer.max_steps
    if trainer.max_epochs is None or trainer.max_epochs < 0:
        return math.inf
    data = cast(NoduleDataModule, trainer.datamodule)  # type: ignore[attr-defined]
    batches, limit = data.training_batches, trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    return math.ceil(batches / trainer.accumulate_grad_batches) * trainer.max_epochs


def warmup_cosine(optimizer: Optimizer, warmup_steps: int, total_steps: float) -> dict[str, Any]:
    """Linear warm-up, then cosine decay to zero, in the form that Lightning takes.

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

    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"},
    }
