"""Many nodules at once, as commands that compare sets of them read them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from datamodules.collections import NoduleSet
from datamodules.progress import Progress


class Nodules(NamedTuple):
    """Nodules to be compared.

    Attributes:
        images: `(N, *spatial)` in physical units, an odd number of voxels along each axis, so that
            they can be flipped about the nodule's centre.
        masks: `(N, *spatial)`, 1 inside the nodule.
        names: identifiers.
        patients: whose image each is in.
    """

    images: Tensor
    masks: Tensor
    names: list[str]
    patients: list[str]


def read_nodules(nodules: NoduleSet, kind: str, margin: int = 0) -> Nodules:
    """All nodules of a set.

    Args:
        nodules: what is read.
        kind: what they are called in messages.
        margin: voxels to be read beyond the ROI on every side.

    Raises:
        ValueError: If there is none, or one has no mask.
    """
    if not len(nodules):
        message = f"There is no {kind} nodule: check the data's folder, select and fractions"
        raise ValueError(message)
    size = [2 * (n // 2 + margin) + 1 for n in nodules.roi_size]
    patches = [
        nodules.read(k, size) for k in Progress(range(len(nodules)), desc=kind, unit="nodule")
    ]
    for patch in patches:
        if not patch.mask.any():
            message = f"The {kind} nodule {patch.name} has an empty mask: give nodules with masks"
            raise ValueError(message)
    return Nodules(
        torch.stack([torch.from_numpy(patch.image.array) for patch in patches]),
        torch.stack([torch.from_numpy(patch.mask).float() for patch in patches]),
        [patch.name for patch in patches],
        [patch.patient_id for patch in patches],
    )


def region(images: Tensor, start: int, size: Sequence[int]) -> Tensor:
    """The part of images `(..., *spatial)` of a size, from voxel `start` on along each axis."""
    part: tuple[Any, ...] = (..., *(slice(start, start + n) for n in size))
    return images[part]
