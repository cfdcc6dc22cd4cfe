"""Making a reader study of real and synthetic nodules."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray

from datamodules.batch import Roi
from datamodules.collections import NoduleCollection
from datamodules.io.whole_files import check_free, new_folder
from noduleforge.evaluation.multireader import expected
from noduleforge.random_generator import random_generator
from noduleforge.readers.artefacts import Audit, audit, storage_features
from noduleforge.readers.pairing import all_pairs, balance, draw_pairs
from noduleforge.readers.sources import Source, read_source, region_of_patches
from noduleforge.readers.study import (
    COLUMNS,
    StudySettings,
    encode,
    image_file,
    write_image,
    write_study,
)
from noduleforge.readers.tasks import ATTRIBUTES, TASKS, Task

CT_WINDOW = (-1000.0, 400.0)
"""What synthetic nodules in CT can have, in HU."""

LEVELS = 2**16
"""Intensities that a stored picture can tell apart."""


def new_study(
    real: NoduleCollection | Path,
    synthetic: NoduleCollection | Path,
    out: Path,
    tasks: Sequence[Task] = ("real", "attributes"),
    cases: int = 20,
    practice: int = 2,
    series: Sequence[Path] = (),
    attributes: Sequence[str] | None = None,
    roi: Roi | None = None,
    window: tuple[float, float] | None = None,
    title: str = "Lung nodules",
    readers: int = 2,
    seed: int = 0,
) -> None:
    """Make a study in which readers judge real and synthetic nodules.

    Each real nodule has a synthetic one at its place, or else of its subtype and like it in size
    and surroundings; subtypes and sizes are drawn in turn, of as many patients as there are. All
    are cut, resampled, limited to one window and stored in the same way, and a decision tree tries
    whether storage tells them apart: its area under the ROC curve is printed beside what chance
    gives.

    Writes `study.json`, `images/` (pictures under random names), `cases.csv` (what they show: for
    nobody who reads) and `balance.csv` (how alike both kinds are).

    Args:
        real: data set of real nodules: a folder with `nodules.csv`, or a collection by its class.
        synthetic: data set of synthetic nodules, likewise.
        out: folder to write; it must not exist.
        tasks: `real` (real or synthetic, and how sure), `attributes` (what the nodule looks like),
            `order` (strengths of one nodule, put into order), `pairs` (which of two is real).
        cases: real nodules of each task, and as many synthetic ones; series of `order`.
        practice: cases of each task that come first and do not count.
        series: for `order`, data sets of the same nodules in rising strength.
        attributes: asked by `attributes`, of subtype, subtlety, calcified, irregular and
            inhomogeneous; null for the subtype where it is known, else what is known.
        roi: the region that is shown; null for what synthetic patches hold, but 2 voxels at each
            side.
        window: intensities that pictures cover; null for [-1000, 400] HU in CT, and for all that
            occur on radiographs.
        title: that readers see.
        readers: number of readers that is planned, for what the study can show.
        seed: of what is drawn, and of each reader's order.

    Raises:
        FileExistsError: If `out` exists.
        FileNotFoundError: If data are missing.
        ValueError: If a setting is out of its range, or there are too few nodules.
    """
    _check(out, tasks, cases, practice, series, readers)
    rng = random_generator(seed)
    roi = roi or region_of_patches(synthetic)
    ours, theirs = read_source(real, roi, "real"), read_source(synthetic, roi, "synthetic")
    if ours.nodules.roi_size != theirs.nodules.roi_size:
        message = (
            f"{real} has regions of {ours.nodules.roi_size} voxels and {synthetic} of "
            f"{theirs.nodules.roi_size}: give both in 3D or both in 2D"
        )
        raise ValueError(message)
    drawn = draw_pairs(all_pairs(ours.table, theirs.table), ours.table, cases + practice, rng)
    # practice first, so that what counts does not depend on it
    paired = ours.table.iloc[drawn["real"]], theirs.table.iloc[drawn["synthetic"]]
    asked = _attributes(attributes, *paired) if "attributes" in tasks else ()
    strengths = [read_source(folder, roi, "series") for folder in series]
    images = _Images(ours, theirs, strengths, *paired)
    settings = StudySettings(
        title,
        "ct" if len(ours.nodules.roi_size) == 3 else "radiograph",
        ours.nodules.roi_size,
        roi.spacing_mm,
        _window(window, images),
        tuple(task for task in TASKS if task in tasks),
        asked,
        seed,
    )
    found = _audit(images, settings)
    counted = drawn.iloc[practice:]
    alike = balance(ours.table, theirs.table, counted)
    with new_folder(out, 0o700) as folder:
        rows = [
            row
            for task in settings.tasks
            for row in _cases(task, images, settings, folder, cases, practice, rng)
        ]
        table = pd.DataFrame(rows).reindex(columns=list(COLUMNS)[1:])
        table.insert(0, "case", np.arange(len(table)))
        alike.to_csv(folder / "balance.csv", index=False, float_format="%.4g")
        write_study(folder, settings, table)
    _tell(out, table, alike, counted, found, readers, cases)


def _check(
    out: Path,
    tasks: Sequence[Task],
    cases: int,
    practice: int,
    series: Sequence[Path],
    readers: int,
) -> None:
    check_free(out)
    for name, value, least in (
        ("cases", cases, 2),
        ("practice", practice, 0),
        ("readers", readers, 1),
    ):
        if value < least:
            message = f"{name} is {value}: give at least {least}"
            raise ValueError(message)
    if not tasks:
        message = f"tasks is empty: give some of {', '.join(TASKS)}"
        raise ValueError(message)
    if ("order" in tasks) != (len(series) > 0) or len(series) in (1, 2):
        message = (
            f"series has {len(series)} data set(s) and tasks are {', '.join(tasks)}: give the "
            "task `order` three or more data sets of the same nodules, in rising strength"
        )
        raise ValueError(message)


def _attributes(
    asked: Sequence[str] | None, real: pd.DataFrame, synthetic: pd.DataFrame
) -> tuple[str, ...]:
    """What is known of both kinds, and asked."""
    both = (real, synthetic)
    known = [
        name
        for name in ATTRIBUTES
        if all(
            name in table and (table[name].notna() & (table[name] != "")).any() for table in both
        )
    ]
    if asked is None:
        asked = ["subtype"] if "subtype" in known else known
    if not asked or not {*asked} <= {*known}:
        message = (
            f"attributes is {list(asked)}, and of both real and synthetic nodules is known: "
            f"{', '.join(known) or 'nothing'}; ask for these, or leave out the task"
        )
        raise ValueError(message)
    return tuple(name for name in ATTRIBUTES if name in asked)


class _Images:
    """The drawn nodules' regions, in physical units; read once."""

    def __init__(
        self,
        real: Source,
        synthetic: Source,
        series: Sequence[Source],
        real_rows: pd.DataFrame,
        synthetic_rows: pd.DataFrame,
    ) -> None:
        self.rows = {"real": real_rows, "synthetic": synthetic_rows}
        self.arrays = {
            kind: [source.read(row).image.array for row in rows["row"]]
            for (kind, rows), source in zip(self.rows.items(), (real, synthetic), strict=True)
        }
        self.series = list(series)

        same = [
            name
            for name, *both in zip(real_rows["name"], *self.arrays.values(), strict=True)
            if np.array_equal(*both)
        ]
        if same:
            message = (
                f"{len(same)} nodule(s), such as {same[0]}, are the same in both data sets: give "
                "real ones as --real and synthetic ones as --synthetic"
            )
            raise ValueError(message)

    def every(self) -> list[NDArray[Any]]:
        """All of both kinds, real ones first."""
        return [*self.arrays["real"], *self.arrays["synthetic"]]

    def strengths(self, number: int, rng: Generator) -> list[tuple[list[Any], str, str]]:
        """Nodules in all their strengths, with their names and patients."""
        by_name = [table.set_index("name")["row"] for _, table in self.series]
        names = sorted(set.intersection(*[{*rows.index} for rows in by_name]))
        if len(names) < number:
            message = (
                f"The series have {len(names)} nodule(s) of one name in all data sets, fewer than "
                f"the {number} that are asked for: ask for fewer --cases or --practice"
            )
            raise ValueError(message)
        patients = self.series[0].table.set_index("name")["patient_id"]
        chosen = [names[k] for k in rng.permutation(len(names))[:number]]
        found = []
        for name in chosen:
            arrays = [
                source.read(int(rows[name])).image.array
                for source, rows in zip(self.series, by_name, strict=True)
            ]
            if len({array.tobytes() for array in arrays}) < len(arrays):
                message = (
                    f"The nodule {name} is the same in two of the series: give data sets of "
                    "different strengths, each once"
                )
                raise ValueError(message)
            found.append((arrays, name, str(patients[name])))
        return found


