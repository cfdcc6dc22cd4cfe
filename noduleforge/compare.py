"""Runs side by side: a table with intervals, plots, pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from datamodules.io.volumes import read_volume
from datamodules.io.whole_files import written_whole
from datamodules.tables import read_table
from noduleforge.evaluation.bootstrap import interval, seed_weights
from noduleforge.evaluation.runs import GENERATION, Measured, by_arm, measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def compare(runs: list[Path], reference: str, out: Path = Path("runs/comparison")) -> None:
    """Compare the runs of several arms, paired by seed and nodule.

    A run's folder is named `<arm>-<seed>`; each arm needs the same seeds. Reads what `lightning
    test` wrote there (`generation.csv` and `nodules.csv` of generators, `classification.csv` of
    classifiers, `segmentation.csv` of segmenters, `detection.csv` and `candidates.csv` of
    detectors), and for pictures what `lightning predict` did (`synthetic/`). Writes
    `comparison.csv`, `comparison.md`, `comparison.png` and, where every arm has synthetic nodules,
    `pictures.png`.

    Intervals are 95 % percentile bootstraps: of patients and seeds alike, and of seeds alone, of
    which a few say little, for figures of a whole run (FID, variance).

    Args:
        runs: folders of runs.
        reference: the arm that the others are compared with.
        out: folder for the tables and plots.

    Raises:
        FileNotFoundError: If a run was not tested.
        ValueError: If runs cannot be compared: other data, numbers of nodules, network evaluations
            or feature networks; other seeds; or the reference is not there.
    """
    arms = by_arm([Path(run) for run in runs], reference)
    figures = measured(arms)
    table = pd.DataFrame([row for name in figures for row in rows(name, figures[name], reference)])
    with written_whole(out / "comparison.csv") as path:
        table.to_csv(path, index=False, float_format="%.6g")
    with written_whole(out / "comparison.md") as path:
        path.write_text(markdown(table, reference))
    with written_whole(out / "comparison.png") as path:
        draw(table, reference).savefig(path, dpi=110)
    first = {arm: members[0] for arm, members in arms.items()}
    if all((folder / "synthetic/nodules.csv").is_file() for folder in first.values()):
        with written_whole(out / "pictures.png") as path:
            pictures(first).savefig(path, dpi=110)
    elif (first[reference] / GENERATION).is_file():
        print("No pictures: not every arm has synthetic nodules (lightning predict makes them).")
    print(f"Comparison: {out}")


def rows(name: str, arms: Mapping[str, Measured], reference: str) -> list[dict[str, Any]]:
    """One row for each arm: mean and interval, and those of the difference to the reference."""
    found = []
    base = arms[reference]
    for arm, its in arms.items():
        row: dict[str, Any] = {"figure": name, "arm": arm}
        row |= {"seeds": len(its.values), "nodules": its.number}
        for prefix, values, draws in (
            ("", its.values, its.draws),
            ("difference_", its.values - base.values, its.draws - base.draws),
        ):
            low, high = interval((seed_weights(len(values)) * draws).sum(1))
            row |= {f"{prefix}mean": values.mean(), f"{prefix}low": low, f"{prefix}high": high}
        found.append(row)
    return found


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


def draw(table: pd.DataFrame, reference: str) -> "Figure":
    """Each figure's difference to the reference, with its interval, in units of the reference."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

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


def pictures(arms: Mapping[str, Path], lines: int = 6) -> "Figure":
    """The same synthetic nodules of every arm, of the first seed, side by side."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    tables = {
        arm: read_table(folder / "synthetic/nodules.csv", {"nodule_id": str}).set_index("nodule_id")
        for arm, folder in arms.items()
    }
    common = sorted(set.intersection(*(set(table.index) for table in tables.values())))
    # the largest show most
    first = next(iter(tables.values()))
    chosen = list(first.loc[common].sort_values("diameter_mm", ascending=False).index[:lines])
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(1.8 * len(arms), 1.8 * len(chosen) + 0.4), layout="constrained")
        grid = figure.subplots(len(chosen), len(arms), squeeze=False)
        for axes, arm in zip(grid[0], arms, strict=True):
            axes.set_title(arm)
        for line, name in zip(grid, chosen, strict=True):
            display: dict[str, Any] = {}
            for axes, (arm, table) in zip(line, tables.items(), strict=True):
                folder = arms[arm] / "synthetic"
                image = read_volume(folder / str(table.loc[name, "image"])).array
                inside = np.argwhere(read_volume(folder / str(table.loc[name, "mask"])).array > 0)
                if image.ndim == 3:
                    image = image[round(inside[:, 0].mean())]
                display = display or {"vmin": image.min(), "vmax": image.max()}
                axes.imshow(image, cmap="gray", **display)
                axes.set_xticks([])
                axes.set_yticks([])
    return figure
