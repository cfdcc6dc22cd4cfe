"""Hounsfield units of the chest: which values mean what, and whether an image is in them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

AIR_HU = -1000
"""What lies outside an image."""

PADDING_HU = -1100
"""Below this, voxels are what scanners write outside their field of view (-2000, -3024)."""

LUNG_UPPER_LIMIT_HU = -200
"""Every patch with a lung nodule in it has voxels as dark as this: lung is at -900 to -700."""

TYPICAL_LUNG_HU = -850.0
"""Lung around a nodule, where a patch shows none."""

LUNG_THRESHOLD_HU = -400
"""Below this a voxel of a chest CT is air or lung."""

INT16_HU = (-(2**15), 2**15 - 1)
"""The range that files hold; metal may lie beyond it in studies of other types."""


def to_int16(array: NDArray[Any]) -> NDArray[np.int16]:
    """Round to whole HU; what lies beyond `INT16_HU` becomes its nearer end."""
    whole: NDArray[np.int16] = np.rint(array).clip(*INT16_HU).astype(np.int16)
    return whole


def check_hu(array: NDArray[Any]) -> str | None:
    """Say what is wrong with values that should be Hounsfield units of a lung.

    Padding (below -1100) is left aside; then something must be as dark as -200 HU. Images scaled
    to [0, 1], [-1, 1] or 0..255, z-scores and raw detector values from 0 up fail this.

    Args:
        array: the whole image, not only a nodule.

    Returns:
        What is wrong, or None.
    """
    # part by part: a copy of a whole scan is large
    if not all(np.isfinite(part).all() for part in array):
        return "has values that are not finite: replace NaN and infinity"
    if any(((part >= PADDING_HU) & (part <= LUNG_UPPER_LIMIT_HU)).any() for part in array):
        return None
    return (
        f"has values from {array.min():g} to {array.max():g}: expected Hounsfield units, "
        "where lung is about -800; apply RescaleSlope and RescaleIntercept, and do not normalize"
    )
