"""What runs were measured to be, by arm and seed, for `noduleforge compare`."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datamodules.progress import Progress
from datamodules.tables import check_numbers, read_table
from noduleforge.evaluation import classification, detection, segmentation
from noduleforge.evaluation.bootstrap import REPLICATES, Estimate, mean_estimate
from noduleforge.evaluation.groups import GROUPS, LARGE, LARGE_MM

GENERATION = "generation.csv"
"""What `GenerationMetrics` writes of a generator."""

ALIKE = ("data", "samples", "evaluations", "provenance")
"""What the figures of one metric must have in common: data fingerprint, number of nodules, network
evaluations, and what the metric depends on, such as its feature network."""

FIGURE = ("metric", "figure", "value", "split", "step")
"""Further columns of `GENERATION`."""

KNOWN = {"w1", "spread", "count", "patch", "nodule", "features"}
"""Figures of `GENERATION` that are floors or counts, or that the table of nodules has already."""

DESCRIBED = ["patient_id", "subtype", "diameter_mm"]
"""Columns of a table of nodules that are not figures."""


IDENTIFIERS = {"name": str, "patient_id": str}
"""Columns that are text, whatever their digits."""


class Tested(NamedTuple):
    """What one run was tested on, and what came out.

    Attributes:
        cases: one nodule or image a row.
        estimates: every figure, by name.
    """

    cases: pd.DataFrame
    estimates: dict[str, Estimate]


class Measured(NamedTuple):
    """One figure of one arm.

    Attributes:
        values: `(seeds,)`.
        draws: `(REPLICATES, seeds)`, with patients resampled, in all arms the same ones.
        number: of nodules or images that it is of; NaN for figures of whole runs.
    """

    values: NDArray[np.float64]
    draws: NDArray[np.float64]
    number: float


def measured(arms: Mapping[str, Sequence[Path]]) -> dict[str, dict[str, Measured]]:
    """Every figure of every arm, by name and arm.

    Args:
        arms: as from `by_arm`.

    Raises:
        FileNotFoundError: If a run was not tested.
        ValueError: If runs were tested in other ways or on other nodules.
    """
    folders = [folder for members in arms.values() for folder in members]
    kind = tested_by(folders)
    if kind == GENERATION:
        check_generators(folders)
    runs = {folder: READERS[kind](folder) for folder in Progress(folders, desc="runs", unit="run")}
    first = runs[folders[0]]
    for folder, run in runs.items():
        if not run.cases.equals(first.cases) or {*run.estimates} != {*first.estimates}:
            message = (
                f"{folders[0]} and {folder} cannot be compared: they were tested with other "
                "metrics, on other nodules or for other classes. Test both with the same config "
                "and data."
            )
            raise ValueError(message)
    return {
        name: {
            arm: Measured(
                np.array([runs[folder].estimates[name].value for folder in members]),
                np.stack([runs[folder].estimates[name].draws for folder in members], 1),
                estimate.number,
            )
            for arm, members in arms.items()
        }
        for name, estimate in first.estimates.items()
    }


def by_arm(folders: Sequence[Path], reference: str) -> dict[str, list[Path]]:
    """Folders of runs by arm, the reference first, each arm's in the order of the seeds.

    Raises:
        ValueError: If a folder's name does not end with a seed, two have the same one, the
            reference is not there, or arms have other seeds.
    """
    arms: dict[str, dict[int, Path]] = {reference: {}}
    for folder in folders:
        matched = re.fullmatch(r"(.+)-(\d+)", folder.name)
        if matched is None:
            message = f"The run {folder} has no seed in its name: call its folder <arm>-<seed>."
            raise ValueError(message)
        arm, seed = arms.setdefault(matched[1], {}), int(matched[2])
        if seed in arm:
            message = f"{arm[seed]} and {folder} are the same arm and seed: give one of them."
            raise ValueError(message)
        arm[seed] = folder
    seeds = {name: sorted(members) for name, members in arms.items()}
    if not arms[reference]:
        others = [name for name in arms if name != reference]
        message = f"There is no arm {reference!r}, only {others}: name one of them."
        raise ValueError(message)
    for name, its in seeds.items():
        if its != seeds[reference]:
            message = (
                f"The arm {name} has the seeds {its}, {reference} has {seeds[reference]}: give "
                "each arm the same."
            )
            raise ValueError(message)
    return {name: [arms[name][seed] for seed in its] for name, its in seeds.items()}


def tested_by(folders: Sequence[Path]) -> str:
    """The table that these runs have of what they were tested on.

    Raises:
        FileNotFoundError: If a run has none, or another than the rest.
    """
    for kind in READERS:
        lacking = [folder / kind for folder in folders if not (folder / kind).is_file()]
        if len(lacking) == len(folders):
            continue
        if lacking:
            message = f"{lacking[0]} is missing: run `lightning test` there too."
            raise FileNotFoundError(message)
        return kind
    message = f"{folders[0] / GENERATION} is missing: run `lightning test` with GenerationMetrics."
    raise FileNotFoundError(message)


def read_classifier(folder: Path) -> Tested:
    """Every figure of every class."""
    path = folder / classification.TABLE
    table = read_table(path, IDENTIFIERS, classification.COLUMNS)
    check_numbers(table, ("label", "probability", "calibrated"), path)
    found = {
        f"{figure}/{name}": estimate
        for (name, figure), estimate in classification.estimates(table).items()
    }
    return Tested(table[["characteristic", "name", "patient_id", "label"]], found)


def read_segmenter(folder: Path) -> Tested:
    """Every figure of single nodules, by subtype and size."""
    return of_nodules(_by_name(folder / segmentation.TABLE))


def read_detector(folder: Path) -> Tested:
    """Every figure of radiographs and their nodules."""
    table, youden = detection.read_tables(folder)
    return Tested(
        table[["name", "patient_id", "label", "nodules"]], detection.estimates(table, youden)
    )


def read_generator(folder: Path) -> Tested:
    """Figures of single nodules where there are such, else of the run.

    Raises:
        FileNotFoundError: If a table is missing.
    """
    if not (folder / "nodules.csv").is_file():
        message = f"{folder / 'nodules.csv'} is missing: run `lightning test` there again."
        raise FileNotFoundError(message)
    cases, estimates = of_nodules(_by_name(folder / "nodules.csv"))
    for row in last_test(folder).itertuples():
        if str(row.figure).split("/")[0] not in KNOWN:
            value = float(row.value)  # type: ignore[arg-type]
            whole = Estimate(value, np.full(REPLICATES, value), np.nan)
            estimates[f"{row.metric}: {row.figure}"] = whole
    return Tested(cases, estimates)


def last_test(folder: Path) -> pd.DataFrame:
    """The rows of `GENERATION` that were written last on the test split.

    Raises:
        FileNotFoundError: If there are none.
    """
    figures = read_table(folder / GENERATION, required=(*FIGURE, *ALIKE))
    check_numbers(figures, ["value"], folder / GENERATION, finite=False)
    figures = figures[figures["split"] == "test"]
    if figures.empty:
        message = f"{folder / GENERATION} has no test split: run `lightning test`."
        raise FileNotFoundError(message)
    last: pd.DataFrame = figures[figures["step"] == figures["step"].iloc[-1]]
    return last


def check_generators(folders: Sequence[Path]) -> None:
    """Check that every metric was measured in the same way.

    Raises:
        ValueError: Naming what differs.
    """
    first = last_test(folders[0]).groupby("metric")[list(ALIKE)].first().astype(object)
    for folder in folders[1:]:
        other = last_test(folder).groupby("metric")[list(ALIKE)].first().astype(object)
        for metric in first.index.intersection(other.index):
            for name in ALIKE:
                ours, its = first.loc[metric, name], other.loc[metric, name]
                if ours != its and not (pd.isna(ours) and pd.isna(its)):
                    message = (
                        f"{folders[0]} and {folder} cannot be compared: their {metric} has the "
                        f"{name} {ours!r} and {its!r}. Test both with the same data and settings."
                    )
                    raise ValueError(message)


def _by_name(path: Path) -> pd.DataFrame:
    """A table of nodules, sorted by their names."""
    table = read_table(path, IDENTIFIERS, ("name", *DESCRIBED))
    described = ("name", *DESCRIBED[:-1])
    check_numbers(table, [str(name) for name in table if name not in described], path, finite=False)
    return table.set_index("name").sort_index()


def of_nodules(table: pd.DataFrame) -> Tested:
    """Means of every figure of single nodules, by group.

    Args:
        table: one nodule a row, by name: `DESCRIBED` and figures.
    """
    found: dict[str, Estimate] = {}
    for column in [column for column in table if column not in DESCRIBED]:
        for name in GROUPS:
            part = table[_members(table, name)]
            if len(part):
                patients = part["patient_id"].to_list()
                found[f"{column}/{name}"] = mean_estimate(part[column].to_numpy(), patients)
    return Tested(table[DESCRIBED], found)


def _members(nodules: pd.DataFrame, name: str) -> "pd.Series[bool]":
    if name == "all":
        return pd.Series(True, nodules.index)
    if name == LARGE:
        return nodules["diameter_mm"] > LARGE_MM
    return nodules["subtype"] == name


READERS: dict[str, Callable[[Path], Tested]] = {
    classification.TABLE: read_classifier,
    segmentation.TABLE: read_segmenter,
    detection.TABLE: read_detector,
    GENERATION: read_generator,
}
"""What reads a run, by the table that says how it was tested."""
