"""The optimizer of every stage, and its learning rate over a trainer's run."""

import math
from collections.abc import Iterable
from typing import cast

import torch
from lightning import Trainer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch.nn import Parameter

from datamodules.base import NoduleDataModule
from lightning_modules.core.schedule import warmup_cosine

FUSED_ON = {"cpu", "cuda"}
"""Types of devices on which PyTorch has AdamW as one kernel."""


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


def adamw(
    parameters: Iterable[Parameter],
    trainer: Trainer,
    learning_rate: float,
    warmup_steps: int,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.999),
) -> OptimizerLRSchedulerConfig:
    """AdamW with warm-up and cosine decay over the run, in the form that Lightning takes.

    It is one kernel where there is such, unless float16's loss scaling is on: fused, it undoes the
    scaling itself, and gradients cannot be clipped before.

    Args:
        parameters: those that want gradients are trained.
        trainer: of the run.
        learning_rate: the peak.
        warmup_steps: optimizer steps of the warm-up.
        weight_decay: of AdamW.
        betas: of AdamW.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
    fused = not scaled and {parameter.device.type for parameter in trained} <= FUSED_ON
    optimizer = torch.optim.AdamW(
        trained, learning_rate, betas=betas, weight_decay=weight_decay, fused=fused
    )
    # there is nothing to unscale, without which Lightning would refuse to clip
    optimizer._step_supports_amp_scaling = False
    scheduler = warmup_cosine(optimizer, warmup_steps, training_steps(trainer))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
