"""What the eye sees of a nodule besides its place and outline: figures of its texture and rim."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

LEVELS = 32
"""Grey levels of the co-occurrence matrix."""

QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)

_FIRST, _SECOND = slice(None, -1), slice(1, None)  # neighbours along an axis


def texture_features(
    image: NDArray[np.floating], mask: NDArray[np.bool_], window: tuple[float, float]
) -> dict[str, float]:
    """Figures of a nodule's intensities, of how they change from voxel to voxel, and of its rim.

    First-order statistics, gradients and local variation, Haralick's co-occurrence features
    (Haralick et al. 1973; neighbours along the axes, both inside the mask), and contrast and
    variation of the layers on either side of the outline.

    Args:
        image: `(z, y, x)` or `(y, x)`, in physical units.
        mask: of the same shape; true inside the nodule, at least one voxel.
        window: intensities that the grey levels cover.

    Returns:
        Figures by name, all finite.
    """
    image = image.astype(float)
    inside = image[mask]
    spread = inside.std()
    flat = spread < 1e-6 * (window[1] - window[0])
    features = {
        "mean": inside.mean(),
        "deviation": spread,
        "skewness": 0.0 if flat else stats.skew(inside),
        "kurtosis": 0.0 if flat else stats.kurtosis(inside),
        **{f"quantile {share:g}": np.quantile(inside, share) for share in QUANTILES},
    }
    gradient = np.sqrt(sum(slope**2 for slope in np.gradient(image)))[mask]
    squares = ndimage.uniform_filter(image**2, 3) - ndimage.uniform_filter(image, 3) ** 2
    local = np.sqrt(np.clip(squares, 0, None))[mask]
    laplacian = ndimage.laplace(image)[mask]
    features |= {
        "gradient": gradient.mean(),
        "gradient's deviation": gradient.std(),
        "local deviation": local.mean(),
        "local deviation's deviation": local.std(),
        "laplacian": np.abs(laplacian).mean(),
        "laplacian's deviation": laplacian.std(),
    }
    features |= _cooccurrence(image, mask, window)
    core, grown = ndimage.binary_erosion(mask), ndimage.binary_dilation(mask)
    rim, outside = image[mask & ~core], image[grown & ~mask]
    features |= {
        "core over rim": image[core].mean() - rim.mean() if core.any() else 0.0,
        "rim over outside": rim.mean() - outside.mean() if outside.size else 0.0,
        "rim's deviation": rim.std(),
        "outside's deviation": outside.std() if outside.size else 0.0,
    }
    return {name: float(value) for name, value in features.items()}


def _cooccurrence(
    image: NDArray[np.floating], mask: NDArray[np.bool_], window: tuple[float, float]
) -> dict[str, float]:
    scaled = (image - window[0]) / (window[1] - window[0]) * LEVELS
    levels = np.clip(scaled, 0, LEVELS - 1).astype(int)
    counts = np.zeros((LEVELS, LEVELS))
    for axis in range(image.ndim):
        here, there = (np.moveaxis(levels, axis, 0)[part] for part in (_FIRST, _SECOND))
        both = np.moveaxis(mask, axis, 0)[_FIRST] & np.moveaxis(mask, axis, 0)[_SECOND]
        np.add.at(counts, (here[both], there[both]), 1)
    shares = counts + counts.T
    shares = shares / max(shares.sum(), 1)
    row, column = np.indices(shares.shape)
    mean = (row * shares).sum()
    variance = ((row - mean) ** 2 * shares).sum()
    covariance = ((row - mean) * (column - mean) * shares).sum()
    known = shares[shares > 0]
    return {
        "contrast": ((row - column) ** 2 * shares).sum(),
        "homogeneity": (shares / (1 + np.abs(row - column))).sum(),
        "entropy": -(known * np.log(known)).sum(),
        "energy": (shares**2).sum(),
        "correlation": covariance / variance if variance > 1e-12 else 1.0,
    }
