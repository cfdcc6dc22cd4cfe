"""How far training, validation, testing and synthesis are."""

import math
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from torch import Tensor

from datamodules.progress import Progress


class RunProgress(ProgressBar):
    """Steps of the whole run with the loss, and batches of what is evaluated: see `Progress`."""

    def __init__(self) -> None:
        super().__init__()
        self._shown = True
        self._loss: Tensor | None = None
        self._training: Progress | None = None
        self._evaluation: Progress | None = None

    def disable(self) -> None:
        """Show nothing, as on all processes but the first."""
        self._shown = False

    def enable(self) -> None:
        """Show it again."""
        self._shown = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin at the step where training begins."""
        steps = trainer.estimated_stepping_batches
        self._training = Progress(
            desc="training",
            total=None if math.isinf(steps) else int(steps),
            initial=trainer.global_step,
            unit="step",
            mininterval=0.5,
            disable=not self._shown,
            dynamic_ncols=True,
            remark=self._told_loss,
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss, which is read only when it is shown: reading waits for the GPU."""
        self._loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        bar = self._training
        if bar is not None and trainer.global_step > bar.n:
            bar.update(trainer.global_step - bar.n)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End."""
        self._end(trainer, pl_module)
        if self._training is not None:
            self._training.close()
            self._training = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """End likewise."""
        self.on_train_end(trainer, pl_module)

    def _begin(self, what: str, batches: int | float | list[int | float]) -> None:
        total = sum(batches) if isinstance(batches, list) else batches
        self._evaluation = Progress(
            desc=what,
            total=None if math.isinf(total) else int(total),
            unit="batch",
            leave=False,
            disable=not self._shown or self.trainer.sanity_checking,
            dynamic_ncols=True,
        )

    def _advance(self, *_: Any, **__: Any) -> None:
        if self._evaluation is not None:
            self._evaluation.update()

    def _end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._evaluation is not None:
            self._evaluation.close()
            self._evaluation = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count the batches of a validation."""
        self._begin("validation", trainer.num_val_batches)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count the batches of a test."""
        self._begin("test", trainer.num_test_batches)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count the batches of a synthesis."""
        self._begin("synthesis", trainer.num_predict_batches)

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _advance
    on_validation_end = on_test_end = on_predict_end = _end

    def _told_loss(self) -> str:
        return "" if self._loss is None else f"loss {float(self._loss):.4g}"
