"""What stops a run whose loss is no longer finite, without waiting for the device at every step."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from datamodules.io.whole_files import written_whole

CHECKED_TOGETHER = 50
"""Batches whose losses are read together: the device is waited for once in as many."""


class _Taken(NamedTuple):
    """A batch that a step was taken with."""

    step: int
    nodules: dict[str, list[str]]
    loss: Tensor


class FiniteLosses(Callback):
    """Ends a run whose loss is not finite before its weights reach the disk.

    Losses stay on the device, and are looked at together after some batches, and before anything
    is made of the weights: a checkpoint, a validation, what is written in the end. What the
    weights have become meanwhile is lost with the process, and the last checkpoint is from before.
    The nodules of the first such batch are written to `non_finite.json`. With several processes all
    look at the same time, and all end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[_Taken] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember which nodules are in the batch."""
        parts = {"": batch} if "index" in batch else batch
        self.nodules = {part: list(nodules["name"]) for part, nodules in parts.items()}

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Remember the loss."""
        self.taken.append(_Taken(trainer.global_step, self.nodules, loss.detach()))

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Look at the losses after some batches.

        Lightning does not ask callbacks before it writes weights alone: where a run keeps such
        files, every loss is looked at.
        """
        weights_alone = any(
            isinstance(one, ModelCheckpoint) and one.save_weights_only
            for one in trainer.checkpoint_callbacks
        )
        if weights_alone or len(self.taken) >= CHECKED_TOGETHER:
            self.check(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Look at them before a checkpoint is written."""
        self.check(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at them before the weights are used."""
        self.check(trainer)

    on_train_epoch_end = on_train_end = on_validation_start

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Look whether what went wrong came of weights that are not finite.

        With several processes each sees what went wrong with the others, too, and cannot ask them.

        Raises:
            RuntimeError: If so.
        """
        if trainer.world_size > 1:
            return
        try:
            first = self._first()
        except RuntimeError:  # as of a device that is lost
            return
        if first < len(self.taken):
            raise self._told(trainer, self.taken[first]) from exception

    def check(self, trainer: Trainer) -> None:
        """Look at the losses since the last time; on every process, at the same time.

        Raises:
            RuntimeError: If one was not finite, on any process.
        """
        if not self.taken:
            return
        first = self._first()
        of_all = trainer.strategy.reduce(
            torch.tensor(first, device=self.taken[0].loss.device), reduce_op="min"
        )
        if (earliest := int(of_all)) < len(self.taken):
            if earliest == first:
                raise self._told(trainer, self.taken[first])
            step = self.taken[earliest].step
            message = f"The loss of another process is not finite at step {step}."
            raise RuntimeError(message)
        self.taken.clear()

    def _first(self) -> int:
        """Place of the first loss that is not finite; behind all if there is none."""
        if not self.taken:
            return 0
        finite = torch.stack([batch.loss.float() for batch in self.taken]).isfinite().tolist()
        return finite.index(False) if False in finite else len(finite)

    @staticmethod
    def _told(trainer: Trainer, batch: _Taken) -> RuntimeError:
        """Write which nodules the batch had, and say so."""
        path = Path(trainer.default_root_dir) / "non_finite.json"
        loss = batch.loss.item()
        found = {
            "step": batch.step,
            "rank": trainer.global_rank,
            "loss": str(loss),
            "nodules": batch.nodules,
        }
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(found, indent=2) + "\n")
        return RuntimeError(
            f"The loss is {loss} at step {batch.step}: look at the nodules of its batch, listed "
            f"in {path}, lower model.init_args.learning_rate, or set trainer.gradient_clip_val. "
            "The last checkpoint is from before."
        )
