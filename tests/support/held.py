"""A training that waits where a test wants to stop it."""

import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class Held(Callback):
    """Waits after step N for as long as a file `hold-N` is in the run's folder, or until SIGTERM.

    While it waits there is a file `waits-N-RANK`. What SIGTERM is to do is done all the same.
    """

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Wait after the step."""
        hold = Path(trainer.default_root_dir) / f"hold-{trainer.global_step}"
        if not hold.exists():
            return
        terminated = False
        handler: Any = signal.getsignal(signal.SIGTERM)

        def terminate(number: int, frame: FrameType | None) -> None:
            nonlocal terminated
            terminated = True
            handler(number, frame)

        signal.signal(signal.SIGTERM, terminate)
        hold.with_name(f"waits-{trainer.global_step}-{trainer.global_rank}").touch()
        while hold.exists() and not terminated:
            time.sleep(0.05)
        signal.signal(signal.SIGTERM, handler)
