"""When a run is saved: every so many steps and minutes, at its end, and before it stops."""

import math
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

AGREED_EVERY_STEPS = 10
"""How often several processes ask the first one whether to save or stop; one asks itself always."""

AT_ONCE = b"\nStopping after this step; Control-C again stops at once.\n"


class Checkpoints(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, by which no more than some minutes of training can be lost.

    `last.ckpt` is also written

    - when so many minutes have passed since it was;
    - after the last step of the run;
    - when SIGTERM or Control-C asks the run to stop: after the step that is being taken, which is
      then the last. In validation the run stops at once. On several processes the first one's clock
      and signals decide for all.

    Args:
        every_minutes: of training, at most, between two checkpoints.
        kwargs: of `ModelCheckpoint`.

    Raises:
        ValueError: If `every_minutes` is not above 0.
    """

    def __init__(self, every_minutes: float = 5.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not every_minutes > 0:
            message = f"every_minutes is {every_minutes}: give more than 0, .inf for never."
            raise ValueError(message)
        self.every_minutes = every_minutes
        self._asked_by: int | None = None  # signal that this process has got
        self._stops_by: int | None = None  # signal that all processes stop by

    @property
    def state_key(self) -> str:
        """Scores are of what is monitored, however often it is saved."""
        return self._generate_state_key(monitor=self.monitor, mode=self.mode)

    @property
    def interval(self) -> str:
        """Between two checkpoints, in words; empty if they are of epochs alone."""
        minutes = "" if math.isinf(self.every_minutes) else f"{self.every_minutes:g} minutes"
        steps = f"{self._every_n_train_steps} steps" if self._every_n_train_steps else ""
        return " or ".join(part for part in (steps, minutes) if part)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and take over the signals, which Lightning gives back at the end."""
        super().on_train_start(trainer, pl_module)
        self._asked_by = self._stops_by = None
        self._step = self._last_global_step_saved = trainer.global_step
        self._saved_at_s = time.monotonic()
        if threading.current_thread() is not threading.main_thread():
            return

        def ask(number: int, _: FrameType | None) -> None:
            if trainer.validating or (number == signal.SIGINT and self._asked_by == number):
                launcher: Any = trainer.strategy.launcher
                if number == signal.SIGTERM and hasattr(launcher, "procs"):
                    launcher.kill(number)
                raise _stop(number)
            if number == signal.SIGINT and trainer.is_global_zero:
                os.write(2, AT_ONCE)  # the handler may have interrupted a print
            self._asked_by = number

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, ask)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Stop, now that the last step is saved and logged.

        Raises:
            SIGTERMException: If SIGTERM has asked for it.
            KeyboardInterrupt: If Control-C has.
        """
        if self._stops_by is not None:
            raise _stop(self._stops_by)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before a validation likewise."""
        if self._stops_by is not None:
            raise _stop(self._stops_by)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save after an optimizer step, if it is time."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step == self._step:  # gradients are being accumulated
            return
        self._step = trainer.global_step
        if self._last_global_step_saved == self._step:
            self._saved_at_s = time.monotonic()
        save = self._is_last_step(trainer)
        if trainer.world_size == 1 or self._step % AGREED_EVERY_STEPS == 0:
            late = time.monotonic() - self._saved_at_s >= 60 * self.every_minutes
            asked_by = signal.SIGTERM if trainer.received_sigterm else self._asked_by
            late, self._stops_by = trainer.strategy.broadcast((late, asked_by))
            save = save or late or self._stops_by is not None
        if save:
            self._save_last(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what is not saved yet, as where training was stopped early."""
        self._save_last(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Say how to go on."""
        super().on_exception(trainer, pl_module, exception)
        stopped = isinstance(exception, KeyboardInterrupt | SIGTERMException)
        if not stopped or trainer.state.fn != TrainerFn.FITTING:
            return
        now, saved = trainer.global_step, self._last_global_step_saved
        again = "run the same command again"
        if saved:
            told = f"Stopped at step {now}; step {saved} is saved: {again} to go on from it."
        elif now:
            told = f"Stopped at step {now} before anything was saved: {again} to begin anew."
        else:
            told = f"Stopped before the first step: {again}."
        rank_zero_info(told)

    def _is_last_step(self, trainer: Trainer) -> bool:
        last_epoch = trainer.current_epoch + 1 == trainer.max_epochs
        ends = trainer.global_step == trainer.max_steps or (last_epoch and trainer.is_last_batch)
        return ends or trainer.should_stop

    def _save_last(self, trainer: Trainer) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
            self._saved_at_s = time.monotonic()


def _stop(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SIGTERMException()
