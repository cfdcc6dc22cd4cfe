"""Where nodules could be on radiographs: requests for `configs/cxr/insert.yaml`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator

from datamodules.collections import RadiographCollection
from datamodules.io.masks import read_mask
from datamodules.io.paths import name_of, path_from
from datamodules.io.radiographs import lung_point, read_lungs, read_radiograph
from datamodules.io.volumes import Volume, write_volume
from datamodules.io.whole_files import written_whole
from datamodules.progress import Progress
from datamodules.splits import Split, check_fractions, split_by_patient
from noduleforge.place import GAP_MM, SCALES, SHAPE_MM, read_shapes
from noduleforge.random_generator import random_generator
from noduleforge.shapes import turned

ATTEMPTS = 100
"""How many points are drawn until a nodule lies apart from the others."""


def place_radiographs(
    background_radiographs: RadiographCollection,
    shapes: Path,
    out: Path,
    split: Split | None = None,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    split_seed: int = 0,
    per_radiograph: int = 1,
    copies: int = 1,
    diameter_mm: tuple[float, float] = (6.0, 25.0),
    select: str | None = None,
    seed: int = 0,
) -> None:
    """Draw requests for nodules on radiographs: where in the lungs, of which size and shape.

    Shapes are outlines of real nodules of CT, turned, scaled and projected by chance. Writes
    `requests.csv` and `shapes/`, for `data.init_args.requests` of configs/cxr/insert.yaml.

    Args:
        background_radiographs: whose radiographs without a nodule are used, and whose `lungs`,
            where given, say where the lungs are; otherwise places lie where an upright radiograph
            has its lungs.
        shapes: data set of real nodules, as LIDCCollection reads it, in 3D.
        out: folder to write.
        split: only radiographs and shapes of this split; needed (train) where a model is trained
            with the result. None for all.
        fractions: shares of the patients for train, val and test, as the model's data have them.
        split_seed: of the split, as the model's data have it.
        per_radiograph: nodules on each radiograph.
        copies: of each radiograph, each with nodules of its own.
        diameter_mm: least and greatest diameter of the shapes in CT; sizes are those of real
            nodules in between, times a factor from 0.8 to 1.25.
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
    if min(per_radiograph, copies) < 1 or not 0 < diameter_mm[0] <= diameter_mm[1]:
        message = (
            f"per_radiograph is {per_radiograph}, copies {copies} and diameter_mm "
            f"{list(diameter_mm)}: give at "
            "least 1 nodule, 1 copy and a range above 0"
        )
        raise ValueError(message)
    check_fractions(fractions)
    radiographs = background_radiographs.normal_radiographs()
    library = read_shapes(shapes, select, diameter_mm)
    if split is not None:
        radiographs = background_radiographs.split(radiographs, fractions, split_seed)[split]
        library = split_by_patient(library, split_seed, fractions)[split]
    if radiographs.empty or library.empty:
        message = (
            f"The {split} split has {len(radiographs)} radiographs and {len(library)} shapes: "
            "give more, or other fractions"
        )
        raise ValueError(message)
    rng = random_generator(seed)
    rows: list[dict[str, Any]] = []
    listed = [
        # numbered, as names of requests come to be those of what is made
        ({**radiograph, "number": number}, copy)
        for number, radiograph in enumerate(radiographs.to_dict("records"))
        for copy in range(copies)
    ]
    for radiograph, copy in Progress(listed, desc="radiographs", unit="radiograph"):
        drawn = _requests(
            radiograph,
            copy,
            background_radiographs,
            shapes,
            library,
            out,
            per_radiograph,
            diameter_mm,
            rng,
        )
        rows.extend(drawn)
    if not rows:
        message = "No nodule could be placed: allow smaller ones, or fewer"
        raise ValueError(message)
    with written_whole(out / "requests.csv") as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
    filled = len({(row["study"], row["copy"]) for row in rows})
    where = f"{filled} of {len(listed)} radiographs"
    print(f"{len(rows)} requests on {where}: {out / 'requests.csv'}")


def _requests(
    radiograph: Mapping[Any, Any],
    copy: int,
    background_radiographs: RadiographCollection,
    shapes: Path,
    library: pd.DataFrame,
    out: Path,
    number: int,
    diameter_mm: tuple[float, float],
    rng: Generator,
) -> list[dict[str, Any]]:
    """The requests for one copy of a radiograph; their shapes are written."""
    grid = read_radiograph(radiograph["path"], radiograph["spacing_mm"]).grid
    lungs = None
    if background_radiographs.lungs is not None:
        lungs = read_lungs(background_radiographs.lungs, name_of(radiograph["path"]), grid.shape)
    rows: list[dict[str, Any]] = []
    taken: list[tuple[Any, float]] = []
    for k in range(number):
        chosen = library.iloc[int(rng.integers(len(library)))].to_dict()
        least, greatest = np.clip(SCALES, *np.divide(diameter_mm, chosen["diameter_mm"]))
        scale = float(np.exp(rng.uniform(np.log(least), np.log(greatest))))
        solid, reach_mm = turned(read_mask(shapes / chosen["mask"]), scale, SHAPE_MM, rng)
        for _ in range(ATTEMPTS):
            point = np.array(grid.world(lung_point(grid.shape, lungs, rng)))
            gaps = [np.linalg.norm(point - other) - reach for other, reach in taken]
            if all(gap > reach_mm + GAP_MM for gap in gaps):
                break
        else:
            print(f"{radiograph['name']}: no place for a nodule with a reach of {reach_mm:.1f} mm")
            continue
        taken.append((point, reach_mm))
        name = f"{radiograph['number']:04}-{copy}-{k}"
        outline = Volume(solid.array.max(1), solid.spacing_mm[1:], (0.0, 0.0), np.eye(2))
        file = f"shapes/{name}.nii.gz"
        write_volume(out / file, outline, "outline of a nodule, noduleforge")
        rows.append(
            {
                "name": name,
                "study": path_from(out, radiograph["path"]),
                "copy": copy,
                "patient_id": radiograph["patient_id"],
                "spacing_mm": " ".join(f"{step:.6f}" for step in grid.spacing_mm),
                "x_mm": round(float(point[0]), 3),
                "y_mm": round(float(point[1]), 3),
                "mask": file,
                "seed": int(rng.integers(2**31)),
                "shape_of": chosen["nodule_id"],
                "shape_patient_id": chosen["patient_id"],
            }
        )
    return rows
