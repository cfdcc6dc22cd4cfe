"""A small network that says what a nodule shows: the judge of synthetic nodules."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.nets import ResNet
from torch import Tensor, nn

from datamodules.batch import NO_NODULE, SUBTYPES, UNKNOWN_SUBTYPE, NoduleBatch
from lightning_modules.core.checkpoint_files import part_of, read_checkpoint
from lightning_modules.core.pretrained import check_model
from lightning_modules.core.window import IntensityWindow

EVEN_MALIGNANCY = (2.5, 3.5)
"""Mean ratings of malignancy that round to 3, LIDC's "indeterminate"."""


ENCODER_PIXELS = 160
"""Side of the images that a network of timm's sees: most end with 5 x 5 features."""


class ClassifierNetwork(nn.Module):
    """Tells from the image, not the mask, which characteristics a nodule has.

    A network with one logit for each characteristic: a residual network (He et al. 2016, MONAI's),
    or any of timm's for images.

    Args:
        characteristics: what it tells, see `label`.
        window: intensities that are mapped to [-1, 1].
        spatial_dims: 2 or 3.
        width: channels of the first of the residual network's four stages; each further one has
            twice as many, at half the resolution.
        encoder: timm's name of a network to use instead.
        encoder_pixels: side that images are brought to for it.
        weights: its weights, as `read_pretrained` gives them; None begins anew.

    Raises:
        ValueError: If there is no characteristic, the encoder is unknown or for images where it is
            to see volumes, or the weights do not fit.
    """

    def __init__(
        self,
        characteristics: Sequence[str],
        window: tuple[float, float],
        spatial_dims: int,
        width: int,
        encoder: str | None = None,
        encoder_pixels: int = ENCODER_PIXELS,
        weights: dict[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        if not characteristics:
            message = "characteristics is empty: name one attribute or more."
            raise ValueError(message)
        self.characteristics = tuple(characteristics)
        self.window = IntensityWindow(*window)
        self.spatial_dims = spatial_dims
        if encoder is None:
            self.trunk = residual_network(spatial_dims, width)
            features = 8 * width
        elif spatial_dims == 2:
            self.trunk = TimmNetwork(encoder, encoder_pixels, weights)
            features = self.trunk.width
        else:
            message = f"encoder {encoder!r} sees images, but these are volumes: set it to null."
            raise ValueError(message)
        self.answer = nn.Linear(features, len(self.characteristics))
        self.register_buffer("prevalence_odds", torch.ones(len(self.characteristics)))

    def features(self, image: Tensor) -> Tensor:
        """What the last layer sees of images `(B, 1, *spatial)` in physical units, `(B, C)`."""
        found: Tensor = self.trunk(self.window.normalize(image))
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


def residual_network(spatial_dims: int, width: int) -> nn.Module:
    """Four stages at full, 1/2, 1/4 and 1/8 of the resolution after the first layer's 1/2."""
    network: nn.Module = ResNet(
        "basic",
        [1, 1, 1, 1],
        [width, 2 * width, 4 * width, 8 * width],
        spatial_dims=spatial_dims,
        n_input_channels=1,
        conv1_t_size=3,
        no_max_pool=True,
        feed_forward=False,
    )
    return network


class TimmNetwork(nn.Module):
    """A network of timm's for images of one channel, pooled.

    Args:
        encoder: timm's name of it.
        pixels: side that images are brought to: most networks halve it five times.
        weights: as `read_pretrained` gives them; None begins anew.

    Attributes:
        width: number of features.

    Raises:
        ValueError: If timm has no such network, or the weights do not fit.
    """

    def __init__(self, encoder: str, pixels: int, weights: dict[str, Tensor] | None) -> None:
        import timm

        super().__init__()
        check_model(encoder)
        overlay = {} if weights is None else {"pretrained_cfg_overlay": {"state_dict": weights}}
        try:
            self.network: Any = timm.create_model(
                encoder, pretrained=weights is not None, in_chans=1, num_classes=0, **overlay
            )
        except (RuntimeError, TypeError, ValueError) as error:
            said = str(error).splitlines()[0]
            message = f"{encoder} cannot be the encoder ({said}): give another, or other weights."
            raise ValueError(message) from error
        self.pixels = pixels
        self.width: int = self.network.num_features

    def forward(self, image: Tensor) -> Tensor:
        """Features `(B, width)` of images `(B, 1, H, W)` from -1 to 1."""
        size = (self.pixels, self.pixels)
        features: Tensor = self.network(F.interpolate(image, size, mode="bilinear", antialias=True))
        return features


def label(batch: NoduleBatch, characteristic: str) -> Tensor:
    """Whether nodules have a characteristic, `(B,)`: 1, 0, or NaN where it is not known.

    Args:
        batch: nodules.
        characteristic: an attribute of the batch that is 1, 0 or NaN, a subtype (one against the
            others), `nodule` (0 for healthy tissue), or `malignant`: LIDC's mean rating of
            malignancy, 1 and 2 against 4 and 5; nodules from 2.5 to 3.5, which round to 3, are left
            out.

    Raises:
        ValueError: If the data does not have it.
    """
    if characteristic == "nodule":
        return (batch["subtype"] != NO_NODULE).float()
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


def load_classifier(path: Path, roi_spacing_mm: float | None = None) -> ClassifierNetwork:
    """A trained classifier, in evaluation mode.

    Args:
        path: the checkpoint of a `NoduleClassifier`.
        roi_spacing_mm: spacing of the images that it is to see; None where it is not known.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no classifier's, or was trained at another spacing.
    """
    checkpoint = read_checkpoint(path)
    facts = checkpoint.get("noduleforge", {})
    if "classifier" not in facts:
        message = f"The checkpoint {path} is not a classifier's: give one of NoduleClassifier."
        raise ValueError(message)
    _, spacing_mm = facts["roi"]
    if roi_spacing_mm is not None and spacing_mm != roi_spacing_mm:
        message = (
            f"The classifier in {path} was trained at an ROI spacing of {spacing_mm} mm, but the "
            f"images have {roi_spacing_mm}: train one at it."
        )
        raise ValueError(message)
    classifier = ClassifierNetwork(**facts["classifier"])
    classifier.load_state_dict(part_of(checkpoint, "network."))
    return classifier.eval().requires_grad_(False)
