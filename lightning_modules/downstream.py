"""What the networks share that synthetic nodules are to help: they are trained alike."""

from typing import cast

from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

from datamodules.base import NoduleDataModule
from datamodules.batch import Roi
from lightning_modules.core.window import IntensityWindow
from lightning_modules.optimization import adamw


class DownstreamModule(LightningModule):
    """A network that is trained on cached images by AdamW, with warm-up and cosine decay.

    Args:
        window: intensities that are mapped to [-1, 1].
        roi: the region of an image that it sees; None for whole images.
        learning_rate: peak learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        warmup_steps: steps over which the learning rate rises, before it falls as a cosine.
    """

    def __init__(
        self,
        window: tuple[float, float],
        roi: Roi | None,
        learning_rate: float,
        weight_decay: float,
        warmup_steps: int,
    ) -> None:
        super().__init__()
        self.window, self.roi = IntensityWindow(*window), roi
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.warmup_steps = warmup_steps

    def on_fit_start(self) -> None:
        """Cache the images."""
        data = cast(NoduleDataModule, self.trainer.datamodule)  # type: ignore[attr-defined]
        if data.cache_dir is not None:
            data.cache_latents(
                lambda batch: {},
                "images",
                self.global_rank,
                self.trainer.world_size,
                self.trainer.strategy.barrier,
            )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with warm-up and cosine decay."""
        rates = (self.learning_rate, self.warmup_steps, self.weight_decay)
        return adamw(self.parameters(), self.trainer, *rates)
