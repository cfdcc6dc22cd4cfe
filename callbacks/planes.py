"""Planes of volumes, as they are shown."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray


def plane_of(image: NDArray[Any], axis: int, place: Sequence[int]) -> NDArray[Any]:
    """The plane of a volume `(z, y, x)` across an axis; an image `(y, x)` as it is.

    Args:
        image: a volume or an image.
        axis: 0, 1 or 2, as in `datamodules.batch.PLANES`; across y and x the head is up.
        place: a voxel that the plane goes through.
    """
    if image.ndim == 2:
        return image
    plane: NDArray[Any] = image.take(place[axis], axis)
    return plane if axis == 0 else plane[::-1]
