"""Where nodules could be: requests for `configs/ct/insert.yaml`, drawn within a policy."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from datamodules.batch import SUBTYPES, subtype_code, subtype_name
from datamodules.collections.lidc import read_table
from datamodules.hounsfield import AIR_HU, LUNG_THRESHOLD_HU, check_hu
from datamodules.io.dicom import read_study
from datamodules.io.masks import read_mask
from datamodules.io.paths import name_of, path_from, real_path
from datamodules.io.volumes import (
    Volume,
    equivalent_diameter_mm,
    resample,
    write_volume,
)
from datamodules.io.whole_files import written_whole
from datamodules.progress import Progress
from datamodules.ratings import subtype_of
from noduleforge.known_nodules import nodules_there
from noduleforge.random_generator import random_generator
from noduleforge.shapes import turned

GRID_MM = 2.5
"""Spacing on which lungs are found and places drawn."""

AIRWAY_HU = -960
"""Wide regions below this are airways or bullae."""

SMALLEST_LUNG_ML = 200
LUNG_ENDINGS = (".nii.gz", ".mha", ".nii", ".nrrd", ".mhd")
GAP_MM = 3.0
"""Two nodules are at least so far apart."""

SCALES = (0.8, 1.25)
"""Shapes are made smaller or larger by a factor of this range."""

SHAPE_MM = (1.0,) * 3
"""Spacing of the shapes that are written."""


class Lungs(NamedTuple):
    """Where nodules may lie in a study, on a grid of `GRID_MM`.

    Attributes:
        grid: the grid.
        depth_mm: `(z, y, x)` distance from the edge of the lungs, 0 outside.
        hilum_mm: `(z, y, x)` distance from the nearer hilum.
        airway: `(z, y, x)` where the airways are wide.
    """

    grid: Volume
    depth_mm: NDArray[np.float64]
    hilum_mm: NDArray[np.float64]
    airway: NDArray[np.bool_]


def place(
    studies: list[Path],
    shapes: Path,
    out: Path,
    per_study: int = 2,
    subtypes: dict[str, float] | None = None,
    diameter_mm: tuple[float, float] = (4.0, 20.0),
    wall_mm: float = 0.0,
    hilum_mm: float = 0.0,
    lungs: Path | None = None,
    avoid: Path | None = None,
    select: str | None = None,
    seed: int = 0,
) -> None:
    """Draw requests for nodules: where in the lungs, of which subtype, size and shape.

    Shapes are those of real nodules, turned and scaled by chance. Writes `requests.csv` and
    `shapes/`, for `data.init_args.requests` of configs/ct/insert.yaml.

    Args:
        studies: CT volumes (image files, or DICOM series, each its folder or one of its files).
        shapes: data set of real nodules, as LIDCCollection reads it. Give that of training patients
            alone where the result is trained with.
        out: folder to write.
        per_study: nodules in each study.
        subtypes: how often each subtype is wanted, such as `{solid: 2, ground-glass: 1}`; by
            default as often as in `shapes`.
        diameter_mm: least and greatest diameter; sizes are those of real nodules in between, times
            a factor of `SCALES`.
        wall_mm: least distance between nodule and the edge of the lung.
        hilum_mm: least distance of a nodule's centre from the hilum, which is estimated: the part
            of each lung that is next to the midline, at middle height.
        lungs: folder with lung masks named as the studies (of `1.2.3.mha` it is `1.2.3.nii.gz` or
            `1.2.3.mha`), on their grids; without it lungs are found by threshold.
        avoid: table of nodules that are there already: `study` (its path, from here or from the
            table's folder, in whatever spelling), `x_mm`, `y_mm`, `z_mm` and `diameter_mm`. Rows
            of none of `studies` are reported.
        select: an expression over the table of `shapes`.
        seed: of everything that is drawn.

    Raises:
        FileNotFoundError: If a file is missing.
        FileExistsError: If `out` has requests already.
        ValueError: If a number is out of range, no shape fits, or no request could be placed.
    """
    if (out / "requests.csv").exists():
        message = f"{out / 'requests.csv'} exists: choose another folder, or remove it"
        raise FileExistsError(message)
    if per_study < 1 or not 0 < diameter_mm[0] <= diameter_mm[1] or not (wall_mm >= 0 <= hilum_mm):
        message = (
            f"per_study is {per_study}, diameter_mm {list(diameter_mm)}, wall_mm {wall_mm} and "
            f"hilum_mm {hilum_mm}: give at least 1 nodule, a range above 0 and distances from 0"
        )
        raise ValueError(message)
    if not studies:
        message = "studies is empty: give CT volumes, before the options"
        raise ValueError(message)
    library = read_shapes(shapes, select, diameter_mm)
    shares = wanted_shares(library, subtypes)
    if lungs is not None:
        check_lung_files(lungs, studies)
    there = nodules_there(avoid, studies)
    rng = random_generator(seed)
    rows: list[dict[str, Any]] = []
    for number, path in enumerate(Progress(studies, desc="studies", unit="study")):
        study = read_study(path)
        if fault := check_hu(study.array):
            message = f"{path} {fault}"
            raise ValueError(message)
        found = find_lungs(study, None if lungs is None else lung_file(lungs, path))
        taken = there[real_path(path)]
        for k in range(per_study):
            subtype = str(rng.choice(list(shares), p=list(shares.values())))
            candidates = library[library["name_of_subtype"] == subtype]
            chosen = candidates.iloc[int(rng.integers(len(candidates)))].to_dict()
            least, greatest = np.clip(SCALES, *np.divide(diameter_mm, chosen["diameter_mm"]))
            scale = float(np.exp(rng.uniform(np.log(least), np.log(greatest))))
            shape, radius_mm = turned(read_mask(shapes / chosen["mask"]), scale, SHAPE_MM, rng)
            point = draw_point(found, radius_mm, wall_mm, hilum_mm, taken, rng)
            if point is None:
                print(f"{path}: no place for a nodule with a reach of {radius_mm:.1f} mm")
                continue
            taken.append((np.array(point), radius_mm))
            name = f"{number:03}-{k}"
            write_volume(out / f"shapes/{name}.nii.gz", shape, "shape of a nodule, noduleforge")
            rows.append(
                {
                    "name": name,
                    "study": path_from(out, path),
                    **{f"{axis}_mm": round(at, 3) for axis, at in zip("xyz", point, strict=True)},
                    "mask": f"shapes/{name}.nii.gz",
                    "diameter_mm": round(scale * chosen["diameter_mm"], 2),
                    "subtype": subtype,
                    "seed": int(rng.integers(2**31)),
                    "shape_of": chosen["nodule_id"],
                    "shape_patient_id": chosen["patient_id"],
                }
            )
    if not rows:
        message = "No nodule could be placed: allow smaller ones, or smaller distances"
        raise ValueError(message)
    with written_whole(out / "requests.csv") as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
    filled = len({row["study"] for row in rows})
    print(f"{len(rows)} requests in {filled} of {len(studies)} studies: {out / 'requests.csv'}")


def read_shapes(root: Path, select: str | None, diameter_mm: tuple[float, float]) -> pd.DataFrame:
    """The nodules of a data set whose size is in the range, with `diameter_mm`.

    Raises:
        ValueError: If there is none.
    """
    table = read_table(root / "nodules.csv", None, select)
    sizes = []
    for name in Progress(table["mask"], desc="shapes", unit="shape"):
        mask = read_mask(root / name)
        solid = mask.array.ndim == 3
        sizes.append(equivalent_diameter_mm(mask.array, mask.spacing_mm) if solid else np.nan)
    codes = [
        subtype_code(row["subtype"])
        if isinstance(row.get("subtype"), str)
        else subtype_of(float(row.get("texture", np.nan)))
        for row in table.to_dict("records")
    ]
    table = table.assign(diameter_mm=sizes, name_of_subtype=[*map(subtype_name, codes)])
    nodules = table["name_of_subtype"].isin(SUBTYPES)
    table = table[table["diameter_mm"].between(*diameter_mm) & nodules]
    if table.empty:
        low, high = diameter_mm
        message = f"{root} has no nodule of known subtype from {low} to {high} mm: widen the range"
        raise ValueError(message)
    return table


def wanted_shares(library: pd.DataFrame, subtypes: dict[str, float] | None) -> dict[str, float]:
    """How often each subtype is drawn; the shares sum to 1.

    Raises:
        ValueError: If a subtype is unknown or has no shape.
    """
    there = library["name_of_subtype"].value_counts()
    wanted = {str(k): float(v) for k, v in there.items()} if subtypes is None else subtypes
    for name, share in wanted.items():
        if name not in there or share < 0:
            message = (
                f"subtypes has {name}: {share}, but shapes has only {list(there.index)}: give "
                "these shares from 0"
            )
            raise ValueError(message)
    total = sum(wanted.values())
    if not 0 < total < np.inf:
        message = f"subtypes is {wanted}: give one share above 0 at least"
        raise ValueError(message)
    return {name: share / total for name, share in wanted.items()}


def lung_file(folder: Path, study: Path) -> Path:
    """The lung mask of a study.

    Raises:
        FileNotFoundError: If there is none.
    """
    name = name_of(study)
    for suffix in LUNG_ENDINGS:
        if (path := folder / f"{name}{suffix}").is_file():
            return path
    message = (
        f"{folder} has no {name}.nii.gz, nor with another ending of {', '.join(LUNG_ENDINGS[1:])}: "
        "give each study its lung mask"
    )
    raise FileNotFoundError(message)


def check_lung_files(folder: Path, studies: list[Path]) -> None:
    """Refuse studies of the same name, which would get the same mask of the lungs.

    Raises:
        FileNotFoundError: If a study has no mask.
        ValueError: If two studies have the same.
    """
    masks: dict[Path, Path] = {}
    for study in studies:
        other = masks.setdefault(lung_file(folder, study), study)
        if real_path(other) != real_path(study):
            message = (
                f"{other} and {study} would both get the lung mask {lung_file(folder, study)}: "
                "place them one after the other, each with a folder of its own for `lungs`"
            )
            raise ValueError(message)


def find_lungs(study: Volume, mask: Path | None) -> Lungs:
    """Where the lungs of a study are.

    Args:
        study: the CT, in HU.
        mask: file of its lungs; found by threshold without it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If none are found, or the mask lies on another grid.
    """
    length = np.array(study.array.shape) * study.spacing_mm
    size = np.maximum(length // GRID_MM, 1).astype(int).tolist()
    center = study.grid.world([(n - 1) / 2 for n in study.array.shape])
    spacing = (GRID_MM,) * 3
    coarse = resample(study, center, size, spacing, fill=AIR_HU)
    if mask is None:
        inside = lungs_by_threshold(coarse.array)
    else:
        given = read_mask(mask)
        if not given.grid.matches(study.grid):
            message = (
                f"{mask} lies on another grid than its study (voxels {given.grid.shape} and "
                f"{study.grid.shape}, origin {given.origin_mm} and {study.origin_mm} mm): give the "
                "study's own lung mask, on its grid"
            )
            raise ValueError(message)
        binary = Volume(
            (given.array != 0).astype(np.float32),
            given.spacing_mm,
            given.origin_mm,
            given.direction,
        )
        inside = resample(binary, center, size, spacing, fill=0).array >= 0.5
    if not inside.any():
        message = "No lung was found: give lung masks with `lungs`"
        raise ValueError(message)
    depth = np.asarray(ndimage.distance_transform_edt(inside, spacing))
    airway = ndimage.binary_opening(coarse.array < AIRWAY_HU, iterations=2)
    return Lungs(coarse, depth, distance_to_hila(inside), airway)


def lungs_by_threshold(hu: NDArray[Any]) -> NDArray[np.bool_]:
    """Air within the body, large enough to be a lung, with the vessels in it."""
    air = np.asarray(hu) < LUNG_THRESHOLD_HU
    parts = ndimage.label(air)[0]
    # air around the patient touches the sides of the slices
    sides = (parts[:, 0], parts[:, -1], parts[:, :, 0], parts[:, :, -1])
    outer = np.unique(np.concatenate([side.ravel() for side in sides]))
    sizes = np.bincount(parts.ravel())
    large = sizes >= SMALLEST_LUNG_ML * 1000 / GRID_MM**3
    large[outer] = large[0] = False
    closed: NDArray[np.bool_] = ndimage.binary_closing(large[parts], iterations=3)
    return closed


def distance_to_hila(lungs: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance in mm from the estimated hilum of the nearer lung, of every voxel."""
    z, y, x = np.nonzero(lungs)
    midline = np.median(x)
    low, high = np.quantile(z, [0.35, 0.65])
    nearest = np.full(lungs.shape, np.inf)
    for side in (x < midline, x >= midline):
        middle = side & (z >= low) & (z <= high)
        if not middle.any():
            continue
        gap = np.abs(x[middle] - midline)
        near = gap <= np.quantile(gap, 0.05)
        hilum = [float(axis[middle][near].mean()) for axis in (z, y, x)]
        grid = np.indices(lungs.shape, dtype=np.float64)
        offset = [axis - place for axis, place in zip(grid, hilum, strict=True)]
        nearest = np.minimum(nearest, GRID_MM * np.sqrt(sum(part**2 for part in offset)))
    return nearest


def draw_point(
    lungs: Lungs,
    radius_mm: float,
    wall_mm: float,
    hilum_mm: float,
    taken: list[tuple[NDArray[Any], float]],
    rng: Generator,
) -> tuple[float, ...] | None:
    """World position of a nodule's centre, anywhere that is allowed; None if there is none."""
    allowed = (lungs.depth_mm > radius_mm + wall_mm) & (lungs.hilum_mm >= hilum_mm)
    allowed &= ~lungs.airway
    places = np.argwhere(allowed)
    grid = lungs.grid.grid
    for number in rng.permutation(len(places)):
        point = grid.world(places[number].tolist())
        distances = [float(np.linalg.norm(point - other)) - reach for other, reach in taken]
        if all(distance > radius_mm + GAP_MM for distance in distances):
            return point
    return None
