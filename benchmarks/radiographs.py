"""Whether synthetic nodules on radiographs are told from projected real ones in the same places.

Usage: python benchmarks/radiographs.py CHECKPOINT LIDC_FOLDER CHESTXRAY14_FOLDER [--out FOLDER]

Of the test patients each nodule is projected into one film, seen from a drawn direction; the model
makes one in the same place, film and outline. A pretrained network describes the middle 48 pixels
by the statistics of its stages (the extra `pretrained`), and a linear classifier that judges each
patient by what it learned on others tells both apart. How much brighter nodules are than the film
under them, inside the outline and in the ring around it, says whether they fill it and whether they
have a rim. Intervals are a bootstrap over patients. `radiographs.png` has film, real and synthetic.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import ndimage
from torch import Tensor

from datamodules.collections import ChestXray14Collection
from datamodules.loading import load_batches
from datamodules.progress import Progress
from datamodules.radiographs import SuperimposedDataModule
from lightning_modules.core.features import TimmStatistics
from lightning_modules.core.synthesizer import Synthesizer
from noduleforge.evaluation.bootstrap import interval, mean_estimate
from noduleforge.evaluation.realism import area_told_apart, linear, told_apart

SEEN = 48
"""Side of what is judged, in pixels."""

RING = 3
"""Width of the ring around an outline, in pixels."""

SHOWN = 16
"""Nodules that are drawn."""


def describe(images: Tensor, window: tuple[float, float]) -> Any:
    """Features `(N, D)` of the middle of images."""
    low, high = window
    for axis in (2, 3):
        images = images.narrow(axis, (images.shape[axis] - SEEN) // 2, SEEN)
    features = TimmStatistics()
    with torch.inference_mode():
        parts = [features((part - low) / (high - low)) for part in torch.split(images, 32)]
    return torch.cat(parts).double().numpy()


def filling(added: Tensor, masks: Tensor) -> tuple[Any, Any, Any]:
    """Mean brightening inside, in the ring around, and the share of the outline that is filled.

    Filled is what is at least a quarter as much brighter as the nodule's brightest tenth.
    """
    inside, around, share = [], [], []
    for image, mask in zip(added[:, 0].numpy(), masks[:, 0].numpy() > 0, strict=True):
        ring = ndimage.binary_dilation(mask, iterations=RING) & ~mask
        bright = np.quantile(image[mask], 0.9)
        inside.append(image[mask].mean())
        around.append(image[ring].mean())
        share.append((image[mask] > bright / 4).mean() if bright > 0 else 0.0)
    return np.array(inside), np.array(around), np.array(share)


def draw(columns: list[Tensor], masks: Tensor) -> Figure:
    """Film, real and synthetic nodule in each column, the outline on the film."""
    chosen = np.linspace(0, len(masks) - 1, SHOWN).astype(int)
    figure = Figure(figsize=(SHOWN * 1.3, 4.1), layout="constrained")
    grid = figure.subplots(3, SHOWN, squeeze=False)
    for column, row in enumerate(chosen):
        low, high = columns[0][row].min(), columns[0][row].max() + 20
        for axes, images in zip(grid[:, column], columns, strict=True):
            axes.imshow(images[row, 0], cmap="gray", vmin=low, vmax=high)
        grid[0, column].contour(masks[row, 0], [0.5], colors="tab:orange", linewidths=0.8)
    for axes in grid.flat:
        axes.axis("off")
    return figure


def main() -> None:
    """Print a Markdown table and draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("lidc", type=Path)
    parser.add_argument("films", type=Path)
    parser.add_argument("--select", default="link_cost < 3")
    parser.add_argument("--split-seed", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("runs/radiographs"))
    given = parser.parse_args()
    ours = Synthesizer.load(given.checkpoint)
    data = SuperimposedDataModule(
        given.lidc,
        ChestXray14Collection(given.films),
        select=given.select,
        radiographs_per_nodule=1,
        subtlety="drawn",
        direction="drawn",
        split_seed=given.split_seed,
        roi=ours.roi,
    )
    data.setup("test")
    batches = Progress(load_batches(data.datasets["test"], 16, 0), desc="nodules", unit="batch")
    found: dict[str, list[Any]] = {"film": [], "real": [], "synthetic": [], "mask": [], "who": []}
    for batch in batches:
        found["film"].append(batch["underlay"])
        found["real"].append(batch["image"])
        found["synthetic"].append(ours(ours.with_histograms(batch)).image)
        found["mask"].append(batch["mask"])
        found["who"] += batch["patient_id"]
    film, real, synthetic, masks = (torch.cat(found[name]) for name in [*found][:4])
    patients = found["who"]
    features = np.concatenate([describe(part, ours.window) for part in (real, synthetic)])
    kinds = np.arange(2 * len(patients)) >= len(patients)
    said = told_apart(features, kinds, [*patients, *patients], linear)
    area = area_told_apart(said, kinds, [*patients, *patients])
    low, high = interval(area.draws)
    print(f"told apart: AUC {area.value:.3f} ({low:.3f} to {high:.3f})\n")
    print("| | brighter inside | in the ring | filled |\n|---|---|---|---|")
    for name, images in (("real, projected", real), ("synthetic", synthetic)):
        cells = []
        for values in filling(images - film, masks):
            estimate = mean_estimate(values, patients)
            low, high = interval(estimate.draws)
            cells.append(f"{estimate.value:.2f} ({low:.2f} to {high:.2f})")
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\n{len(patients)} nodules of {len({*patients})} patients")
    given.out.mkdir(parents=True, exist_ok=True)
    draw([film, real, synthetic], masks).savefig(given.out / "radiographs.png", dpi=90)


if __name__ == "__main__":
    main()
