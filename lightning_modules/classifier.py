"""Training of the classifier that says what a nodule shows."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from datamodules.base import NoduleDataModule
from datamodules.batch import Classification, NoduleBatch, Roi
from lightning_modules.core.classifier import ENCODER_PIXELS, ClassifierNetwork
from lightning_modules.core.pretrained import Weights, read_pretrained
from lightning_modules.downstream import DownstreamModule


class NoduleClassifier(DownstreamModule):
    """Tells from the image, not the mask, which characteristics a nodule has.

    A `core.classifier.ClassifierNetwork`, trained by cross-entropy in which both answers weigh
    alike, however often nodules are drawn; where a characteristic is unknown, it does not count.

    Args:
        characteristics: attributes, subtypes or `malignant`; see `core.classifier.label`.
        roi: the region of an image that it sees.
        window: intensities that are mapped to [-1, 1].
        spatial_dims: 2 or 3.
        width: channels of the first of the residual network's four stages; each further one has
            twice as many, at half the resolution.
        encoder: timm's name of a network of images to use instead.
        encoder_weights: file with its weights (PyTorch or safetensors), or `installed`, for those
            of tf_efficientnet_lite0 in the extra `pretrained`; the first layer is fitted to one
            channel. Null begins anew. Nothing is downloaded.
        encoder_pixels: side that images are brought to for it.
        learning_rate: peak learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        warmup_steps: steps over which the learning rate rises, before it falls as a cosine.

    Raises:
        FileNotFoundError: If there is no file with weights.
        ValueError: If there is no characteristic, or encoder and weights do not fit.
    """

    roi: Roi  # a classifier always has one

    def __init__(
        self,
        characteristics: Sequence[str],
        roi: Roi,
        window: tuple[float, float] = (0.0, 255.0),
        spatial_dims: int = 2,
        width: int = 16,
        encoder: str | None = None,
        encoder_weights: Weights | None = None,
        encoder_pixels: int = ENCODER_PIXELS,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        warmup_steps: int = 50,
    ) -> None:
        super().__init__(window, roi, learning_rate, weight_decay, warmup_steps)
        if encoder is None and encoder_weights is not None:
            message = f"encoder_weights is {encoder_weights}, but there is no encoder: name it."
            raise ValueError(message)
        weights = None
        if encoder is not None and encoder_weights is not None:
            weights = read_pretrained(encoder, encoder_weights)
        self.size: dict[str, Any] = {
            **{"spatial_dims": spatial_dims, "width": width},
            **{"encoder": encoder, "encoder_pixels": encoder_pixels},
        }
        self.network = ClassifierNetwork(characteristics, window, **self.size, weights=weights)
        self.register_buffer("positive_weight", torch.ones(len(self.network.characteristics)))

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(B, characteristics)` of images `(B, 1, *spatial)` in physical units."""
        logits: Tensor = self.network(image)
        return logits

    def on_fit_start(self) -> None:
        """Cache the images and count the answers.

        Raises:
            ValueError: If a characteristic has only one answer in the training nodules.
        """
        super().on_fit_start()
        data = cast(NoduleDataModule, self.trainer.datamodule)  # type: ignore[attr-defined]
        known = torch.cat([self.network.labels(batch) for batch in data.statistics_batches()])
        yes, no = (known == 1).sum(0), (known == 0).sum(0)
        for name, *counts in zip(
            self.network.characteristics, yes.tolist(), no.tolist(), strict=True
        ):
            if 0 in counts:
                message = (
                    f"Of the training nodules {counts[0]} are {name} and {counts[1]} are not: it "
                    "cannot be learned."
                )
                raise ValueError(message)
            rank_zero_info(f"{name}: {counts[0]} training images with it, {counts[1]} without")
        real = torch.cat([self.network.labels(batch) for batch in data.real_batches()])
        # an answer that no real nodule has is rare, not impossible
        frequent = [(real == answer).sum(0).clamp(min=0.5) for answer in (0, 1)]
        self.network.get_buffer("prevalence_odds").copy_(frequent[1] / frequent[0])
        weights = data.draw_weights[:, None]
        drawn = [((known == answer) * weights).sum(0) for answer in (0, 1)]
        self.get_buffer("positive_weight").copy_(drawn[0] / drawn[1])

    def _loss(self, batch: NoduleBatch) -> tuple[Tensor, Tensor]:
        logits, labels = self(batch["image"]), self.network.labels(batch)
        known = torch.isfinite(labels)
        weight = self.get_buffer("positive_weight")
        each = F.binary_cross_entropy_with_logits(
            logits, labels.nan_to_num(), pos_weight=weight, reduction="none"
        )
        return (each * known).sum() / known.sum().clamp(min=1), logits

    def training_step(self, batch: NoduleBatch, batch_idx: int) -> Tensor:
        """Cross-entropy of what is known."""
        loss, _ = self._loss(batch)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: NoduleBatch, batch_idx: int) -> None:
        """The loss, in evaluation."""
        loss, _ = self._loss(batch)
        self.log("val/loss", loss, batch_size=len(batch["index"]), sync_dist=True)

    def test_step(  # type: ignore[override]  # callbacks get it as it is
        self, batch: NoduleBatch, batch_idx: int
    ) -> Classification:
        """What is said of the nodules, and what is known."""
        loss, logits = self._loss(batch)
        self.log("test/loss", loss, batch_size=len(batch["index"]), sync_dist=True)
        said, network = logits.sigmoid(), self.network
        labels, calibrated = network.labels(batch), network.calibrate(said)
        return Classification(network.characteristics, labels, said, calibrated)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what is needed to use the network, and on what it must be used."""
        data = cast(NoduleDataModule, self.trainer.datamodule)  # type: ignore[attr-defined]
        checkpoint["noduleforge"] = {
            "classifier": {
                "characteristics": list(self.network.characteristics),
                "window": list(self.window.ends),
                **self.size,
            },
            "roi": [list(self.roi.shape(self.size["spatial_dims"])), self.roi.spacing_mm],
            "data_fingerprint": data.fingerprint,
        }
