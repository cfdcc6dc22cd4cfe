"""How much more often nodules show what was asked than the base's do, for every way of merging.

Usage: python benchmarks/fidelity.py NAME=RUN,RUN,... NAME=RUN,RUN,...

The runs of a name are its seeds, in the same order for each; every run's `fidelity.csv` was
written by `CharacteristicFidelity` on the same nodules. Of each nodule, seed and combination: the
mean, over the characteristics asked for, of the classifier's probability minus that for the base's
nodule. Intervals are 95 % bootstraps over patients and seeds. The first name is the reference of
the differences.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from noduleforge.compare import bootstrap

BASE = "base"


def gains(runs: list[Path], bases: list[Path]) -> dict[tuple[str, str], pd.DataFrame]:
    """For each merging and combination the gain, nodules in rows, seeds in columns."""
    parts = []
    for seed, (run, base) in enumerate(zip(runs, bases, strict=True)):
        table = pd.read_csv(run / "fidelity.csv")
        before = pd.read_csv(base / "fidelity.csv")
        before = before[before["combination"] == BASE]
        before = before.set_index(["name", "characteristic"])["probability"]
        asked = table[(table["asked"] == 1) & (table["combination"] != BASE)]
        asked = asked.join(before.rename("before"), on=["name", "characteristic"])
        asked["gain"] = asked["probability"] - asked["before"]
        asked["shown"] = (asked["probability"] > 0.5).astype(float)
        keys = ["merging", "combination", "patient_id", "name"]
        part = asked.groupby(keys).agg(gain=("gain", "mean"), shown=("shown", "min"))
        parts.append(part.reset_index().assign(seed=seed))
    whole = pd.concat(parts)
    return {
        (str(merging), str(combination)): part.pivot_table(
            "gain", ["patient_id", "name"], "seed"
        ).assign(shown=part.groupby(["patient_id", "name"])["shown"].mean())
        for (merging, combination), part in whole.groupby(["merging", "combination"], sort=False)
    }


def told(table: pd.DataFrame) -> str:
    """Mean and interval."""
    values = table.drop(columns="shown", errors="ignore")
    patients = values.index.get_level_values("patient_id").to_numpy()
    low, high = np.quantile(bootstrap(values.to_numpy(), patients), [0.025, 0.975])
    return f"{values.to_numpy().mean():+.3f} ({low:+.3f} to {high:+.3f})"


def main() -> None:
    """Print a Markdown table."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    arms = {}
    for word in sys.argv[1:]:
        name, _, runs = word.partition("=")
        arms[name] = [Path(run) for run in runs.split(",")]
    bases = next(iter(arms.values()))
    found = {
        (f"{name}, {merging}", combination): table
        for name, runs in arms.items()
        for (merging, combination), table in gains(runs, bases[: len(runs)]).items()
    }
    reference = next(iter(found))[0]
    print(
        "| combination | adapters, merging | gain over the base | against the first | all shown |"
    )
    print("|---|---|---|---|---|")
    for combination in dict.fromkeys(combination for _, combination in found):
        theirs = found.get((reference, combination))
        for (way, other), table in found.items():
            if other != combination:
                continue
            difference = ""
            if theirs is not None and way != reference:
                difference = told(table.drop(columns="shown") - theirs.drop(columns="shown"))
            shown = f"{100 * table['shown'].mean():.0f} %"
            print(f"| {combination} | {way} | {told(table)} | {difference} | {shown} |")


if __name__ == "__main__":
    main()
