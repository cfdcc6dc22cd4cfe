"""What synthetic nodules change in a study."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.io.volumes import Volume, binarize


@dataclass(frozen=True)
class Edit:
    """What one synthetic nodule changes in a study.

    Attributes:
        row: the request.
        change: what to add, on the ROI's grid; exactly 0 beyond the nodule's margin.
        mask: uint8, on the ROI's grid.
    """

    row: dict[str, Any]
    change: Volume
    mask: NDArray[np.uint8]


def box_of(study: Volume, roi: Volume) -> tuple[slice, ...]:
    """The voxels of a study whose centres lie in an ROI."""
    first = np.asarray(study.grid.index(roi.origin_mm))
    steps = np.asarray(study.spacing_mm) / roi.spacing_mm
    last = first + (np.asarray(roi.array.shape) - 1) / steps
    low = np.clip(np.ceil(first - 1e-6), 0, None).astype(int)
    high = np.minimum(np.floor(last + 1e-6).astype(int) + 1, study.array.shape)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def apply(study: Volume, edit: Edit) -> tuple[tuple[slice, ...], NDArray[np.uint8]]:
    """Add one nodule to a study, in place.

    The difference between synthetic and real ROI is interpolated onto the study's voxels and added,
    so that the study keeps its own noise and what is finer than the ROI. Where the difference is 0
    no voxel changes.

    Args:
        study: its voxels are overwritten; those of an integer type by whole numbers.
        edit: what to add.

    Returns:
        The box of the study that the ROI covers, and the nodule's mask in it.
    """
    from scipy import ndimage

    roi, box = edit.change, box_of(study, edit.change)
    steps = np.asarray(study.spacing_mm) / roi.spacing_mm
    shape = tuple(side.stop - side.start for side in box)
    low = np.array([side.start for side in box])
    offset = (low - np.asarray(study.grid.index(roi.origin_mm))) * steps

    def onto_study(values: NDArray[Any]) -> NDArray[np.float32]:
        moved: NDArray[np.float32] = ndimage.affine_transform(
            values.astype(np.float32), np.diag(steps), offset, shape, output=np.float32, order=1
        )
        return moved

    voxels = study.array[box]
    whole = np.issubdtype(voxels.dtype, np.integer)
    added = np.rint(onto_study(roi.array)) if whole else onto_study(roi.array)
    changed = voxels.astype(np.float64) + added
    if whole:
        limits = np.iinfo(voxels.dtype)
        changed = changed.clip(limits.min, limits.max)
    # what is not changed stays bit for bit, also where another type would not hold it
    study.array[box] = np.where(added == 0, voxels, changed.astype(voxels.dtype))
    return box, binarize(onto_study(edit.mask))
