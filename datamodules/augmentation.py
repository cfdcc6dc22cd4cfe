"""Augmented copies of nodules: flipped, turned, scaled and shifted by chance."""

from collections.abc import Sequence

import numpy as np
import torch

from datamodules.batch import NoduleBatch
from datamodules.io.volumes import binarize

AUGMENTATION = {"rotation_deg": 10.0, "scale": 0.05, "translation_voxels": 2.0, "margin": 0.35}
"""Ranges (plus or minus) of the augmentation, and the share of the ROI that is cut in addition
on every side so that what turns into the ROI is image, not padding."""


def augment(
    item: NoduleBatch, generator: np.random.Generator, upright: bool = False
) -> NoduleBatch:
    """Flip, turn, scale and shift a nodule by chance, image and mask alike.

    The diameter follows the scale; geometry (`origin_mm`, `direction`) is that of the grid, which
    stays. Ranges: `AUGMENTATION`.

    Args:
        item: one nodule, without batch axis.
        generator: where chance comes from.
        upright: flip left and right alone.

    Returns:
        The same keys, with `image`, `mask`, `underlay` and `attributes["diameter_mm"]` changed.
    """
    import torchio

    shape = item["image"].shape
    n = len(shape) - 1
    spacing = item["spacing_mm"].double().tolist()
    scale = 1 + generator.uniform(-1, 1) * AUGMENTATION["scale"]
    angles = generator.uniform(-1, 1, 3) * AUGMENTATION["rotation_deg"]
    shift = generator.uniform(-1, 1, n) * AUGMENTATION["translation_voxels"] * spacing
    flips = [axis for axis in range(n) if generator.random() < 0.5]
    flips = [axis for axis in flips if axis == n - 1 or not upright]
    flat = n == 2  # torchio sees a radiograph as one slice and turns it in its plane
    affine = torchio.Affine(
        scales=(scale, scale, 1.0 if flat else scale),
        degrees=tuple(angles.tolist()),
        translation=(*shift.tolist(), *[0.0] * (3 - n)),
        default_pad_value="minimum",
        image_interpolation="linear",
        label_interpolation="linear",
    )
    matrix = np.diag([*spacing, *[1.0] * (4 - n)])
    view = (1, *shape[1:], 1) if flat else shape
    subject = torchio.Subject(
        image=torchio.ScalarImage(tensor=item["image"].reshape(view), affine=matrix),
        mask=torchio.LabelMap(tensor=item["mask"].reshape(view), affine=matrix),
    )
    if "underlay" in item:
        under = torchio.ScalarImage(tensor=item["underlay"].reshape(view), affine=matrix)
        subject.add_image(under, "underlay")
    with torch.random.fork_rng(devices=[]):  # torchio draws from the global generator
        subject = affine(subject)
        subject = torchio.Flip(axes=tuple(flips))(subject) if flips else subject
    mask = binarize(subject["mask"].data.float().numpy()).astype(np.float32)
    result = item.copy()
    result["image"] = subject["image"].data.float().reshape(shape).contiguous()
    result["mask"] = torch.from_numpy(mask).reshape(shape)
    if "underlay" in item:
        result["underlay"] = subject["underlay"].data.float().reshape(shape).contiguous()
    result["attributes"] = dict(item["attributes"])
    if "diameter_mm" in result["attributes"]:
        result["attributes"]["diameter_mm"] = item["attributes"]["diameter_mm"] * scale
    return result


def crop(item: NoduleBatch, margin: Sequence[int]) -> NoduleBatch:
    """Take `margin` voxels off every side."""
    shape = item["image"].shape[1:]
    inner = (slice(None), *[slice(m, n - m) for m, n in zip(margin, shape, strict=True)])
    item["image"] = item["image"][inner].contiguous()
    item["mask"] = item["mask"][inner].contiguous()
    if "underlay" in item:
        item["underlay"] = item["underlay"][inner].contiguous()
    offset = torch.tensor(margin, dtype=torch.float64) * item["spacing_mm"].double()
    item["origin_mm"] = item["origin_mm"] + item["direction"] @ offset.flip(0)
    return item
