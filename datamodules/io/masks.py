"""What masks say: which voxels are inside, whatever type and values the file has.

One value besides 0 marks one nodule, whatever it is (1, 255, 14.2). Several whole numbers are
labels, also where a scale has left them a little off. Shares from 0 to 1, as interpolation leaves
them, are inside from one half on. Everything else is refused.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.io.dicom import read_study
from datamodules.io.limits import check_label
from datamodules.io.volumes import Volume

ROUNDING = 1e-3
"""Labels that were stored with a scale come back so far from whole numbers."""


def read_mask(path: Path) -> Volume:
    """Read a mask, its values as `labels_of` has them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, its values say nothing, or one is beyond
            `datamodules.io.limits`.
    """
    mask = read_study(path)
    check_label(float(mask.array.max(initial=0)), path)
    try:
        return replace(mask, array=labels_of(mask.array))
    except ValueError as error:
        message = f"{path} {error}"
        raise ValueError(message) from error


def labels_of(array: NDArray[Any]) -> NDArray[np.integer[Any]]:
    """Which nodule each voxel of a mask belongs to.

    Args:
        array: a mask as it is stored.

    Returns:
        0 outside; inside 1, 2 ... in the order of the values.

    Raises:
        ValueError: If values are not finite, negative, or neither labels nor shares.
    """
    array = _whole(array)
    marked = array != 0
    values = array[marked]
    found = np.unique(values)
    labels = np.zeros(array.shape, np.uint8 if len(found) < 256 else np.int32)
    labels[marked] = np.searchsorted(found, values) + 1
    return labels


def _whole(array: NDArray[Any]) -> NDArray[Any]:
    """A mask without broken values, unless there is but one."""
    if array.dtype == np.bool_ or np.issubdtype(array.dtype, np.unsignedinteger):
        return array
    # also where the least is no number
    if not array.min(initial=0) >= 0 or array.max(initial=0) == np.inf:
        message = "has values that are negative or not finite: mark nodules with 1, 2 ..."
        raise ValueError(message)
    if np.issubdtype(array.dtype, np.integer):
        return array
    values = array[array != 0]
    if not values.size or values.min() == values.max():
        return array
    off = np.abs(values - np.rint(values)) > ROUNDING
    if not off.any():
        whole: NDArray[Any] = np.rint(array)
        return whole
    if values.max() <= 1 + ROUNDING:
        return array >= 0.5
    message = (
        f"has the value {values[off][0]:g} among others, the greatest {values.max():g}: give whole "
        "numbers, one a nodule, or shares from 0 to 1"
    )
    raise ValueError(message)
