"""How much more often nodules show what was asked than the base's do, for every way of merging.

Usage: python benchmarks/fidelity.py NAME=RUN,RUN,... NAME=RUN,RUN,...

The runs of a name are its seeds, in the same order for each; every run's `fidelity*.csv` were
written by `CharacteristicFidelity` on the same nodules. Of each nodule, seed and combination: the
mean, over the characteristics asked for, of the classifier's probability minus that for the base's
nodule (the run's own, or else the first name's). Intervals are 95 % bootstraps over patients and
seeds. The first name is the reference of the differences. A second table has the mean gain of each
characteristic.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from noduleforge.evaluation.bootstrap import interval, mean_estimate, seed_weights

BASE = "base"


def read(runs: list[Path], bases: list[Path]) -> pd.DataFrame:
    """What the classifier says more than of the base's nodule, in every case."""
    parts = []
    for seed, (run, base) in enumerate(zip(runs, bases, strict=True)):
        table = pd.concat([pd.read_csv(path) for path in sorted(run.glob("fidelity*.csv"))])
        before = table[table["combination"] == BASE]
        if before.empty:
            before = pd.read_csv(base / "fidelity.csv").query("combination == @BASE")
        before = before.set_index(["name", "characteristic"])["probability"]
        table = table[table["combination"] != BASE]
        table = table.join(before.rename("before"), on=["name", "characteristic"])
        parts.append(table.assign(gain=table["probability"] - table["before"], seed=seed))
    return pd.concat(parts)


def asked_gains(table: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """For each merging and combination the gain, nodules in rows, seeds in columns."""
    asked = table[table["asked"] == 1]
    asked = asked.assign(shown=(asked["probability"] > 0.5).astype(float))
    keys = ["merging", "combination", "patient_id", "name", "seed"]
    whole = asked.groupby(keys, sort=False).agg(gain=("gain", "mean"), shown=("shown", "min"))
    return {
        (str(merging), str(combination)): part.pivot_table(
            "gain", ["patient_id", "name"], "seed"
        ).assign(shown=part.groupby(["patient_id", "name"])["shown"].mean())
        for (merging, combination), part in whole.reset_index().groupby(
            ["merging", "combination"], sort=False
        )
    }


def told(table: pd.DataFrame) -> str:
    """Mean and interval."""
    values = table.drop(columns="shown", errors="ignore")
    patients = values.index.get_level_values("patient_id").to_list()
    draws = [mean_estimate(of_seed, patients).draws for of_seed in values.to_numpy().T]
    low, high = interval((seed_weights(len(draws)) * np.stack(draws, 1)).sum(1))
    return f"{values.to_numpy().mean():+.3f} ({low:+.3f} to {high:+.3f})"


def main() -> None:
    """Print a Markdown table."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    words = [word.partition("=")[::2] for word in sys.argv[1:]]
    arms = [(name, [Path(run) for run in runs.split(",")]) for name, runs in words]
    bases = arms[0][1]
    tables: dict[str, pd.DataFrame] = {}
    for name, runs in arms:  # a name may come again with more ways of merging
        table = read(runs, bases[: len(runs)])
        tables[name] = pd.concat([tables[name], table]) if name in tables else table
    found = {
        (f"{name}, {merging}", combination): part
        for name, table in tables.items()
        for (merging, combination), part in asked_gains(table).items()
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
    whole = pd.concat([table.assign(adapters=name) for name, table in tables.items()])
    keys = ["combination", "adapters", "merging"]
    each = whole.pivot_table("gain", keys, "characteristic", sort=False)
    print("\nMean gain of each characteristic, asked for or not:\n")
    print(each.to_string(float_format="{:+.3f}".format))


if __name__ == "__main__":
    main()
