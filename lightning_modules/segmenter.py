"""A small network that outlines a nodule."""

import torch
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from torch import Tensor

from datamodules.batch import NoduleBatch, Roi
from lightning_modules.downstream import DownstreamModule


class NoduleSegmenter(DownstreamModule):
    """Says of each voxel of an ROI whether it belongs to the nodule.

    A U-Net (Ronneberger et al. 2015, MONAI's, with residual units), trained by Dice and
    cross-entropy together.

    Args:
        roi: the region of an image that it sees.
        window: intensities that are mapped to [-1, 1].
        spatial_dims: 2 or 3.
        width: channels of the first of three stages; each further one has twice as many, at half
            the resolution.
        learning_rate: peak learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        warmup_steps: steps over which the learning rate rises, before it falls as a cosine.
    """

    def __init__(
        self,
        roi: Roi,
        window: tuple[float, float] = (-1000.0, 400.0),
        spatial_dims: int = 3,
        width: int = 8,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 25,
    ) -> None:
        super().__init__(window, roi, learning_rate, weight_decay, warmup_steps)
        self.spatial_dims = spatial_dims
        self.network = UNet(
            spatial_dims, 1, 1, (width, 2 * width, 4 * width), (2, 2), num_res_units=1
        )
        self.loss = DiceCELoss(sigmoid=True)

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(B, 1, *spatial)` of images `(B, 1, *spatial)` in physical units."""
        logits: Tensor = self.network(self.window.normalize(image))
        return logits

    def training_step(self, batch: NoduleBatch, batch_idx: int) -> Tensor:
        """Dice and cross-entropy."""
        loss: Tensor = self.loss(self(batch["image"]).float(), batch["mask"])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: NoduleBatch, batch_idx: int) -> None:
        """The loss, in evaluation."""
        loss = self.loss(self(batch["image"]).float(), batch["mask"])
        self.log("val/loss", loss, batch_size=len(batch["index"]), sync_dist=True)

    def test_step(self, batch: NoduleBatch, batch_idx: int) -> Tensor:
        """Masks `(B, 1, *spatial)`: where the probability is above one half."""
        inside: Tensor = self(batch["image"]) > 0
        return inside.to(torch.uint8)
