"""A small network that says what a nodule shows: the judge of synthetic nodules."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from monai.networks.nets import ResNet
from torch import Tensor, nn

from datamodules.base import NoduleDataModule
from datamodules.batch import SUBTYPES, UNKNOWN_SUBTYPE, NoduleBatch, Roi
from lightning_modules.checkpoints import read_checkpoint
from lightning_modules.downstream import DownstreamModule

EVEN_MALIGNANCY = (2.5, 3.5)
"""Mean ratings of malignancy that round to 3, LIDC's "indeterminate"."""


class NoduleClassifier(DownstreamModule):
    """Tells from the image, not the mask, which characteristics a nodule has.

    A characteristic is an attribute of the batches that is 1, 0 or NaN where unknown, a subtype
    (one against the others), or `malignant`: LIDC's mean rating of malignancy, 1 and 2 against 4
    and 5; nodules from 2.5 to 3.5, which round to 3, are left out.

    A residual network (He et al. 2016, MONAI's) with one logit for each characteristic, trained by
    cross-entropy in which both answers weigh alike, however often nodules are drawn; where a
    characteristic is unknown, it does not count.

    Args:
        characteristics: see above.
        roi: the region of an image that it sees.
        window: intensities that are mapped to [-1, 1].
        spatial_dims: 2 or 3.
        width: channels of the first of four stages; each further one has twice as many, at half
            the resolution.
        learning_rate: peak learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        warmup_steps: steps over which the learning rate rises, before it falls as a cosine.

    Raises:
        ValueError: If there is no characteristic.
    """

    def __init__(
        self,
        characteristics: Sequence[str],
        roi: Roi,
        window: tuple[float, float] = (0.0, 255.0),
        spatial_dims: int = 2,
        width: int = 16,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        warmup_steps: int = 50,
    ) -> None:
        super().__init__(window, roi, learning_rate, weight_decay, warmup_steps)
        if not characteristics:
            message = "characteristics is empty: name one attribute or more."
            raise ValueError(message)
        self.characteristics = list(characteristics)
        self.size = {"spatial_dims": spatial_dims, "width": width}
        self.network = ResNet(
            "basic",
            [1, 1, 1, 1],
            [width, 2 * width, 4 * width, 8 * width],
            spatial_dims=spatial_dims,
            n_input_channels=1,
            conv1_t_size=3,
            no_max_pool=True,
            feed_forward=False,
        )
        self.answer = nn.Linear(8 * width, len(self.characteristics))
        self.register_buffer("positive_weight", torch.ones(len(self.characteristics)))
        self.register_buffer("prevalence_odds", torch.ones(len(self.characteristics)))

    def features(self, image: Tensor) -> Tensor:
        """What the last layer sees of images `(B, 1, *spatial)` in physical units, `(B, C)`."""
        found: Tensor = self.network(self.window.normalize(image))
        return found

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(B, characteristics)` of images `(B, 1, *spatial)` in physical units."""
        logits: Tensor = self.answer(self.features(image))
        return logits

    def calibrate(self, probabilities: Tensor) -> Tensor:
        """Probabilities for which both answers weigh alike to those at their prevalence.

        It is that of the real training nodules: synthetic ones say nothing of how frequent an
        answer is among patients.

        Args:
            probabilities: `(B, characteristics)`.
        """
        calibrated: Tensor = probabilities.logit(1e-7) + self.get_buffer("prevalence_odds").log()
        return calibrated.sigmoid()

    def labels(self, batch: NoduleBatch) -> Tensor:
        """What is known of the nodules, `(B, characteristics)`: 1, 0, or NaN.

        Raises:
            ValueError: If the data does not have a characteristic.
        """
        return torch.stack([label(batch, name) for name in self.characteristics], 1)

    def on_fit_start(self) -> None:
        """Cache the images and count the answers.

        Raises:
            ValueError: If a characteristic has only one answer in the training nodules.
        """
        super().on_fit_start()
        data = cast(NoduleDataModule, self.trainer.datamodule)  # type: ignore[attr-defined]
        known = torch.cat([self.labels(batch) for batch in data.statistics_batches()])
        yes, no = (known == 1).sum(0), (known == 0).sum(0)
        for name, *counts in zip(self.characteristics, yes.tolist(), no.tolist(), strict=True):
            if 0 in counts:
                message = (
                    f"Of the training nodules {counts[0]} are {name} and {counts[1]} are not: it "
                    "cannot be learned."
                )
                raise ValueError(message)
            rank_zero_info(f"{name}: {counts[0]} training images with it, {counts[1]} without")
        real = torch.cat([self.labels(batch) for batch in data.real_batches()])
        # an answer that no real nodule has is rare, not impossible
        frequent = [(real == answer).sum(0).clamp(min=0.5) for answer in (0, 1)]
        self.get_buffer("prevalence_odds").copy_(frequent[1] / frequent[0])
        weights = data.draw_weights[:, None]
        drawn = [((known == answer) * weights).sum(0) for answer in (0, 1)]
        self.get_buffer("positive_weight").copy_(drawn[0] / drawn[1])

    def _loss(self, batch: NoduleBatch) -> tuple[Tensor, Tensor]:
        logits, labels = self(batch["image"]), self.labels(batch)
        known = torch.isfinite(labels)
        weight = self.get_buffer("positive_weight")
        each = F.binary_cross_entropy_with_logits(
            logits, labels.nan_to_num(), pos_weight=weight, reduction="none"
        )
        return (each * known).sum() / known.sum().clamp(min=1), logits

    def training_step(self, batch: NoduleBatch, batch_idx: int) -> Tensor:
        """Cross-entropy of what is known."""
        loss, _ = self._loss(batch)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: NoduleBatch, batch_idx: int) -> None:
        """The loss, in evaluation."""
        loss, _ = self._loss(batch)
        self.log("val/loss", loss, batch_size=len(batch["index"]), sync_dist=True)

    def test_step(self, batch: NoduleBatch, batch_idx: int) -> Tensor:
        """Probabilities `(B, characteristics)`."""
        loss, logits = self._loss(batch)
        self.log("test/loss", loss, batch_size=len(batch["index"]), sync_dist=True)
        return logits.sigmoid()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what is needed to use the network, and on what it must be used."""
        data = cast(NoduleDataModule, self.trainer.datamodule)  # type: ignore[attr-defined]
        checkpoint["noduleforge"] = {
            "classifier": {
                "characteristics": self.characteristics,
                "window": [self.window.low, self.window.high],
                **self.size,
            },
            "roi": [list(self.roi.shape(self.size["spatial_dims"])), self.roi.spacing_mm],
            "data_fingerprint": data.fingerprint,
        }


def label(batch: NoduleBatch, characteristic: str) -> Tensor:
    """Whether nodules have a characteristic, `(B,)`: 1, 0, or NaN where it is not known.

    Raises:
        ValueError: If the data does not have it.
    """
    if characteristic in SUBTYPES:
        known = batch["subtype"] != UNKNOWN_SUBTYPE
        has = (batch["subtype"] == SUBTYPES.index(characteristic)).float()
        return torch.where(known, has, torch.nan)
    attribute = "malignancy" if characteristic == "malignant" else characteristic
    if attribute not in batch["attributes"]:
        message = (
            f"The data has no attribute {attribute!r}, only {sorted(batch['attributes'])}: name "
            "others in model.characteristics."
        )
        raise ValueError(message)
    value = batch["attributes"][attribute]
    if characteristic != "malignant":
        return value
    clear = (value < EVEN_MALIGNANCY[0]) | (value > EVEN_MALIGNANCY[1])
    return torch.where(clear, (value > EVEN_MALIGNANCY[1]).float(), torch.nan)


def load_classifier(path: Path, roi_spacing_mm: float) -> NoduleClassifier:
    """A trained classifier, in evaluation mode.

    Args:
        path: its checkpoint.
        roi_spacing_mm: spacing of the images that it is to see.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no classifier's, or was trained at another spacing.
    """
    checkpoint = read_checkpoint(path)
    facts = checkpoint.get("noduleforge", {})
    if "classifier" not in facts:
        message = f"The checkpoint {path} is not a classifier's: give one of NoduleClassifier."
        raise ValueError(message)
    size, spacing_mm = facts["roi"]
    if spacing_mm != roi_spacing_mm:
        message = (
            f"The classifier in {path} was trained at an ROI spacing of {spacing_mm} mm, "
            "but the images have {roi_spacing_mm}: train one at it."
        )
        raise ValueError(message)
    classifier = NoduleClassifier(roi=Roi(tuple(size), spacing_mm), **facts["classifier"])
    classifier.load_state_dict(checkpoint["state_dict"])
    return classifier.eval().requires_grad_(False)