def _window(given: tuple[float, float] | None, images: _Images) -> tuple[float, float]:
    every = images.every()
    if given is None and every[0].ndim == 3:
        return CT_WINDOW
    low, high = given or (
        float(np.floor(min(array.min() for array in every))),
        float(np.ceil(max(array.max() for array in every))),
    )
    if not 0 < high - low < LEVELS:
        message = (
            f"window is [{low:g}, {high:g}]: give two intensities, the lower one first, less than "
            f"{LEVELS} apart"
        )
        raise ValueError(message)
    return low, high


def _audit(images: _Images, settings: StudySettings) -> Audit:
    every = images.every()
    stored = [encode(array, settings.window) for array in every]
    features = np.array([storage_features(one, settings.shape) for one in stored])
    half = len(every) // 2
    return audit(features, np.arange(len(every)) >= half, np.arange(len(every)) % half)


def _cases(
    task: Task,
    images: _Images,
    settings: StudySettings,
    out: Path,
    cases: int,
    practice: int,
    rng: Generator,
) -> list[dict[str, Any]]:
    """Store a task's pictures, and give its rows of the table."""
    if task == "order":
        return [
            {
                **{"task": task, "practice": int(k < practice), "kind": "synthetic", "twin": k},
                "images": " ".join(write_image(out, one, settings.window) for one in arrays),
                **{"nodules": name, "patients": patient},
            }
            for k, (arrays, name, patient) in enumerate(images.strengths(cases + practice, rng))
        ]
    rows = []
    for k in range(cases + practice):
        sides = [images.rows[kind].iloc[k] for kind in ("real", "synthetic")]
        names = [
            write_image(out, images.arrays[kind][k], settings.window)
            for kind in ("real", "synthetic")
        ]
        shared: dict[str, Any] = {"task": task, "practice": int(k < practice), "twin": k}
        known = [
            {
                "nodules": side["name"],
                "patients": side["patient_id"],
                "diameter_mm": side["diameter_mm"],
                **{name: side[name] for name in ATTRIBUTES if name in side},
            }
            for side in sides
        ]
        if task == "pairs":
            both = {name: f"{known[0][name]} {known[1][name]}" for name in ("nodules", "patients")}
            rows.append({**shared, "kind": "", **known[0], **both, "images": " ".join(names)})
            continue
        for kind, name, facts in zip(("real", "synthetic"), names, known, strict=True):
            # of practice pairs either one, by chance
            if k < practice and (kind == "real") == bool(k % 2):
                image_file(out, name).unlink()
                continue
            rows.append({**shared, "kind": kind, **facts, "images": name})
    return rows


def _tell(
    out: Path,
    table: pd.DataFrame,
    alike: pd.DataFrame,
    drawn: pd.DataFrame,
    found: Audit,
    readers: int,
    cases: int,
) -> None:
    counted = table[table["practice"] == 0]
    numbers = ", ".join(f"{len(part)} {task}" for task, part in counted.groupby("task", sort=False))
    print(f"{out}: {numbers}, and {len(table) - len(counted)} for practice")
    print(alike.to_string(index=False, float_format="{:.4g}".format))
    print(f"{int(drawn['same_place'].sum())} of {len(drawn)} pairs lie in the same place.")
    print(
        f"By storage alone a decision tree tells them apart with an area of {found.auc:.2f} under "
        f"the ROC curve; by chance it stays below {found.chance:.2f}."
    )
    if found.told_apart:
        print(
            f"{out}: how pictures are stored, or the noise at their rim, tells real from "
            "synthetic ones. Were both resampled as often, from the same spacing and units, and do "
            "they lie in like lung? Mend the data sets before anybody reads: synthetic nodules in "
            "the places of the real ones are best.",
            file=sys.stderr,
        )
    print(expected(readers, cases))
    print(f"Next: noduleforge readers serve {out} --readers {readers}")
