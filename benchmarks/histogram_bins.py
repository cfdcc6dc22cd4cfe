"""How much of a nodule's intensities a histogram of so many bins holds.

Usage: python benchmarks/histogram_bins.py LIDC_FOLDER [--select "link_cost < 3"]

Each test nodule's voxels are moved, by rank, to its own histogram (`match_histogram`), and compared
with what they were: the Wasserstein-1 distance between the two sets of voxels, which says what the
histogram leaves out (mean and 95 % quantile over nodules), and that between the two histograms,
which is what is left where a histogram is met.
"""

import argparse
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from datamodules.batch import Roi
from datamodules.collections.lidc import LIDCCollection
from datamodules.dataset import NoduleDataset
from lightning_modules.core.histogram import masked_histogram, wasserstein1
from lightning_modules.core.histogram_matching import match_histogram
from lightning_modules.core.window import IntensityWindow

WINDOW = IntensityWindow(-1000, 400)
BINS = (8, 16, 32, 64, 128)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--select", default="link_cost < 3")
    options = parser.parse_args()
    collection = LIDCCollection(options.root, select=options.select)
    nodules = collection.splits(Roi(32), (0.7, 0.1, 0.2), 0)["test"]
    lost: dict[int, list[float]] = {bins: [] for bins in BINS}
    missed: dict[int, list[float]] = {bins: [] for bins in BINS}
    for batch in DataLoader(NoduleDataset(nodules), 32):
        image, mask = batch["image"].clamp(*WINDOW.ends), batch["mask"]
        for bins in BINS:
            wanted = masked_histogram(image, mask, bins, WINDOW)
            moved = match_histogram(image, mask, wanted, WINDOW.ends, batch["index"], 0)
            again = masked_histogram(moved, mask, bins, WINDOW)
            width = (WINDOW.high - WINDOW.low) / bins
            missed[bins] += wasserstein1(again, wanted, width).tolist()
            for before, after, inside in zip(image, moved, mask > 0, strict=True):
                pairs = (before[inside].sort().values, after[inside].sort().values)
                lost[bins].append(float((pairs[0] - pairs[1]).abs().mean()))
    print(f"{len(nodules)} test nodules of {options.root.name}; W1 in HU")
    for bins, values in lost.items():
        found = torch.tensor(values)
        told = f"{bins:4} bins: {found.mean():5.1f}, 95 % quantile {found.quantile(0.95):5.1f}"
        print(f"{told}; between histograms {torch.tensor(missed[bins]).mean():5.1f}")


if __name__ == "__main__":
    main()
