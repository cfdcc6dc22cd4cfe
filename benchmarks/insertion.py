"""What inserting one nodule costs in a small and in a large scan, reading and writing aside.

Prints the ratio of both as the median of interleaved rounds, and how much memory putting the nodule
into the large scan takes beside the scan.

Usage: python benchmarks/insertion.py [--rounds 15]
"""

import argparse
import statistics
import time
import tracemalloc
from pathlib import Path

import numpy as np

from datamodules.batch import Roi
from datamodules.hounsfield import AIR_HU
from datamodules.insertion.edits import Edit, apply
from datamodules.insertion.rois import cut
from datamodules.io.volumes import Volume

SHAPES = {"128 x 128 x 128": (128,) * 3, "512 x 512 x 400": (400, 512, 512)}
SPACING_MM = (1.0, 0.7, 0.7)


def insert(study: Volume) -> None:
    """Cut the ROI of a request in the middle, and put a nodule of 0.4 HU into it."""
    middle = dict(zip("zyx", (n // 2 for n in study.array.shape), strict=True))
    row = {"subtype": "solid", "diameter_mm": 10.0, **middle}
    region = cut(study, row, Path(), Roi(32, 1.0), 3, AIR_HU)
    grid = region.image
    change = (region.mask * np.float32(0.4), grid.spacing_mm, grid.origin_mm, grid.direction)
    apply(study, Edit(row, Volume(*change), region.mask))


def main() -> None:
    """Print both figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    studies = {
        name: Volume(np.full(shape, -850, np.int16), SPACING_MM, (0.0,) * 3, np.eye(3))
        for name, shape in SHAPES.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in studies}
    for _ in range(rounds):
        for name, study in studies.items():
            begin = time.perf_counter()
            insert(study)
            seconds[name].append(time.perf_counter() - begin)
    small, large = seconds.values()
    ratios = [b / a for a, b in zip(small, large, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)
    print(f"{' against '.join(reversed(SHAPES))}: {statistics.median(ratios):.2f} times the time")
    print(f"  quartiles {quartiles[0]:.2f} to {quartiles[2]:.2f}, {rounds} rounds")
    study = studies["512 x 512 x 400"]
    tracemalloc.start()
    insert(study)
    peak = tracemalloc.get_traced_memory()[1]
    print(f"memory beside the scan's {study.array.nbytes / 2**20:.0f} MiB: {peak / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
