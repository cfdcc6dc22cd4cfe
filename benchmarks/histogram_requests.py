"""How far a histogram that a request is given lies from that of the real nodule in its place.

Usage: python benchmarks/histogram_requests.py LIDC_FOLDER [--select "link_cost < 3"] [--bins 64]

The training nodules fill the bank; each test nodule is asked for by its place, mask and subtype,
without its histogram. Compared are histograms drawn among all of the subtype and among the nodules
that are most alike, over 20 draws: the Wasserstein-1 distance to the nodule's own histogram, its
mean over the nodules of a group, and the mean difference with a 95 % bootstrap interval over
patients. A generator cannot put right what is asked of it wrongly.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from datamodules.batch import SUBTYPES, NoduleBatch, Roi
from datamodules.collections.lidc import LIDCCollection
from datamodules.dataset import NoduleDataset
from lightning_modules.core import histogram_bank
from lightning_modules.core.histogram import masked_histogram, wasserstein1
from lightning_modules.core.histogram_bank import HistogramBank, joined, wanted_of
from lightning_modules.core.window import IntensityWindow
from noduleforge.evaluation.bootstrap import interval, mean_estimate

WINDOW = IntensityWindow(-1000, 400)
SIZES_MM = {"all": (0, 1e3), "up to 8 mm": (0, 8), "8 to 12 mm": (8, 12), "over 12 mm": (12, 1e3)}
DRAWS = 20


def measured(batches: Iterable[NoduleBatch], bins: int) -> tuple[torch.Tensor, torch.Tensor, list]:
    """Histograms, diameters in mm, and what the bank is told of each batch."""
    histograms, diameters, nodules = [], [], []
    for batch in tqdm(batches, unit="batch"):
        histograms.append(masked_histogram(batch["image"], batch["mask"], bins, WINDOW))
        diameters.append(batch["attributes"]["diameter_mm"])
        nodules.append(wanted_of(batch))
    return torch.cat(histograms), torch.cat(diameters), nodules


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--select", default="link_cost < 3")
    parser.add_argument("--bins", type=int, default=64)
    options = parser.parse_args()
    collection = LIDCCollection(options.root, select=options.select)
    splits = collection.splits(Roi(32), (0.7, 0.1, 0.2), 0)
    train, test = (DataLoader(NoduleDataset(splits[name]), 32) for name in ("train", "test"))
    histograms, _, nodules = measured(train, options.bins)
    bank = HistogramBank(options.bins)
    bank.fill(histograms, joined(nodules))
    own, diameter, asked = measured(test, options.bins)
    # places and outlines are known of a request, what readers said of the nodule is not
    request = joined(asked)._replace(ratings={})
    width = (WINDOW.high - WINDOW.low) / options.bins
    distances = {}
    for way, nearest in (("any of the subtype", 10**6), ("alike", histogram_bank.NEAREST)):
        histogram_bank.NEAREST = nearest
        draws = [wasserstein1(own, bank.draw(request, seed), width) for seed in range(DRAWS)]
        distances[way] = torch.stack(draws).mean(0)
    rows = []
    for code, subtype in enumerate(SUBTYPES):
        for size, (least, most) in SIZES_MM.items():
            chosen = (request.subtypes == code) & (diameter > least) & (diameter <= most)
            if chosen.any():
                row = {"subtype": subtype, "size": size, "nodules": int(chosen.sum())}
                any_of, alike = (values[chosen].double().numpy() for values in distances.values())
                patients = [request.patients[k] for k in chosen.nonzero().flatten().tolist()]
                gain = mean_estimate(alike - any_of, patients)
                low, high = interval(gain.draws)
                row |= {"any of the subtype": any_of.mean(), "alike": alike.mean()}
                rows.append(row | {"difference": gain.value, "low": low, "high": high})
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.0f}".format))


if __name__ == "__main__":
    main()
