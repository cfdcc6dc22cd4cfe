"""Runs side by side: a table with intervals, plots, pictures."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

from callbacks import scores
from callbacks.classification import replicates
from datamodules.files import written_whole
from datamodules.studies import read_volume

REPLICATES = 2000
"""Resamples of a bootstrap."""

ALIKE = ("data", "samples", "evaluations", "provenance")
"""What the figures of one metric must have in common: data fingerprint, number of nodules, network
evaluations, and what the metric depends on, such as its feature network."""

CLASSIFICATION = "classification.csv"
"""What `ClassificationMetrics` writes of every nodule."""

SEGMENTATION = "segmentation.csv"
"""What `SegmentationMetrics` writes of every nodule."""

GROUPS = ("solid", "part-solid", "ground-glass", "over 8 mm", "all")


class Run(NamedTuple):
    """One run of an arm.

    Attributes:
        arm: the folder's name without the seed.
        seed: the number that the folder's name ends with.
        figures: rows of the last test in `generation.csv`.
        nodules: `nodules.csv`, by name.
    """

    arm: str
    seed: str
    folder: Path
    figures: pd.DataFrame
    nodules: pd.DataFrame


def compare(runs: list[Path], reference: str, out: Path = Path("runs/comparison")) -> None:
    """Compare the runs of several arms, paired by seed and nodule.

    A run's folder is named `<arm>-<seed>`; each arm needs the same seeds. Reads what `lightning
    test` wrote there (`generation.csv` and `nodules.csv` of generators, `classification.csv` of
    classifiers, `segmentation.csv` of segmenters), and for pictures what `lightning predict` did
    (`synthetic/`). Writes `comparison.csv`, `comparison.md`, `comparison.png` and, where every arm
    has synthetic nodules, `pictures.png`.

    Intervals are 95 % percentile bootstraps: for figures of single nodules and for those of a
    classifier of patients and seeds alike, for figures of a whole run (FID, variance) of seeds
    alone, of which a few say little.

    Args:
        runs: folders of runs.
        reference: the arm that the others are compared with.
        out: folder for the tables and plots.

    Raises:
        FileNotFoundError: If a run was not tested.
        ValueError: If runs cannot be compared: other data, numbers of nodules, network evaluations
            or feature networks; other seeds; or the reference is not there.
    """
    folders = [Path(run) for run in runs]
    tested = tested_by(folders)
    if tested == CLASSIFICATION:
        write(pd.DataFrame(classifier_rows(folders, reference)), reference, out)
        return
    if tested == SEGMENTATION:
        tables = {
            arm: [nodule_table(folder / SEGMENTATION) for folder in members]
            for arm, members in by_arm(folders, reference).items()
        }
        check_nodules(tables, reference)
        write(all_rows(of_nodules(tables), reference), reference, out)
        return
    arms = group([read(folder) for folder in folders], reference)
    write(all_rows(measured(arms), reference), reference, out)
    first = {arm: members[0] for arm, members in arms.items()}
    if all((run.folder / "synthetic/nodules.csv").is_file() for run in first.values()):
        with written_whole(out / "pictures.png") as path:
            pictures(first).savefig(path, dpi=110)
    else:
        print("No pictures: not every arm has synthetic nodules (lightning predict makes them).")


def tested_by(folders: Sequence[Path]) -> str:
    """The table that these runs have of what they were tested on; `generation.csv` if none.

    Raises:
        FileNotFoundError: If only some have it.
    """
    for name in (CLASSIFICATION, SEGMENTATION):
        lacking = [folder / name for folder in folders if not (folder / name).is_file()]
        if len(lacking) == len(folders):
            continue
        if lacking:
            message = f"{lacking[0]} is missing: run `lightning test` there too."
            raise FileNotFoundError(message)
        return name
    return "generation.csv"


def all_rows(figures: "Mapping[str, Measured]", reference: str) -> pd.DataFrame:
    """A row for each figure and arm; see `table_rows`."""
    rows: list[dict[str, Any]] = []
    for name, values in tqdm(list(figures.items()), desc="figures", unit="figure"):
        rows += table_rows(name, values, reference)
    return pd.DataFrame(rows)


def write(table: pd.DataFrame, reference: str, out: Path) -> None:
    """Write the table and its plot."""
    with written_whole(out / "comparison.csv") as path:
        table.to_csv(path, index=False, float_format="%.6g")
    with written_whole(out / "comparison.md") as path:
        path.write_text(markdown(table, reference))
    with written_whole(out / "comparison.png") as path:
        draw(table, reference).savefig(path, dpi=110)
    print(f"Comparison: {out}")


def read(folder: Path) -> Run:
    """Read what `lightning test` wrote.

    Raises:
        FileNotFoundError: If the run was not tested.
        ValueError: If its folder's name does not end with a seed.
    """
    arm, seed = arm_and_seed(folder)
    for name in ("generation.csv", "nodules.csv"):
        if not (folder / name).is_file():
            message = f"{folder / name} is missing: run `lightning test` with GenerationMetrics."
            raise FileNotFoundError(message)
    figures = pd.read_csv(folder / "generation.csv")
    figures = figures[figures["split"] == "test"]
    if figures.empty:
        message = f"{folder / 'generation.csv'} has no test split: run `lightning test`."
        raise FileNotFoundError(message)
    figures = figures[figures["step"] == figures["step"].iloc[-1]]
    nodules = nodule_table(folder / "nodules.csv")
    return Run(arm, seed, folder, figures, nodules)


def nodule_table(path: Path) -> pd.DataFrame:
    """A table of nodules by name."""
    return pd.read_csv(path, index_col="name").sort_index()


def check_nodules(tables: Mapping[str, Sequence[pd.DataFrame]], reference: str) -> None:
    """Check that all runs were tested on the same nodules.

    Raises:
        ValueError: Naming an arm that was not.
    """
    described = ["patient_id", "subtype", "diameter_mm"]
    first = tables[reference][0]
    for arm, members in tables.items():
        if any(not table[described].equals(first[described]) for table in members):
            message = (
                f"The arms {reference} and {arm} cannot be compared: they were tested on other "
                "nodules. Test both with the same data."
            )
            raise ValueError(message)


def arm_and_seed(folder: Path) -> tuple[str, str]:
    """What a run's folder is called after.

    Raises:
        ValueError: If its name does not end with a seed.
    """
    matched = re.fullmatch(r"(.+)-(\d+)", folder.name)
    if matched is None:
        message = f"The run {folder} has no seed in its name: call its folder <arm>-<seed>."
        raise ValueError(message)
    return matched[1], matched[2]


def group(runs: Sequence[Run], reference: str) -> dict[str, list[Run]]:
    """Runs by arm, each arm's in the order of the seeds, after checking that they go together.

    Raises:
        ValueError: Naming what differs.
    """
    folders = by_arm([run.folder for run in runs], reference)
    of_folder = {run.folder: run for run in runs}
    arms = {arm: [of_folder[folder] for folder in members] for arm, members in folders.items()}
    for run in runs:
        _check_alike(arms[reference][0], run)
    return arms


def by_arm(folders: Sequence[Path], reference: str) -> dict[str, list[Path]]:
    """Folders of runs by arm, the reference first, each arm's in the order of the seeds.

    Raises:
        ValueError: If the reference is not there, or arms have other seeds.
    """
    named = sorted((*arm_and_seed(folder), folder) for folder in folders)
    arms: dict[str, list[Path]] = {}
    seeds: dict[str, list[str]] = {}
    for arm, seed, folder in sorted(named, key=lambda it: (it[0] != reference, it[0], int(it[1]))):
        arms.setdefault(arm, []).append(folder)
        seeds.setdefault(arm, []).append(seed)
    if reference not in arms:
        message = f"There is no arm {reference!r}, only {list(arms)}: name one of them."
        raise ValueError(message)
    for arm, its in seeds.items():
        if its != seeds[reference]:
            message = (
                f"The arm {arm} has the seeds {its}, {reference} has {seeds[reference]}: give each "
                "arm the same."
            )
            raise ValueError(message)
    return arms


def _check_alike(first: Run, other: Run) -> None:
    for (metric, figures), (_, theirs) in zip(
        first.figures.groupby("metric"), other.figures.groupby("metric"), strict=False
    ):
        for name in ALIKE:
            ours, its = figures[name].tolist()[0], theirs[name].tolist()[0]
            if ours != its:
                message = (
                    f"{first.folder} and {other.folder} cannot be compared: their {metric} has the "
                    f"{name} {ours!r} and {its!r}. Test both with the same data and settings."
                )
                raise ValueError(message)
    if set(first.figures["metric"]) != set(
        other.figures["metric"]
    ) or not first.nodules.index.equals(other.nodules.index):
        message = (
            f"{first.folder} and {other.folder} cannot be compared: they were tested with other "
            "metrics or on other nodules. Test both with the same config."
        )
        raise ValueError(message)


def classifier_rows(folders: Sequence[Path], reference: str) -> list[dict[str, Any]]:
    """A row for each figure of each class and each arm; see `table_rows`.

    Raises:
        ValueError: If classifiers were tested on other nodules or for other classes.
    """
    arms = by_arm(folders, reference)
    tables = {folder: pd.read_csv(folder / CLASSIFICATION) for folder in folders}
    first = tables[arms[reference][0]]
    tested = ["characteristic", "name", "patient_id", "label"]
    for folder, table in tables.items():
        if not table[tested].equals(first[tested]):
            message = (
                f"{arms[reference][0]} and {folder} cannot be compared: they were tested on other "
                "nodules or for other classes. Test both with the same data."
            )
            raise ValueError(message)
    found = {
        arm: [replicates(tables[folder]) for folder in tqdm(members, desc=arm, unit="run")]
        for arm, members in arms.items()
    }
    seeds = len(arms[reference])
    chances = np.full(seeds, 1 / seeds)
    drawn = np.random.default_rng(0).multinomial(seeds, chances, scores.REPLICATES) / seeds
    rows = []
    for characteristic, figure in found[reference][0]:
        of_class = first[first["characteristic"] == characteristic]
        values = {
            arm: np.array([run[characteristic, figure][0] for run in runs])
            for arm, runs in found.items()
        }
        resampled = {
            arm: np.stack([run[characteristic, figure][1] for run in runs], 1)
            for arm, runs in found.items()
        }
        for arm in arms:
            row: dict[str, Any] = {"figure": f"{figure}/{characteristic}", "arm": arm}
            row |= {"seeds": seeds, "nodules": len(of_class) or first["name"].nunique()}
            for prefix, these, draws in (
                ("", values[arm], resampled[arm]),
                (
                    "difference_",
                    values[arm] - values[reference],
                    resampled[arm] - resampled[reference],
                ),
            ):
                low, high = scores.interval((drawn * draws).sum(1))
                row |= {f"{prefix}mean": these.mean(), f"{prefix}low": low, f"{prefix}high": high}
            rows.append(row)
    return rows


class Measured(NamedTuple):
    """One figure of all arms.

    Attributes:
        values: for each arm `(nodules, seeds)`, or `(1, seeds)` for figures of whole runs.
        patients: of each nodule; None for figures of whole runs.
    """

    values: dict[str, NDArray[np.float64]]
    patients: NDArray[Any] | None


def measured(arms: Mapping[str, Sequence[Run]]) -> dict[str, Measured]:
    """Every figure, by name and group: of single nodules where there are such, else of runs."""
    first = next(iter(arms.values()))[0]
    found = of_nodules({arm: [run.nodules for run in runs] for arm, runs in arms.items()})
    # floors, counts and what the nodules say already
    known = {"w1", "spread", "count", "patch", "nodule", "features"}
    for metric, figure in zip(first.figures["metric"], first.figures["figure"], strict=True):
        if figure.split("/")[0] in known:
            continue
        values = {
            arm: np.array([[_figure(run, metric, figure) for run in runs]])
            for arm, runs in arms.items()
        }
        found[f"{metric}: {figure}"] = Measured(values, None)
    return found


def of_nodules(tables: Mapping[str, Sequence[pd.DataFrame]]) -> dict[str, Measured]:
    """Every figure of single nodules, by name and group."""
    first = next(iter(tables.values()))[0]
    found: dict[str, Measured] = {}
    described = {"patient_id", "subtype", "diameter_mm"}
    for column in [column for column in first if column not in described]:
        for name in GROUPS:
            chosen = _members(first, name).to_numpy()
            if chosen.any():
                values = {
                    arm: np.stack([table[column].to_numpy()[chosen] for table in members], 1)
                    for arm, members in tables.items()
                }
                patients = first["patient_id"].to_numpy()[chosen]
                found[f"{column}/{name}"] = Measured(values, patients)
    return found


def _members(nodules: pd.DataFrame, name: str) -> "pd.Series[bool]":
    if name == "all":
        return pd.Series(True, nodules.index)
    if name == "over 8 mm":
        return nodules["diameter_mm"] > 8
    return nodules["subtype"] == name


def _figure(run: Run, metric: str, figure: str) -> float:
    rows = run.figures[(run.figures["metric"] == metric) & (run.figures["figure"] == figure)]
    return float(rows["value"].iloc[-1]) if len(rows) else float("nan")


def bootstrap(
    values: NDArray[np.float64], patients: NDArray[Any] | None, seed: int = 0
) -> NDArray[np.float64]:
    """Means of resampled values, `(REPLICATES,)`.

    Args:
        values: `(nodules, seeds)`.
        patients: of each nodule; they and the seeds are resampled with replacement, or the seeds
            alone where there are none.
        seed: of the resampling; the same draws for every arm.
    """
    rng = np.random.default_rng(seed)
    rows = np.arange(len(values))
    of_patient = (
        [rows] if patients is None else list(pd.Series(rows).groupby(patients).indices.values())
    )
    means = np.empty(REPLICATES)
    for k in range(REPLICATES):
        drawn = rng.integers(len(of_patient), size=len(of_patient))
        chosen = np.concatenate([of_patient[i] for i in drawn])
        seeds = rng.integers(values.shape[1], size=values.shape[1])
        means[k] = values[np.ix_(chosen, seeds)].mean()
    return means


def table_rows(name: str, measured: Measured, reference: str) -> list[dict[str, Any]]:
    """One row for each arm: mean and interval, and those of the difference to the reference."""
    rows = []
    theirs = measured.values[reference]
    for arm, values in measured.values.items():
        row: dict[str, Any] = {"figure": name, "arm": arm, "seeds": values.shape[1]}
        row["nodules"] = len(values) if measured.patients is not None else np.nan
        for prefix, these in (("", values), ("difference_", values - theirs)):
            low, high = np.quantile(bootstrap(these, measured.patients), [0.025, 0.975])
            row |= {f"{prefix}mean": these.mean(), f"{prefix}low": low, f"{prefix}high": high}
        rows.append(row)
    return rows


def markdown(table: pd.DataFrame, reference: str) -> str:
    """The table for people: one row for each figure and arm."""
    lines = [
        f"Differences are to **{reference}**, paired by nodule and seed; intervals are 95 %.",
        "",
        "| figure | arm | nodules | seeds | mean (interval) | difference (interval) |",
        "|---|---|---|---|---|---|",
    ]
    for row in table.to_dict("records"):
        mean = f"{row['mean']:.4g} ({row['low']:.4g} to {row['high']:.4g})"
        difference = (
            f"{row['difference_mean']:+.3g} ({row['difference_low']:+.3g} to "
            f"{row['difference_high']:+.3g})"
        )
        number = "" if np.isnan(row["nodules"]) else f"{row['nodules']:.0f}"
        shown = "" if row["arm"] == reference else difference
        cells = (row["figure"], row["arm"], number, row["seeds"], mean, shown)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def draw(table: pd.DataFrame, reference: str) -> Figure:
    """Each figure's difference to the reference, with its interval, in units of the reference."""
    names = list(dict.fromkeys(table["figure"]))
    arms = [arm for arm in dict.fromkeys(table["arm"]) if arm != reference]
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(
            figsize=(7, 0.5 + 0.16 * len(names) * max(len(arms), 1)), layout="constrained"
        )
        axes = figure.subplots()
        for number, arm in enumerate(arms):
            rows = table[table["arm"] == arm].set_index("figure").loc[names]
            base = table[table["arm"] == reference].set_index("figure").loc[names, "mean"]
            scale = 100 / base.abs().where(base != 0)
            middle, low, high = (rows[f"difference_{k}"] * scale for k in ("mean", "low", "high"))
            place = np.arange(len(names)) + 0.8 * (number + 0.5) / len(arms) - 0.4
            axes.errorbar(
                middle, place, xerr=[middle - low, high - middle], fmt="o", ms=3, lw=1, label=arm
            )
        axes.axvline(0, color="0.6", lw=0.8)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(f"difference to {reference}, %")
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def pictures(arms: Mapping[str, Run], rows: int = 6) -> Figure:
    """The same synthetic nodules of every arm, of the first seed, side by side."""
    tables = {
        arm: pd.read_csv(run.folder / "synthetic/nodules.csv", index_col="nodule_id")
        for arm, run in arms.items()
    }
    common = sorted(set.intersection(*(set(table.index) for table in tables.values())))
    # the largest show most
    first = next(iter(tables.values()))
    chosen = list(first.loc[common].sort_values("diameter_mm", ascending=False).index[:rows])
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(1.8 * len(arms), 1.8 * len(chosen) + 0.4), layout="constrained")
        grid = figure.subplots(len(chosen), len(arms), squeeze=False)
        for axes, arm in zip(grid[0], arms, strict=True):
            axes.set_title(arm)
        for line, name in zip(grid, chosen, strict=True):
            display: dict[str, Any] = {}
            for axes, (arm, table) in zip(line, tables.items(), strict=True):
                folder = arms[arm].folder / "synthetic"
                image = read_volume(folder / str(table.loc[name, "image"])).array
                inside = np.argwhere(read_volume(folder / str(table.loc[name, "mask"])).array > 0)
                if image.ndim == 3:
                    image = image[round(inside[:, 0].mean())]
                display = display or {"vmin": image.min(), "vmax": image.max()}
                axes.imshow(image, cmap="gray", **display)
                axes.set_xticks([])
                axes.set_yticks([])
    return figure
