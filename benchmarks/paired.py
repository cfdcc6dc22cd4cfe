"""Compare two arms on the same nodules and seeds, with bootstrap intervals.

Usage: python benchmarks/paired.py --arm RUN RUN ... --reference RUN RUN ...

The runs of each arm are its seeds, in the same order in both. Reads each run's `nodules.csv` and
`generation.csv`, which `lightning test` wrote.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

GROUPS = ("solid", "part-solid", "ground-glass", "over 8 mm", "all")
REPLICATES = 10_000


def read(runs: list[Path]) -> pd.DataFrame:
    """Mean of both samples' Wasserstein-1 distance, nodules in rows, seeds in columns."""
    tables = [pd.read_csv(run / "nodules.csv", index_col="name") for run in runs]
    w1 = pd.concat([t[["w1_first", "w1_second"]].mean(axis=1) for t in tables], axis=1)
    return w1.set_axis(range(len(runs)), axis=1).join(tables[0][["subtype", "diameter_mm"]])


def bootstrap(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means of `(nodules, seeds)` values, both resampled with replacement, `(REPLICATES,)`."""
    nodules, seeds = values.shape
    means = np.empty(REPLICATES)
    for k in range(REPLICATES):
        rows = rng.integers(nodules, size=nodules)
        means[k] = values[rows][:, rng.integers(seeds, size=seeds)].mean()
    return means


def main() -> None:
    """Print a Markdown table of means, paired differences and figures of each arm."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arm", type=Path, nargs="+", required=True)
    parser.add_argument("--reference", type=Path, nargs="+", required=True)
    options = parser.parse_args()
    if len(options.arm) != len(options.reference):
        message = (
            f"There are {len(options.arm)} runs of the arm and {len(options.reference)} of the "
            "reference: give one run for each seed in both."
        )
        raise SystemExit(message)
    arm, reference = read(options.arm), read(options.reference)
    if not arm.index.equals(reference.index):
        message = "The arms were tested on other nodules: test both on the same data and split."
        raise SystemExit(message)
    seeds, rng = list(range(len(options.arm))), np.random.default_rng(0)
    print("| W1, HU | nodules | reference | arm | arm - reference (95 % interval) |")
    print("|---|---|---|---|---|")
    for group in GROUPS:
        chosen = arm["subtype"] == group
        if group == "all":
            chosen = pd.Series(True, arm.index)
        elif group == "over 8 mm":
            chosen = arm["diameter_mm"] > 8
        ours, theirs = (t.loc[chosen, seeds].to_numpy() for t in (arm, reference))
        low, high = np.quantile(bootstrap(ours - theirs, rng), [0.025, 0.975])
        difference = f"{(ours - theirs).mean():+.1f} ({low:+.1f} to {high:+.1f})"
        print(f"| {group} | {len(ours)} | {theirs.mean():.1f} | {ours.mean():.1f} | {difference} |")
    for name in ("variance_ratio", "spread"):
        for label, runs in (("reference", options.reference), ("arm", options.arm)):
            listed: dict[str, str] = {}
            for run in runs:
                table = pd.read_csv(run / "generation.csv")
                table = table[(table["split"] == "test") & (table["metric"] == "histogram")]
                for figure, value in table.groupby("figure")["value"].last().items():
                    if str(figure).startswith(name + "/"):
                        group = str(figure).split("/")[1]
                        listed[group] = f"{listed.get(group, '')} {value:.2f}".strip()
            print(f"\n{name}, {label}, by seed: {listed}")


if __name__ == "__main__":
    main()
