"""Whether healthy tissue that a model puts in the place of nodules passes for lung.

Usage: python benchmarks/erasing.py CHECKPOINT HEALTHY_FOLDER [--out FOLDER]

HEALTHY_FOLDER is of `noduleforge prepare healthy`; the model was trained on it. Of the test
patients, whom it has not seen, nodules and as many regions of healthy lung are erased (those whose
middle lies in their image). A pretrained
network describes the middle planes by the statistics of its stages (the extra `pretrained`), and a
linear classifier that judges each patient by what it learned on others tells apart

- real nodules from real healthy lung: what a nodule is worth to it;
- regions of healthy lung that were filled in from the real ones in the same places: 0.5 if what is
  filled in passes for lung;

and says of erased nodules how surely it takes them for nodules. Intervals are a bootstrap over
patients. `erased.png` has nodules before and after.
"""

import argparse
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from datamodules.batch import HEALTHY, NO_NODULE, NoduleBatch
from datamodules.collections import LIDCCollection
from datamodules.collections.lidc import read_table
from datamodules.dataset import NoduleDataset
from datamodules.io.volumes import read_volume
from datamodules.loading import load_batches
from datamodules.progress import Progress
from datamodules.splits import split_by_patient
from lightning_modules.core.features import TimmStatistics
from lightning_modules.core.synthesizer import Synthesizer
from noduleforge.evaluation.bootstrap import interval, mean_estimate
from noduleforge.evaluation.realism import area_told_apart, linear, told_apart

SHOWN = 16
"""Nodules that are drawn."""

SEEN = 16
"""Side, in voxels, of what is judged; beyond it a region may reach over its image's edge."""


