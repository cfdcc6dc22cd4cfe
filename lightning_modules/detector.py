"""A network that finds nodules on whole radiographs: whether there is one, and where."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor, nn

from datamodules.base import NoduleDataModule
from datamodules.batch import Detection, NoduleBatch
from lightning_modules.core.pretrained import Weights, check_model, read_pretrained
from lightning_modules.downstream import DownstreamModule

STRIDE = 32
"""Pixels of the image along a side of one of the encoder's last."""

PRIOR = 0.01
"""Probability of every pixel before training (Lin et al. 2017): few are in a nodule."""

FOCAL = {"alpha": 0.5, "gamma": 2.0}
"""Of the focal loss: the weight of pixels in nodules against all others, and how much less pixels
count that are right already."""


class NoduleDetector(DownstreamModule):
    """Says of a whole radiograph whether there is a nodule, and of each pixel whether it is in one.

    A U-Net++ (Zhou et al. 2018, segmentation_models_pytorch's) over any network of timm's. The
    image's logit is that of its most suspicious pixel, plus what the maxima of the encoder's last
    features say of the whole image. It is trained by the focal loss (Lin et al. 2017) and Dice (of
    the batch, since most images have few pixels in a nodule or none) of the pixels, and by
    cross-entropy of the image. The focal loss is the sum over all pixels, divided by the number of
    those in nodules: a mean would drown them, as one pixel in thousands is in a nodule.

    Args:
        encoder: timm's name of the network.
        encoder_weights: file with its weights (PyTorch or safetensors), or `installed`, for those
            of tf_efficientnet_lite0 in the extra `pretrained`; the first layer is fitted to one
            channel. Null begins anew. Nothing is downloaded.
        decoder_channels: of the decoder at 1/16, 1/8, 1/4, 1/2 and full resolution.
        window: intensities that are mapped to [-1, 1].
        dice_weight: weight of the Dice loss.
        pixel_weight: weight of the pixels' focal loss.
        image_weight: weight of the image's cross-entropy.
        learning_rate: peak learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        warmup_steps: steps over which the learning rate rises, before it falls as a cosine.

    Raises:
        FileNotFoundError: If there is no file with weights.
        ValueError: If the network is unknown or fits neither the decoder nor the weights.
    """

    def __init__(
        self,
        encoder: str = "swin_tiny_patch4_window7_224",
        encoder_weights: Weights | None = None,
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
        window: tuple[float, float] = (0.0, 255.0),
        dice_weight: float = 1.0,
        pixel_weight: float = 1.0,
        image_weight: float = 1.0,
        learning_rate: float = 5e-4,
        weight_decay: float = 0.05,
        warmup_steps: int = 50,
    ) -> None:
        super().__init__(window, None, learning_rate, weight_decay, warmup_steps)
        self.size = {"encoder": encoder, "decoder_channels": list(decoder_channels)}
        self.dice_weight, self.pixel_weight = dice_weight, pixel_weight
        self.image_weight = image_weight
        self.network = make_network(encoder, encoder_weights, decoder_channels)
        # faster convolutions on CPUs and tensor cores
        self.network = self.network.to(memory_format=torch.channels_last)
        nn.init.constant_(self.network.segmentation_head[0].bias, math.log(PRIOR / (1 - PRIOR)))
        self.dice = DiceLoss(sigmoid=True, batch=True)

    def forward(self, image: Tensor) -> Detection:
        """Logits of images `(B, 1, H, W)` in physical units.

        Raises:
            ValueError: If a side is not a multiple of 32 pixels.
        """
        if image.shape[-1] % STRIDE or image.shape[-2] % STRIDE:
            message = (
                f"Images have {image.shape[-2]} x {image.shape[-1]} pixels, but the encoder halves "
                f"them five times: set data.radiograph_size to a multiple of {STRIDE}."
            )
            raise ValueError(message)
        pixels, nodule = self.network(self.window.normalize(image))
        return Detection(nodule[:, 0] + pixels.amax((1, 2, 3)), pixels)

    def detect(self, image: Tensor) -> Detection:
        """Probabilities, float32, of images `(B, 1, H, W)` in physical units."""
        return probabilities(self(image))

    def losses(self, found: Detection, batch: NoduleBatch) -> dict[str, Tensor]:
        """The weighted sum `loss`, and what it is made of.

        Args:
            found: logits.
            batch: with `mask` and `attributes["nodule"]`.
        """
        from torchvision.ops import sigmoid_focal_loss

        pixels, mask = found.pixels.float(), batch["mask"]
        label = batch["attributes"]["nodule"]
        inside = mask.sum().clamp(min=1)
        parts = {
            "dice": self.dice(pixels, mask),
            "pixels": sigmoid_focal_loss(pixels, mask, **FOCAL, reduction="sum") / inside,
            "image": F.binary_cross_entropy_with_logits(found.nodule.float(), label),
        }
        weights = (self.dice_weight, self.pixel_weight, self.image_weight)
        total = sum(w * part for w, part in zip(weights, parts.values(), strict=True))
        return {"loss": cast(Tensor, total), **parts}

    def training_step(self, batch: NoduleBatch, batch_idx: int) -> Tensor:
        """The loss."""
        losses = self.losses(self(batch["image"]), batch)
        self.log_dict({f"train/{name}": value for name, value in losses.items()})
        return losses["loss"]

    def validation_step(self, batch: NoduleBatch, batch_idx: int) -> None:
        """The loss, in evaluation."""
        self._evaluate(batch, "val")

    def test_step(self, batch: NoduleBatch, batch_idx: int) -> Detection:  # type: ignore[override]
        """Probabilities."""
        return self._evaluate(batch, "test")

    def _evaluate(self, batch: NoduleBatch, split: str) -> Detection:
        found: Detection = self(batch["image"])
        losses = self.losses(found, batch)
        self.log_dict(
            {f"{split}/{name}": value for name, value in losses.items()},
            batch_size=len(batch["index"]),
            sync_dist=True,
        )
        return probabilities(found)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what is needed to use the network, and on what it must be used."""
        data = cast(NoduleDataModule, self.trainer.datamodule)  # type: ignore[attr-defined]
        checkpoint["noduleforge"] = {
            "detector": {"window": list(self.window.ends), **self.size},
            "radiograph_spacing_mm": data.roi.spacing_mm,
            "data_fingerprint": data.fingerprint,
        }


def probabilities(logits: Detection) -> Detection:
    """From logits to probabilities, in float32."""
    return Detection(*[values.float().sigmoid() for values in logits])


def make_network(encoder: str, weights: Weights | None, decoder_channels: Sequence[int]) -> Any:
    """A U-Net++ of one channel and one class, with an answer for the whole image.

    Args:
        encoder: timm's name of the network.
        weights: file with its weights, `installed`, or None.
        decoder_channels: of the decoder at 1/16, 1/8, 1/4, 1/2 and full resolution.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the network is unknown or fits neither the decoder nor the weights.
    """
    import segmentation_models_pytorch as smp
    import timm

    check_model(encoder)
    if len(decoder_channels) != 5:
        message = f"decoder_channels is {list(decoder_channels)}: give five numbers."
        raise ValueError(message)
    settings: dict[str, Any] = {}
    if timm.get_pretrained_cfg(encoder).fixed_input_size:
        settings["strict_img_size"] = False  # radiographs of any size, padded to whole windows
    if weights is not None:
        settings["pretrained_cfg_overlay"] = {"state_dict": read_pretrained(encoder, weights)}
    try:
        return smp.UnetPlusPlus(
            f"tu-{encoder}",
            encoder_weights=None if weights is None else True,
            decoder_channels=decoder_channels,
            in_channels=1,
            aux_params={"classes": 1, "pooling": "max"},
            **settings,
        )
    except (RuntimeError, TypeError, ValueError) as error:
        what = f"{encoder} cannot be the encoder" if weights is None else f"{weights} does not fit"
        message = f"{what} ({str(error).splitlines()[0]}): give another, such as swin_tiny's."
        raise ValueError(message) from error
