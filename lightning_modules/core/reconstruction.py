"""What a codec loses: the error of its reconstructions in physical units."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.batch import NoduleBatch
from lightning_modules.core.codec import Codec
from lightning_modules.core.window import IntensityWindow

ENOUGH = 64
"""Nodules after which the error is known well enough."""


class ReconstructionError(NamedTuple):
    """Mean absolute errors in the images' units.

    Attributes:
        image: over the images, `(B,)` or their mean, `()`.
        nodule: inside the nodules, of the same shape; not a number where there is none.
    """

    image: Tensor
    nodule: Tensor


def reconstruction_error(
    codec: Codec, window: IntensityWindow, batch: NoduleBatch
) -> ReconstructionError:
    """The errors of each image, `(B,)`, as the codec sees it: within the window.

    Args:
        codec: whose posterior means are decoded.
        window: intensities that are mapped to [-1, 1].
        batch: images and masks.
    """
    image = window.normalize(batch["image"])
    mean, _ = codec.encode(image)
    output = codec.reconstruct(mean).float()
    error = (window.denormalize(output) - window.denormalize(image)).abs()
    inside = (error * batch["mask"]).flatten(1).sum(1) / batch["mask"].flatten(1).sum(1)
    return ReconstructionError(error.flatten(1).mean(1), inside)


@torch.no_grad()
def mean_error(
    codec: Codec, window: IntensityWindow, batches: Iterable[NoduleBatch]
) -> ReconstructionError:
    """The mean errors of the first nodules, of `ENOUGH` at least if there are as many.

    Args:
        codec: see `reconstruction_error`.
        window: see `reconstruction_error`.
        batches: nodules on the codec's device.
    """
    errors: list[ReconstructionError] = []
    seen = 0
    for batch in batches:
        errors.append(reconstruction_error(codec, window, batch))
        seen += len(batch["index"])
        if seen >= ENOUGH:
            break
    image, nodule = (torch.cat(parts) for parts in zip(*errors, strict=True))
    return ReconstructionError(image.mean(), nodule.nanmean())


def check_error(error: ReconstructionError, limit: float | None) -> None:
    """Refuse a codec that loses too much.

    Args:
        error: of `mean_error`.
        limit: of either error; None for none.

    Raises:
        ValueError: If an error is above the limit, or the image's is not a number.
    """
    worst = max(float(part.nan_to_num(-1.0)) for part in error)
    if limit is None or (worst <= limit and not error.image.isnan()):
        return
    message = (
        f"The codec's reconstructions are off by {float(error.image):.3g} over the region and "
        f"{float(error.nodule):.3g} inside the nodules (mean absolute error in the images' units), "
        f"but codec.init_args.error_limit is {limit:g}: train the codec further in stage 1, choose "
        "another, or raise the limit (null for none)."
    )
    raise ValueError(message)
