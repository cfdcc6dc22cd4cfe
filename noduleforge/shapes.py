"""Shapes of real nodules, for other places."""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from scipy import ndimage
from scipy.spatial.transform import Rotation

from datamodules.io.volumes import Volume, binarize


def turned(
    mask: Volume, scale: float, spacing_mm: Sequence[float], rng: Generator
) -> tuple[Volume, float]:
    """A nodule's mask turned by chance about its centre.

    Args:
        mask: in its image.
        scale: how much larger it becomes.
        spacing_mm: of the grid that it comes to lie on, along z, y, x.
        rng: where chance comes from.

    Returns:
        The mask in the middle of a grid of an odd number of voxels, and how far it reaches from
        its centre, in mm.
    """
    spacing = np.array(mask.spacing_mm) * scale
    points = np.argwhere(mask.array != 0) * spacing
    center = points.mean(axis=0)
    reach = float(np.linalg.norm(points - center, axis=1).max())
    middle = [int(np.ceil(reach / step) + 2) for step in spacing_mm]
    matrix = Rotation.random(random_state=rng).as_matrix()
    # from the new grid's voxels to those of the mask
    onto = np.diag(1 / spacing) @ matrix @ np.diag(spacing_mm)
    offset = center / spacing - onto @ middle
    array = ndimage.affine_transform(
        (mask.array != 0).astype(np.float32),
        onto,
        offset,
        tuple(2 * half + 1 for half in middle),
        order=1,
    )
    return Volume(binarize(array), tuple(spacing_mm), (0.0,) * 3, np.eye(3)), reach
