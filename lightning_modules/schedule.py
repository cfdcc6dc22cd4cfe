"""The learning-rate schedule over a trainer's run."""

import math
from typing import cast

from lightning import Trainer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch.optim import Optimizer

from datamodules.base import NoduleDataModule
from lightning_modules.core.schedule import warmup_cosine


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


def scheduled(
    optimizer: Optimizer, warmup_steps: int, trainer: Trainer
) -> OptimizerLRSchedulerConfig:
    """An optimizer with warm-up and cosine decay over the run, in the form that Lightning takes.

    Args:
        optimizer: whose learning rate is the peak.
        warmup_steps: optimizer steps of the warm-up.
        trainer: of the run.
    """
    scheduler = warmup_cosine(optimizer, warmup_steps, training_steps(trainer))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