def lies_inside(path: Path) -> bool:
    """Whether what is judged lies in the image."""
    mask = read_volume(path).array
    center = np.argwhere(mask).mean(0)
    return bool((np.minimum(center, np.array(mask.shape) - 1 - center) >= SEEN // 2).all())


def read(
    folder: Path, table: pd.DataFrame, ours: Synthesizer, batch_size: int
) -> list[NoduleBatch]:
    """Regions of a table's rows."""
    nodules = LIDCCollection(folder).nodules(table.reset_index(drop=True), ours.roi)
    return list(load_batches(NoduleDataset(nodules), batch_size, 0))


def filled_in(ours: Synthesizer, batches: list[NoduleBatch], what: str) -> torch.Tensor:
    """The images with healthy tissue in the masks."""
    images = []
    for batch in Progress(batches, desc=what, unit="batch"):
        none = torch.full_like(batch["subtype"], NO_NODULE)
        asked = cast(NoduleBatch, {**batch, "subtype": none})
        images.append(ours(ours.with_histograms(asked)).image)
    return torch.cat(images)


def described(ours: Synthesizer, images: torch.Tensor, features: Any) -> NDArray[np.float64]:
    """Features of the middle planes, their mean over the planes."""
    low, high = ours.window
    for axis, size in enumerate(images.shape[2:], 2):
        images = images.narrow(axis, (size - SEEN) // 2, SEEN)
    unit = ((images - low) / (high - low)).clamp(0, 1)
    with torch.inference_mode():
        parts = [features.mean_view(part) for part in torch.split(unit, 16)]
    return torch.cat(parts).double().numpy()


def told(name: str, values: Any, low: float, high: float) -> None:
    """Print a row."""
    print(f"| {name} | {values:.3f} ({low:.3f} to {high:.3f}) |")


def draw(before: torch.Tensor, after: torch.Tensor, masks: torch.Tensor) -> Figure:
    """Nodules before and after, in their middle slice."""
    largest = masks.flatten(1).sum(1).argsort(descending=True)[:: max(1, len(masks) // SHOWN)]
    figure = Figure(figsize=(SHOWN, 2.2), layout="constrained")
    grid = figure.subplots(2, SHOWN, squeeze=False)
    for column, row in enumerate(largest[:SHOWN].tolist()):
        for axes, images in zip(grid[:, column], (before, after), strict=True):
            middle = images[row, 0, images.shape[2] // 2]
            axes.imshow(middle, cmap="gray", vmin=-1000, vmax=400)
    for axes in grid.flat:
        axes.axis("off")
    return figure


def main() -> None:
    """Print a Markdown table and draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/erasing"))
    parser.add_argument("--split-seed", type=int, default=0)
    parser.add_argument("--fractions", type=float, nargs=3, default=(0.7, 0.1, 0.2))
    parser.add_argument("--batch-size", type=int, default=8)
    given = parser.parse_args()
    ours = Synthesizer.load(given.checkpoint)
    table = read_table(given.folder / "nodules.csv", None, None)
    test = split_by_patient(table, given.split_seed, tuple(given.fractions))["test"]
    healthy = test["nodule_id"].str.removesuffix("-healthy")
    regions_of = test[test["subtype"] == HEALTHY]
    inside = [lies_inside(given.folder / mask) for mask in regions_of["mask"]]
    paired = regions_of["nodule_id"][inside].str.removesuffix("-healthy")
    test = test[healthy.isin(paired)]
    is_region = test["subtype"] == HEALTHY
    nodules, regions = (
        read(given.folder, part.sort_values("nodule_id"), ours, given.batch_size)
        for part in (test[~is_region], test[is_region])
    )
    images = {
        "nodule": torch.cat([batch["image"] for batch in nodules]),
        "healthy": torch.cat([batch["image"] for batch in regions]),
        "erased": filled_in(ours, nodules, "nodules erased"),
        "filled": filled_in(ours, regions, "healthy lung filled in"),
    }
    features = TimmStatistics()
    found = {name: described(ours, part, features) for name, part in images.items()}
    patients = [patient for batch in nodules for patient in batch["patient_id"]]
    others = [patient for batch in regions for patient in batch["patient_id"]]
    print("| | |\n|---|---|")
    for name, first, second in (
        ("real nodules told from real healthy lung, AUC", "healthy", "nodule"),
        ("filled-in healthy lung told from real, AUC", "healthy", "filled"),
    ):
        kinds = np.arange(2 * len(others)) >= len(others)
        whose = [*others, *(patients if second == "nodule" else others)]
        said = told_apart(np.concatenate([found[first], found[second]]), kinds, whose, linear)
        area = area_told_apart(said, kinds, whose)
        told(name, area.value, *interval(area.draws))
    shares = taken_for_nodules(found, patients, others)
    for name, taken in shares.items():
        estimate = mean_estimate(taken, others if name in ("healthy", "filled") else patients)
        told(f"taken for a nodule: {name}", estimate.value, *interval(estimate.draws))
    print(f"\n{len(patients)} nodules of {len({*patients})} patients")
    given.out.mkdir(parents=True, exist_ok=True)
    masks = torch.cat([batch["mask"] for batch in nodules])
    draw(images["nodule"], images["erased"], masks).savefig(given.out / "erased.png", dpi=110)


def taken_for_nodules(
    found: dict[str, NDArray[np.float64]], patients: list[str], others: list[str]
) -> dict[str, NDArray[np.float64]]:
    """Of each image whether a judge of real nodules and healthy lung says nodule.

    The judge has not seen the patient.
    """
    known = sorted({*patients, *others})
    fold = dict(zip(known, np.random.default_rng(0).permutation(len(known)) % 5, strict=True))
    of_nodules, of_regions = (np.array([fold[one] for one in who]) for who in (patients, others))
    taken = {name: np.zeros(len(part)) for name, part in found.items()}
    for part in range(5):
        learned = [found["nodule"][of_nodules != part], found["healthy"][of_regions != part]]
        kinds = np.arange(len(learned[0]) + len(learned[1])) < len(learned[0])
        judge = linear(0).fit(np.concatenate(learned), kinds)
        for name in found:
            held = (of_regions if name in ("healthy", "filled") else of_nodules) == part
            taken[name][held] = judge.predict(found[name][held])
    return taken


if __name__ == "__main__":
    main()
