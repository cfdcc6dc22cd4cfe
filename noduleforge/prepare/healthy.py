"""Regions of healthy lung, so that a model learns to fill in tissue without a nodule."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from datamodules import tables
from datamodules.batch import HEALTHY, subtype_name
from datamodules.collections.lidc import read_table
from datamodules.hounsfield import LUNG_THRESHOLD_HU, check_hu
from datamodules.io.dicom import read_study
from datamodules.io.masks import read_mask
from datamodules.io.paths import path_from
from datamodules.io.volumes import Volume, equivalent_diameter_mm, write_volume
from datamodules.io.whole_files import written_whole
from datamodules.progress import Progress
from datamodules.ratings import subtype_of
from noduleforge.random_generator import random_generator
from noduleforge.shapes import turned

GAP_MM = 3.0
"""A region is at least so far from every nodule, and from where the image ends."""

BLUR_MM = 2.0
LUNG_SHARE = 0.8
"""At least this share of a region is below `LUNG_THRESHOLD_HU` once vessels are blurred."""

SCALES = (1.0, 0.8, 0.6, 0.4)
"""A shape for which there is no place is made smaller, in this order."""

TRIES = 300
"""Places that are tried with each size."""


def prepare_healthy(
    root: Path, out: Path, csv: str = "nodules.csv", select: str | None = None, seed: int = 0
) -> None:
    """Add regions of healthy lung to a data set of CT nodules, one for each nodule.

    A region has the shape of its nodule, turned by chance and made smaller where it must be, and
    lies elsewhere in the same image. Writes `nodules.csv`, the table of both with the subtype
    `none` for the regions, and `masks/`. A region has no ratings; what else the table says it has
    from its nodule, so that one expression selects both. Images and nodules stay where they are. A
    diffusion model that is trained on it (`data.init_args.root`) can erase nodules.

    Args:
        root: data set of nodules, as LIDCDataModule reads it.
        out: folder to write.
        csv: name of the table in `root`.
        select: an expression that says which rows to use, for example "link_cost < 3"; nodules of
            other rows are kept clear of all the same.
        seed: of shapes and places.

    Raises:
        FileNotFoundError: If the table or a file is missing.
        FileExistsError: If `out` has a table already.
        ValueError: If the table or a file is faulty, or there is no place for any region.
    """
    if (out / "nodules.csv").exists():
        message = f"{out / 'nodules.csv'} exists: choose another folder, or remove it"
        raise FileExistsError(message)
    every = read_table(root / csv, None, None)
    table = read_table(root / csv, None, select)
    whole_table = tables.read_table(root / csv, dtype={"nodule_id": str, "series_uid": str})
    others = whole_table.set_index("nodule_id").drop(columns=table.columns, errors="ignore")
    table = table.join(others, on="nodule_id")
    if "subtype" not in table:
        names = [subtype_name(subtype_of(texture)) for texture in table["texture"]]
        table["subtype"] = pd.Series(names, table.index).replace("", None)
    rng = random_generator(seed)
    rows: list[dict[str, Any]] = []
    images = table.groupby("image", sort=False)
    for name, nodules in Progress(images, desc="images", unit="image"):
        image = read_study(root / str(name))
        if fault := check_hu(image.array):
            message = f"{root / str(name)} {fault}"
            raise ValueError(message)
        masks = {path: read_mask(root / path) for path in every["mask"][every["image"] == name]}
        lung, taken = lung_of(image), np.zeros(image.array.shape, bool)
        for mask in masks.values():
            taken |= grown(mask.array, image.spacing_mm)
        for nodule in nodules.to_dict("records"):
            region = find_region(masks[nodule["mask"]], lung, taken, rng)
            if region is None:
                continue
            taken |= grown(region, image.spacing_mm)
            mask = Volume(region, image.spacing_mm, image.origin_mm, image.direction)
            path = out / f"masks/{nodule['nodule_id']}-healthy.nii.gz"
            write_volume(path, mask, "region of healthy lung, noduleforge")
            rows.append(
                {
                    **{str(name): nodule[name] for name in others},
                    "nodule_id": f"{nodule['nodule_id']}-healthy",
                    "patient_id": nodule["patient_id"],
                    "image": nodule["image"],
                    "mask": path,
                    "subtype": HEALTHY,
                    "diameter_mm": round(equivalent_diameter_mm(region, image.spacing_mm), 2),
                }
            )
    if not rows:
        message = (
            f"No image of {root} has room for healthy lung beside its nodules: give larger ones"
        )
        raise ValueError(message)
    table["mask"] = [root / path for path in table["mask"]]
    whole = pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
    whole["image"] = [path_from(out, root / path) for path in whole["image"]]
    whole["mask"] = [path_from(out, path) for path in whole["mask"]]
    with written_whole(out / "nodules.csv") as temporary:
        whole.to_csv(temporary, index=False)
    without = len(table) - len(rows)
    told = f"{len(rows)} regions of healthy lung, {without} of {len(table)} nodules have no room"
    print(f"{told}: {out / 'nodules.csv'}")


def grown(mask: NDArray[Any], spacing_mm: tuple[float, ...]) -> NDArray[np.bool_]:
    """A mask with all that is within `GAP_MM` of it."""
    if not mask.any():
        return np.zeros(mask.shape, bool)
    near: NDArray[np.bool_] = ndimage.distance_transform_edt(mask == 0, spacing_mm) <= GAP_MM
    return near


def lung_of(image: Volume) -> NDArray[np.bool_]:
    """Where lung is, with the vessels in it."""
    sigma = [BLUR_MM / step for step in image.spacing_mm]
    lung: NDArray[np.bool_] = (
        ndimage.gaussian_filter(image.array.astype(np.float32), sigma) < LUNG_THRESHOLD_HU
    )
    return lung


def find_region(
    nodule: Volume, lung: NDArray[np.bool_], taken: NDArray[np.bool_], rng: Generator
) -> NDArray[np.uint8] | None:
    """A region of a nodule's shape in healthy lung, on the grid of its image.

    Args:
        nodule: its mask.
        lung: where lung is.
        taken: what is too near to a nodule, or to another region.
        rng: where chance comes from.

    Returns:
        None if there is no place.
    """
    for scale in SCALES:
        shape = turned(nodule, scale, nodule.spacing_mm, rng)[0].array
        gap = [int(np.ceil(GAP_MM / step)) for step in nodule.spacing_mm]
        padded = np.pad(shape, [(n, n) for n in gap])
        around = grown(padded, nodule.spacing_mm)
        low = np.argwhere(around).min(0)
        around, padded = (part[_box(low, np.argwhere(around).max(0))] for part in (around, padded))
        room = np.array(lung.shape) - around.shape
        if (room < 0).any():
            continue
        for corner in rng.integers(room + 1, size=(TRIES, len(room))):
            box = tuple(slice(a, a + n) for a, n in zip(corner, around.shape, strict=True))
            if taken[box][padded > 0].any() or lung[box][around].mean() < LUNG_SHARE:
                continue
            region = np.zeros(lung.shape, np.uint8)
            region[box] = padded
            return region
    return None


def _box(low: NDArray[Any], high: NDArray[Any]) -> tuple[slice, ...]:
    return tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))
