"""A training that waits where a test wants to stop it."""

import time
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class Held(Callback):
    """Waits after step N until it is stopped, or nothing named `hold-N` is in the run's folder.

    While it waits there is a file `waits-N-RANK`.
    """

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Wait after the step."""
        hold = Path(trainer.default_root_dir) / f"hold-{trainer.global_step}"
        waits = hold.with_name(f"waits-{trainer.global_step}-{trainer.global_rank}")
        while hold.exists() and not trainer.received_sigterm:
            waits.touch()
            time.sleep(0.05)
