"""What a run will do, said before it begins."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from callbacks.checkpointing import Checkpoints


class Overview(Callback):
    """Says in a line each what is trained, how long, where it is written and where it begins.

    What the data are is said by the data module, as soon as it knows.
    """

    _resumed_at: int | None = None

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember the step at which the run goes on."""
        self._resumed_at = checkpoint["global_step"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say it."""
        lines = {
            "Model": _model(trainer, pl_module),
            "Steps": _steps(trainer, pl_module),
            "Folder": _folder(trainer),
            "Start": self._start(trainer),
        }
        rank_zero_info("\n".join(f"{name + ':':8}{text}" for name, text in lines.items()))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how far it has come, and what of it is kept."""
        kept = [
            c.last_model_path for c in trainer.checkpoint_callbacks if isinstance(c, Checkpoints)
        ]
        where = f": {kept[0]}" if any(kept) else ""
        rank_zero_info(f"Trained to step {trainer.global_step}{where}")

    def _start(self, trainer: Trainer) -> str:
        if trainer.ckpt_path is None:
            return "new"
        return f"resumed at step {self._resumed_at} of {trainer.ckpt_path}"


def _model(trainer: Trainer, module: LightningModule) -> str:
    every = sum(p.numel() for p in module.parameters())
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    devices = f"{trainer.world_size} x {trainer.strategy.root_device.type}"
    return (
        f"{type(module).__name__}, {trained / 1e6:,.2f} M parameters trained of "
        f"{every / 1e6:,.2f} M, on {devices} in {trainer.precision}"
    )


def _steps(trainer: Trainer, module: LightningModule) -> str:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    count = str(trainer.max_steps)
    if trainer.max_steps < 0:
        endless = trainer.max_epochs is None or trainer.max_epochs < 0
        count = "no end" if endless else f"those of {trainer.max_epochs} epochs"
    size = data.batch_size * trainer.world_size * trainer.accumulate_grad_batches
    told = f"{count}, of {size} nodules each; seed {data.seed}"
    peak, warmup = (getattr(module, name, None) for name in ("learning_rate", "warmup_steps"))
    if peak is None:
        return told
    falls = "" if count == "no end" else ", then down to 0 as a cosine"
    return f"{told}; learning rate up to {peak:g} in {warmup} steps{falls}"


def _folder(trainer: Trainer) -> str:
    saved = [c.interval for c in trainer.checkpoint_callbacks if isinstance(c, Checkpoints)]
    listed = "".join(f", with a checkpoint every {interval}" for interval in saved if interval)
    return f"{trainer.default_root_dir}{listed}"
