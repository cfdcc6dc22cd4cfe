"""Opacities painted into real lung: the nodules of the sample."""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

TISSUE_HU = 40.0
"""What fills the airspace of a ground-glass opacity."""

NOISE_HU, NOISE_MM = 25.0, (1.2, 0.9, 0.9)
"""Deviation and width of the background CT's noise at 1 mm, measured in liver and back muscle."""

LIMITS_HU = (-1024, 3071)
"""What a CT of 12 bits holds."""


def paint_nodule(
    background: NDArray[np.int16],
    occupancy: NDArray[np.float32],
    subtype: str,
    ratings: dict[str, int],
    spacing_mm: float,
    rng: Generator,
) -> NDArray[np.int16]:
    """Paints an opacity into lung; no voxel gets darker, so that vessels stay visible.

    A share of the air in each voxel is replaced by tissue: all of it in a solid nodule or core,
    some of it in ground glass. The CT's noise is kept up where the lung's own is covered.

    Args:
        background: `(z, y, x)` HU of lung.
        occupancy: `(z, y, x)` share of each voxel that the nodule fills, in [0, 1].
        subtype: solid, part-solid or ground-glass.
        ratings: of these, `margin` (5 is sharp) blurs the edge, and a `calcification` other than
            6 (absent) makes a solid nodule dense.
        spacing_mm: voxel spacing.
        rng: source of all variation.

    Returns:
        `(z, y, x)` int16 HU.
    """
    blur = (0.6 + 0.1 * (5 - ratings["margin"])) / spacing_mm
    reach = int(np.ceil(4 * blur))
    box = ndimage.find_objects((occupancy > 0).astype(np.uint8))[0]
    window = tuple(slice(max(axis.start - reach, 0), axis.stop + reach) for axis in box)
    share, lung = occupancy[window], background[window].astype(np.float64)

    if subtype == "solid":
        calcified = ratings["calcification"] != 6
        fill = np.ones(share.shape)
        tissue = np.full(share.shape, rng.uniform(200, 500) if calcified else rng.uniform(0, 80))
    else:
        air = float(np.median(lung[share >= 0.5]))
        wanted = rng.uniform(-700 if subtype == "ground-glass" else -650, -450)
        mottle = smooth_noise(share.shape, (2.0 / spacing_mm,) * 3, rng)
        fill = np.clip((wanted - air) / (TISSUE_HU - air), 0.1, 0.6)
        fill = fill * np.clip(1 + 0.2 * mottle, 0.5, 1.5)
        tissue = np.full(share.shape, TISSUE_HU)
        if subtype == "part-solid":
            core = soft_core(share, rng.uniform(0.2, 0.6), rng)
            fill = fill + (1 - fill) * core
            tissue += core * (rng.uniform(-100, 50) - TISSUE_HU)
    fill = ndimage.gaussian_filter(share * fill, blur)
    sigma = tuple(mm / spacing_mm for mm in NOISE_MM)
    noise = NOISE_HU * smooth_noise(share.shape, sigma, rng)
    painted = lung + fill * (tissue - lung) + np.sqrt(1 - (1 - fill) ** 2) * noise
    result = background.copy()
    result[window] = np.rint(np.maximum(lung, painted)).clip(*LIMITS_HU)
    return result


def soft_core(occupancy: NDArray[np.float32], part: float, rng: Generator) -> NDArray[np.float64]:
    """Soft solid core, irregular and off the centre, of about `part` of the nodule's volume."""
    mask = occupancy >= 0.5
    voxels = np.argwhere(mask)
    radius = np.cbrt(3 * len(voxels) / (4 * np.pi))
    centre = voxels.mean(axis=0) + rng.uniform(-0.35, 0.35, 3) * radius
    axes = np.indices(occupancy.shape) - centre[:, None, None, None]
    distance = np.sqrt((axes**2).sum(axis=0))
    distance += 0.2 * radius * smooth_noise(occupancy.shape, (max(0.3 * radius, 1.0),) * 3, rng)
    edge = np.quantile(distance[mask], part)
    core: NDArray[np.float64] = np.clip(0.5 + (edge - distance) / 2, 0, 1)
    return core


def smooth_noise(
    shape: tuple[int, ...], sigma: tuple[float, ...], rng: Generator
) -> NDArray[np.float64]:
    """Gaussian noise of mean 0 and standard deviation 1, correlated over `sigma` voxels."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    normal: NDArray[np.float64] = noise / noise.std()
    return normal
