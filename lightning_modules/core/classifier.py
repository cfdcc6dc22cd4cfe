"""A small network that says what a nodule shows: the judge of synthetic nodules."""

from collections.abc import Sequence
from pathlib import Path

import torch
from monai.networks.nets import ResNet
from torch import Tensor, nn

from datamodules.batch import NO_NODULE, SUBTYPES, UNKNOWN_SUBTYPE, NoduleBatch
from lightning_modules.core.checkpoint_files import part_of, read_checkpoint
from lightning_modules.core.window import IntensityWindow

EVEN_MALIGNANCY = (2.5, 3.5)
"""Mean ratings of malignancy that round to 3, LIDC's "indeterminate"."""


class ClassifierNetwork(nn.Module):
    """Tells from the image, not the mask, which characteristics a nodule has.

    A residual network (He et al. 2016, MONAI's) with one logit for each characteristic.

    Args:
        characteristics: what it tells, see `label`.
        window: intensities that are mapped to [-1, 1].
        spatial_dims: 2 or 3.
        width: channels of the first of four stages; each further one has twice as many, at half
            the resolution.

    Raises:
        ValueError: If there is no characteristic.
    """

    def __init__(
        self,
        characteristics: Sequence[str],
        window: tuple[float, float],
        spatial_dims: int,
        width: int,
    ) -> None:
        super().__init__()
        if not characteristics:
            message = "characteristics is empty: name one attribute or more."
            raise ValueError(message)
        self.characteristics = tuple(characteristics)
        self.window = IntensityWindow(*window)
        self.spatial_dims = spatial_dims
        self.trunk = ResNet(
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
