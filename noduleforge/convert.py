"""Sets of nodules in the forms that other programs train on: nnU-Net's folders, MONAI's lists."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from datamodules.batch import HEALTHY
from datamodules.collections.lidc import read_table
from datamodules.digest import sha256
from datamodules.hounsfield import check_hu, to_int16
from datamodules.io.dicom import read_study
from datamodules.io.masks import read_mask
from datamodules.io.paths import name_of, real_path
from datamodules.io.volumes import Grid, Volume, write_volume
from datamodules.io.whole_files import new_folder
from datamodules.patients import GENERATOR
from datamodules.progress import Progress

NNUNET_NAME = re.compile(r"Dataset\d{3}_\w+")
"""How nnU-Net's folders are called."""

ENDING = ".nii.gz"

LABEL = {"background": 0, "nodule": 1}


class Case(NamedTuple):
    """One image with its nodules.

    Attributes:
        name: of its files.
        patient_id: whose it is.
        boxes: of each nodule the middle (x, y, z) and the lengths along x, y, z, in mm (LPS).
    """

    name: str
    patient_id: str
    boxes: list[list[float]]


def convert(
    root: Path,
    out: Path,
    csv: str = "nodules.csv",
    select: str | None = None,
    folds: int = 5,
    seed: int = 0,
) -> None:
    """Write a set of CT nodules so that nnU-Net and MONAI's detection train on it as it is.

    Writes nnU-Net's `dataset.json`, `imagesTr`, `labelsTr` (1 in all nodules of an image) and
    `splits_final.json`, and for MONAI `datalist_0.json` and so on, one for each fold: `training`
    and `validation`, each image with the `box` of each nodule (middle and lengths in mm, LPS) and
    its `label`, 0. All of a patient's images are in one fold.

    Args:
        root: folder as LIDCDataModule reads it, real or synthetic, of patches or whole studies.
        out: folder to write, named as nnU-Net wants it, such as Dataset501_Nodules.
        csv: name of the table in `root`.
        select: an expression that says which rows to use.
        folds: number of folds; fewer where there are fewer patients, none for one patient.
        seed: another one gives other folds.

    Raises:
        FileNotFoundError: If there is no such table, or a file is missing.
        FileExistsError: If there is something at `out`.
        ValueError: If the table or a file is faulty, an image is of two patients or not 3D, or
            `out` is not named so.
    """
    if not NNUNET_NAME.fullmatch(out.name):
        message = f"out is {out.name}: nnU-Net wants a name such as Dataset501_Nodules"
        raise ValueError(message)
    if folds < 2:
        message = f"folds is {folds}: give at least 2"
        raise ValueError(message)
    images = group_by_image(read_table(root / csv, None, select), root)
    synthetic = (root / GENERATOR).is_file()
    with new_folder(out) as folder:
        items = Progress(images.items(), "images", unit="image")
        cases = [write_case(root, rows, folder, name, synthetic) for name, rows in items]
        facts = {
            "name": out.name,
            "description": "synthetic nodules, noduleforge" if synthetic else "lung nodules",
            "channel_names": {"0": "CT"},
            "labels": LABEL,
            "numTraining": len(cases),
            "file_ending": ENDING,
        }
        write_json(folder / "dataset.json", facts)
        write_folds(folder, cases, folds, seed)
    patients = len({case.patient_id for case in cases})
    nodules = sum(len(case.boxes) for case in cases)
    print(f"{out}: {len(cases)} images of {patients} patients with {nodules} nodules.")
    if patients < 2:
        print("  Of one patient there are no folds: all images are in training.")


