"""Are synthetic nodules copies of training nodules? The nearest ones, in voxels and in features."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from callbacks.features import FeatureExtractor
from callbacks.scores import interval, patient_weights
from datamodules.base import SPLITS, NoduleDataModule, NoduleDataset, hold_nothing_out
from datamodules.io.whole_files import written_whole
from datamodules.real_and_synthetic import GENERATOR, check_generator

CONVOLVE = {2: F.conv2d, 3: F.conv3d}

SPACES = {"voxels": "root mean square difference", "features": "Euclidean distance"}
QUANTILE = 0.05
"""A synthetic nodule is near if so few held-out real ones are as near to a training nodule."""

BATCH = 64
"""How many images are worked on at once."""


class Nodules(NamedTuple):
    """Nodules to be compared.

    Attributes:
        images: `(N, *spatial)` in physical units, an odd number of voxels along each axis, so that
            they can be flipped about the nodule's centre.
        masks: `(N, *spatial)`, 1 inside the nodule.
        names: identifiers.
        patients: whose image each is in.
    """

    images: Tensor
    masks: Tensor
    names: list[str]
    patients: list[str]


class Found(NamedTuple):
    """The training nodule that is nearest.

    Attributes:
        distance: in the units of the space.
        number: which training nodule.
        flips: the axes along which the query is flipped.
        shift: voxels by which the query, flipped, is then shifted along each axis; empty for
            features.
    """

    distance: float
    number: int
    flips: tuple[int, ...]
    shift: tuple[int, ...]


def memorization(
    real: NoduleDataModule,
    synthetic: NoduleDataModule,
    out: Path,
    features: FeatureExtractor | None = None,
    window: tuple[float, float] = (-1000.0, 400.0),
    shift_voxels: int = 2,
    pairs: int = 8,
) -> None:
    """Find the training nodule that is nearest to each synthetic nodule.

    Held-out real nodules, those of the test split, say how near training nodules are to nodules
    that no generator has copied. A synthetic nodule counts as near if only 5 % of the held-out ones
    are as near. Since a synthetic nodule often has the place and the mask of a training nodule, all
    are also compared with the training nodules of other patients alone.

    Distances: in *voxels* the root mean square difference inside the query's mask, least over all
    flips and over shifts along each axis; in *features* the Euclidean distance of the ROIs'
    features, least over all flips, without shifts. What surrounds a nodule counts in features
    alone. Distances depend on a nodule's size: compare sets of like sizes.

    Writes `distances.csv`, `summary.csv`, `distances.png` and `closest_pairs.png`.

    Args:
        real: the real data set, with the split that the generator was trained on, which is checked
            where its `generator.json` lies with the synthetic nodules.
        synthetic: the synthetic nodules of all splits, with the ROI of `real`.
        out: folder to write.
        features: a feature network, see docs/metrics.md; without it voxels alone are compared.
        window: intensities that the network sees as 0 and 1.
        shift_voxels: by how much at most a training nodule is shifted.
        pairs: how many of the closest pairs are drawn.

    Raises:
        FileNotFoundError: If data are missing.
        ValueError: If a setting is out of its range, a set is empty, ROIs differ, or a nodule has
            no mask or no training nodule of another patient.
    """
    if shift_voxels < 0 or pairs < 1:
        message = f"shift_voxels is {shift_voxels} and pairs {pairs}: give at least 0 and 1"
        raise ValueError(message)
    if not window[0] < window[1]:
        message = f"window is {list(window)}: give two intensities, the lower one first"
        raise ValueError(message)
    real.setup()
    hold_nothing_out(synthetic)
    synthetic.setup()
    roi = real.datasets["train"].roi_size
    ours, theirs = (module.roi for module in (real, synthetic))
    if ours != theirs:
        message = (
            f"The synthetic nodules' ROI is {theirs}, that of the real ones {ours}: give both "
            "the same roi"
        )
        raise ValueError(message)
    settings: Any = synthetic
    if (generator := Path(settings.root) / GENERATOR).is_file():
        check_generator(generator, {"test": real.datasets["test"]})
    training = read([real.datasets["train"]], "training", shift_voxels)
    queries = {
        "synthetic": read([synthetic.datasets[split] for split in SPLITS], "synthetic"),
        "held-out": read([real.datasets["test"]], "held-out"),
    }
    rows: list[dict[str, Any]] = []
    found: dict[str, list[Found]] = {}
    by_voxels = VoxelDistances(training.images, shift_voxels)
    embedded = None
    if features is not None:
        embedded = embed(region(training.images, shift_voxels, roi), features, window)
    for kind, nodules in queries.items():
        for k in tqdm(range(len(nodules.names)), desc=kind, unit="nodule"):
            distances = {"voxels": by_voxels.to(nodules.images[k], nodules.masks[k])}
            if features is not None and embedded is not None:
                flipped = region(flips_of(nodules.images[k]), 0, roi)
                distances["features"] = torch.cdist(
                    embedded,
                    embed(flipped, features, window),
                    compute_mode="donot_use_mm_for_euclid_dist",  # mm is off near 0
                )
            others = torch.tensor([who != nodules.patients[k] for who in training.patients])
            if not others.any():
                message = (
                    f"All training nodules are of {nodules.patients[k]}, as is {nodules.names[k]}: "
                    "give training nodules of other patients too"
                )
                raise ValueError(message)
            row: dict[str, Any] = {
                "kind": kind,
                "name": nodules.names[k],
                "patient_id": nodules.patients[k],
            }
            for space, all_of in distances.items():
                best = nearest(all_of, shift_voxels)
                other = nearest(all_of.masked_fill(~view(others, all_of), torch.inf), shift_voxels)
                if space == "voxels":
                    best, other = (exact(it, nodules, k, training) for it in (best, other))
                row |= {space: best.distance, f"{space}_nearest": training.names[best.number]}
                row[f"{space}_same_patient"] = int(not others[best.number])
                row[f"{space}_other_patients"] = other.distance
                if space == "voxels":
                    found.setdefault(kind, []).append(best)
            rows.append(row)
    table = pd.DataFrame(rows)
    summary = summarize(table)
    for name, content in (("distances", table), ("summary", summary)):
        with written_whole(out / f"{name}.csv") as path:
            content.to_csv(path, index=False, float_format="%.6g")
    with written_whole(out / "distances.png") as path:
        draw(table).savefig(path, dpi=110)
    with written_whole(out / "closest_pairs.png") as path:
        closest = sorted(enumerate(found["synthetic"]), key=lambda item: item[1].distance)[:pairs]
        side_by_side(closest, queries["synthetic"], training).savefig(path, dpi=110)
    print(summary.to_string(index=False, float_format="{:.3g}".format))


def read(datasets: Iterable[NoduleDataset], kind: str, margin: int = 0) -> Nodules:
    """All nodules of data sets, not augmented.

    Args:
        datasets: of one ROI.
        kind: what they are called in messages.
        margin: voxels to be read beyond the ROI on every side.

    Raises:
        ValueError: If there is none, or one has no mask.
    """
    places = [(dataset, k) for dataset in datasets for k in range(len(dataset.subtypes))]
    if not places:
        message = f"There is no {kind} nodule: check the data's folder, select and fractions"
        raise ValueError(message)
    items = [
        dataset.read(k, [2 * (n // 2 + margin) + 1 for n in dataset.roi_size])
        for dataset, k in tqdm(places, desc=kind, unit="nodule")
    ]
    for item in items:
        if not item["mask"].any():
            message = f"The {kind} nodule {item['name']} has an empty mask: give nodules with masks"
            raise ValueError(message)
    return Nodules(
        torch.stack([item["image"][0] for item in items]),
        torch.stack([item["mask"][0] for item in items]),
        [str(item["name"]) for item in items],
        [str(item["patient_id"]) for item in items],
    )


def region(images: Tensor, start: int, size: Sequence[int]) -> Tensor:
    """The part of images `(..., *spatial)` of a size, from voxel `start` on along each axis."""
    part: tuple[Any, ...] = (..., *(slice(start, start + n) for n in size))
    return images[part]


def all_flips(rank: int) -> list[tuple[int, ...]]:
    """Every set of axes that can be flipped, the empty one first."""
    return [axes for n in range(rank + 1) for axes in combinations(range(rank), n)]


def flips_of(image: Tensor) -> Tensor:
    """An image `(*spatial)` in all its flips, `(flips, *spatial)`."""
    return torch.stack([image.flip(axes) for axes in all_flips(image.ndim)])


def view(chosen: Tensor, table: Tensor) -> Tensor:
    """A mask over training nodules `(N,)` for a table `(N, ...)`."""
    return chosen.view(-1, *(1,) * (table.ndim - 1))


class VoxelDistances:
    """Distances from a nodule to all training nodules, over flips and shifts.

    sum m (q - t)^2 = sum m q^2 - 2 (m q) * t + m * t^2, where * is a correlation: one convolution
    for all training nodules, flips and shifts.

    Args:
        images: training nodules `(N, *spatial)`, larger than the queries by `shift_voxels` on every
            side.
        shift_voxels: greatest shift along each axis.
    """

    def __init__(self, images: Tensor, shift_voxels: int) -> None:
        self.images = images
        self.middle = images.mean()  # about a common value, for the sake of rounding
        self.shift = shift_voxels

    def to(self, image: Tensor, mask: Tensor) -> Tensor:
        """Root mean square differences inside the mask, up to rounding; see `exact`.

        Args:
            image: `(*spatial)`, an odd number of voxels along each axis; flipped about the middle.
            mask: `(*spatial)`, not empty.

        Returns:
            `(N, flips, *shifts)`, `2 shift_voxels + 1` along each axis.
        """
        rank, center = image.ndim, np.array(image.shape) // 2
        reach = np.abs(np.argwhere(mask.numpy() > 0) - center).max(0)
        inner, outer = (
            tuple(slice(c - r, c + r + 1 + more) for c, r in zip(center, reach, strict=True))
            for more in (0, 2 * self.shift)
        )
        weight, query = mask[inner].float(), (image[inner] - self.middle).float()
        kernel = torch.stack([flips_of(-2 * weight * query), flips_of(weight)], 1)
        products = []
        for batch in torch.split(self.images[(slice(None), *outer)], BATCH):
            centred = (batch - self.middle).float()
            inputs = torch.stack([centred, centred.square()], 1)
            products.append(CONVOLVE[rank](inputs, kernel))
        squares = torch.cat(products) + (weight * query.square()).sum()
        return (squares / weight.sum()).clamp(min=0).sqrt()


def aligned(image: Tensor, found: Found, size: Sequence[int]) -> Tensor:
    """A training nodule in the place of its query.

    Args:
        image: `(*spatial)`, the training nodule with its margin.
        found: where the query lies in it.
        size: of the query.
    """
    margin = (image.shape[0] - size[0]) // 2
    part = tuple(slice(margin + s, margin + s + n) for s, n in zip(found.shift, size, strict=True))
    return image[part].flip(found.flips)


def exact(found: Found, nodules: Nodules, k: int, training: Nodules) -> Found:
    """What was found for nodule `k` in voxels, with a distance that is free of rounding."""
    image, inside = nodules.images[k].double(), nodules.masks[k] > 0
    partner = aligned(training.images[found.number].double(), found, image.shape)
    return found._replace(distance=float((image - partner)[inside].square().mean().sqrt()))


def embed(images: Tensor, features: FeatureExtractor, window: tuple[float, float]) -> Tensor:
    """Features `(N, D)` of ROIs `(N, *spatial)`; those of several views side by side."""
    low, high = window
    seen = ((images - low) / (high - low))[:, None].float()
    with torch.no_grad():
        parts = [features.views(batch).values() for batch in torch.split(seen, BATCH)]
        return torch.cat([torch.cat(list(views), 1) for views in parts])


def nearest(table: Tensor, shift: int) -> Found:
    """The least of distances `(N, flips)` or `(N, flips, *shifts)`."""
    place = np.unravel_index(int(table.argmin()), table.shape)
    number, flip, *at = (int(k) for k in place)
    rank = len(at) or int(np.log2(table.shape[1]))
    return Found(float(table[place]), number, all_flips(rank)[flip], tuple(k - shift for k in at))


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """For each space, and with and without a nodule's own patient, how near synthetic ones are.

    Returns:
        Rows with `space`, `training nodules` (all, or of other patients), `synthetic` and
        `held-out` (median distances), `nearer` (the share of synthetic nodules that is nearer than
        the 5 % quantile of held-out ones; 0.05 if they are alike) with its 95 % bootstrap interval
        over patients of both, `nearer than any` (than every held-out one) with that of the
        synthetic patients alone, since a minimum cannot be resampled, and `same patient` (the
        share whose nearest training nodule is of the image's own patient).
    """
    rows = []
    for space in [space for space in SPACES if space in table]:
        for which, column in (("all", space), ("of other patients", f"{space}_other_patients")):
            made, held = (table[table["kind"] == kind] for kind in ("synthetic", "held-out"))
            ours, theirs = made[column].to_numpy(), held[column].to_numpy()
            of_made = patient_weights(made["patient_id"].tolist())
            of_held = patient_weights(held["patient_id"].tolist(), seed=1).astype(int)
            shares = [
                np.average(ours < np.quantile(np.repeat(theirs, times), QUANTILE), weights=weights)
                for weights, times in zip(of_made, of_held, strict=True)
            ]
            low, high = interval(np.array(shares))
            row: dict[str, Any] = {"space": space, "training nodules": which}
            row |= {"synthetic": np.median(ours), "held-out": np.median(theirs)}
            row |= {"nearer": np.mean(ours < np.quantile(theirs, QUANTILE)), "low": low}
            nearest_of_all = ours < theirs.min()
            row |= {"high": high, "nearer than any": nearest_of_all.mean()}
            low, high = interval(of_made @ nearest_of_all / of_made.sum(1))
            row |= {"low of any": low, "high of any": high}
            same = made[f"{space}_same_patient"].mean() if which == "all" else 0.0
            rows.append({**row, "same patient": same})
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame) -> Figure:
    """Distributions of the distances of synthetic and of held-out real nodules."""
    columns = [
        (space, suffix, title)
        for space in SPACES
        if space in table
        for suffix, title in (("", "all"), ("_other_patients", "of other patients"))
    ]
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(3.2 * len(columns), 2.6), layout="constrained")
        for axes, (space, suffix, title) in zip(
            figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True
        ):
            values = table[space + suffix]
            edges = np.linspace(values.min(), values.quantile(0.99), 31)
            for kind, colour in (("held-out", "0.6"), ("synthetic", "tab:orange")):
                of_kind = values[table["kind"] == kind]
                axes.hist(of_kind, edges, density=True, color=colour, alpha=0.6, label=kind)
            limit = values[table["kind"] == "held-out"].quantile(QUANTILE)
            axes.axvline(limit, color="k", lw=0.8, ls=":")
            axes.set_title(f"{space}, training nodules: {title}")
            axes.set_xlabel(f"{SPACES[space]} to the nearest")
            axes.set_yticks([])
            axes.legend(frameon=False)
    return figure


def side_by_side(closest: list[tuple[int, Found]], synthetic: Nodules, training: Nodules) -> Figure:
    """Middle slices of synthetic nodules, above the training nodules that they are nearest to."""
    size = synthetic.images.shape[1:]
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(1.6 * len(closest), 3.9), layout="constrained")
        grid = figure.subplots(2, len(closest), squeeze=False)
        for column, (k, found) in zip(grid.T, closest, strict=True):
            shown = [synthetic.images[k], aligned(training.images[found.number], found, size)]
            limits = {"vmin": float(shown[0].min()), "vmax": float(shown[0].max())}
            names = (f"synthetic\nRMSD {found.distance:.3g}", training.names[found.number])
            for axes, image, name in zip(column, shown, names, strict=True):
                flat = image if image.ndim == 2 else image[len(image) // 2]
                axes.imshow(flat.numpy(), cmap="gray", **limits)
                axes.set_title(name)
                axes.axis("off")
    return figure
