"""What a run says of memory: before its first step, and when it runs out."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.core.saved_tensors import saved_bytes

MEMORY_KNOBS = (
    "lower data.init_args.batch_size (and raise trainer.accumulate_grad_batches), set "
    "checkpointing of model.init_args.unet or transformer to true, lower model.init_args.roi.size, "
    "or take trainer.precision bf16-mixed"
)


class Guards(Callback):
    """Watches over memory in training; every `lightning` command has it.

    - Before the first step it says how much memory the weights and one batch will take.
    - When memory does run out, it says which settings help.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Estimate the memory of a step."""
        fixed = sum(p.numel() * p.element_size() for p in pl_module.parameters())
        # gradients and two moments of AdamW
        trained = [p for p in pl_module.parameters() if p.requires_grad]
        fixed += 3 * sum(p.numel() * p.element_size() for p in trained)
        told = f"Memory: {fixed / 2**20:,.0f} MiB for weights, gradients and optimizer"
        module: Any = pl_module
        if hasattr(module, "trial_loss"):
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            batch = next(iter(data.statistics_batches()))
            batch = trainer.strategy.batch_to_device(batch, pl_module.device)
            size = len(batch["index"])
            with trainer.precision_plugin.forward_context():
                kept = saved_bytes(lambda: module.trial_loss(batch)) * data.batch_size // size
            told += f", about {kept / 2**20:,.0f} MiB for a batch of {data.batch_size}"
        rank_zero_info(told)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Say what helps when memory has run out."""
        told = str(exception)
        if isinstance(exception, torch.OutOfMemoryError) or "can't allocate memory" in told:
            message = f"Memory has run out: {MEMORY_KNOBS}."
            exception.add_note(message)