def group_by_image(table: pd.DataFrame, root: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of each image, under the name of its files.

    Raises:
        ValueError: If an image is of two patients, or two images have one name.
    """
    images: dict[str, list[dict[str, Any]]] = {}
    files: dict[str, str] = {}
    for row in table.to_dict("records"):
        path, name = real_path(root / row["image"]), name_of(Path(row["image"]))
        rows = images.setdefault(name, [])
        rows.append({str(column): value for column, value in row.items()})
        # names that file systems may not tell apart are one
        if files.setdefault(name.casefold(), path) != path:
            message = f"{row['image']} has the name of another image of {root}: rename one"
            raise ValueError(message)
        if rows[0]["patient_id"] != row["patient_id"]:
            message = (
                f"image {row['image']} is of both patients {rows[0]['patient_id']} and "
                f"{row['patient_id']}: give each image to one"
            )
            raise ValueError(message)
    return images


def write_case(
    root: Path, rows: Sequence[dict[str, Any]], folder: Path, name: str, synthetic: bool
) -> Case:
    """Write one image and its label map.

    Args:
        root: what the rows' files are relative to.
        rows: of the image's nodules, and of what was erased in it.
        folder: of the data set.
        name: of the files.
        synthetic: whether they are marked as such.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If one is damaged, not 3D or not in HU, or a mask is empty or on another grid.
    """
    image = read_study(root / rows[0]["image"])
    fault = f"has {image.array.ndim} dimensions" if image.array.ndim != 3 else check_hu(image.array)
    if fault:
        message = f"{root / rows[0]['image']} {fault}"
        raise ValueError(message)
    labels = np.zeros(image.array.shape, np.uint8)
    boxes = []
    for row in rows:
        if row.get("subtype") == HEALTHY:
            continue
        mask = read_mask(root / row["mask"])
        if not mask.grid.matches(image.grid) or not mask.array.any():
            message = (
                f"{root / row['mask']} is empty, or lies on another grid than {row['image']}: "
                "give a mask on the image's grid with the nodule in it"
            )
            raise ValueError(message)
        labels[mask.array > 0] = LABEL["nodule"]
        boxes.append(world_box(mask))
    mark = "synthetic nodule, noduleforge" if synthetic else ""
    grid = (image.spacing_mm, image.origin_mm, image.direction)
    pixels = Volume(to_int16(image.array), *grid)
    write_volume(folder / f"imagesTr/{name}_0000{ENDING}", pixels, mark)
    write_volume(folder / f"labelsTr/{name}{ENDING}", Volume(labels, *grid), mark)
    return Case(name, rows[0]["patient_id"], boxes)


def world_box(mask: Volume) -> list[float]:
    """The middle (x, y, z) and the lengths along x, y, z of the box around a mask, in mm (LPS)."""
    inside = np.argwhere(mask.array)
    low, high = inside.min(axis=0), inside.max(axis=0)
    grid: Grid = mask.grid
    middle = grid.world(((low + high) / 2).tolist())
    lengths = np.abs(grid.direction) @ ((high - low + 1) * grid.spacing_mm)[::-1]
    return [round(float(value), 4) for value in (*middle, *lengths)]


def write_folds(folder: Path, cases: Sequence[Case], folds: int, seed: int) -> None:
    """Write nnU-Net's and MONAI's lists of what is trained on and what is held out.

    Args:
        folder: of the data set.
        cases: all.
        folds: number of folds.
        seed: of the folds.
    """
    patients = sorted({case.patient_id for case in cases}, key=lambda who: sha256(str(seed), who))
    number = min(folds, len(patients))
    fold_of = {who: at % number for at, who in enumerate(patients)}
    splits = []
    for fold in range(number):
        held = [fold_of[case.patient_id] == fold and number > 1 for case in cases]
        parts = {
            part: [case for case, out in zip(cases, held, strict=True) if out == (part == "val")]
            for part in ("train", "val")
        }
        splits.append({part: [case.name for case in several] for part, several in parts.items()})
        listed = {
            key: [
                {
                    "image": f"imagesTr/{case.name}_0000{ENDING}",
                    "box": case.boxes,
                    "label": [0] * len(case.boxes),
                }
                for case in parts[part]
            ]
            for key, part in (("training", "train"), ("validation", "val"))
        }
        write_json(folder / f"datalist_{fold}.json", listed)
    if number > 1:
        write_json(folder / "splits_final.json", splits)


def write_json(path: Path, facts: object) -> None:
    """Write a file of a folder that is written whole."""
    path.write_text(json.dumps(facts, indent=1) + "\n")
