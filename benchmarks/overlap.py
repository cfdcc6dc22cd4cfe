"""Overlap and size of adapters' updates, layer by layer, read from their folders.

Usage: python benchmarks/overlap.py NAME=ADAPTERS,ADAPTERS,... NAME=...

Each ADAPTERS is a folder that holds one folder for each adapter (a run's `adapters`); those of a
name are its seeds. Prints, as means over pairs, seeds and layers, the normalized overlap of input
and output subspaces, the raw overlap of eq. 4, and the Frobenius norm of the updates; then each
layer's overlap of input subspaces.
"""

import json
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import load_file

from lightning_modules.core.adapters import PREFIX, LowRank
from lightning_modules.core.composition import normalized_overlap, overlap, squared_norm


def read(folder: Path) -> list[LowRank]:
    """The updates of an adapter, layer by layer."""
    weights = load_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    sites = sorted({name.split(".lora_")[0] for name in weights})
    factor = config["lora_alpha"] / config["r"]
    return [
        LowRank(site, weights[f"{site}.lora_A.weight"], weights[f"{site}.lora_B.weight"], factor)
        for site in sites
    ]


def main() -> None:
    """Print both tables as Markdown."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    rows = []
    for word in sys.argv[1:]:
        name, _, folders = word.partition("=")
        for seed, folder in enumerate(folders.split(",")):
            adapters = [
                read(path.parent) for path in sorted(Path(folder).glob("*/adapter_config.json"))
            ]
            for one, other in combinations(adapters, 2):
                for first, second in zip(one, other, strict=True):
                    norms = [squared_norm(x).sqrt().item() for x in (first, second)]
                    rows.append(
                        {
                            "adapters": name,
                            "seed": seed,
                            "layer": first.site.removeprefix(PREFIX),
                            "input": normalized_overlap(first, second, "input").item(),
                            "output": normalized_overlap(first, second, "output").item(),
                            "eq. 4": overlap(first, second, "input").item(),
                            "norm": np.mean(norms),
                        }
                    )
    table = pd.DataFrame(rows)
    figures = ["input", "output", "eq. 4", "norm"]
    for keys in (["adapters"], ["layer", "adapters"]):
        means = table.groupby(keys, sort=False)[figures].mean()
        if keys == ["adapters"]:
            of_seed = table.groupby(["adapters", "seed"], sort=False)[figures].mean()
            for figure in figures:
                means[f"{figure}, by seed"] = [
                    " ".join(f"{x:.3g}" for x in of_seed.loc[name, figure]) for name in means.index
                ]
        else:
            means = means["input"].unstack("adapters")
        print(means.to_string(float_format="{:.3g}".format), "\n")


if __name__ == "__main__":
    main()
