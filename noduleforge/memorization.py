"""Are synthetic nodules copies of training nodules? The nearest ones, in voxels and in features."""

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
from datamodules.base import NoduleDataModule, NoduleDataset
from datamodules.files import written_whole

CONVOLVE = {2: F.conv2d, 3: F.conv3d}

SPACES = ("voxels", "features")
QUANTILE = 0.05
"""A synthetic nodule is near if so few held-out real ones are as near to a training nodule."""

BATCH = 64


class Nodules(NamedTuple):
    """Nodules to be compared.

    Attributes:
        images: `(N, *spatial)` in physical units.
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
        flips: the axes along which it must be flipped.
        shift: voxels by which it must then be shifted along each axis.
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
    features, least over all flips. Writes `distances.csv`, `summary.csv`, `distances.png` and
    `closest_pairs.png`.

    Args:
        real: the real data set, with the split that the generator was trained on.
        synthetic: the synthetic nodules, with the ROI of `real`.
        out: folder to write.
        features: a feature network, see docs/metrics.md; without it voxels alone are compared.
        window: intensities that the network sees as 0 and 1.
        shift_voxels: by how much at most a training nodule is shifted.
        pairs: how many of the closest pairs are drawn.

    Raises:
        FileNotFoundError: If data are missing.
        ValueError: If a setting is out of its range, a set is empty or ROIs differ.
    """
    if shift_voxels < 0 or pairs < 1:
        message = f"shift_voxels is {shift_voxels} and pairs {pairs}: give at least 0 and 1"
        raise ValueError(message)
    real.setup()
    settings: Any = synthetic
    settings.fractions = (1.0, 0.0, 0.0)
    synthetic.setup()
    training = read(real.datasets["train"], "training")
    queries = {
        "synthetic": read(synthetic.datasets["train"], "synthetic"),
        "held-out": read(real.datasets["test"], "held-out"),
    }
    for kind, nodules in queries.items():
        if nodules.images.shape[1:] != training.images.shape[1:]:
            message = (
                f"The {kind} nodules have {tuple(nodules.images.shape[1:])} voxels, the training "
                f"nodules {tuple(training.images.shape[1:])}: give both the same roi_size"
            )
            raise ValueError(message)
    rows: list[dict[str, Any]] = []
    found: dict[str, list[Found]] = {}
    embedded = None if features is None else embed(training.images, features, window)
    for kind, nodules in queries.items():
        by_voxels = VoxelDistances(training, shift_voxels)
        for k in tqdm(range(len(nodules.names)), desc=kind, unit="nodule"):
            distances = {"voxels": by_voxels.to(nodules.images[k], nodules.masks[k])}
            if features is not None and embedded is not None:
                image = nodules.images[k]
                distances["features"] = feature_distances(image, embedded, features, window)
            others = torch.tensor([who != nodules.patients[k] for who in training.patients])
            row: dict[str, Any] = {
                "kind": kind,
                "name": nodules.names[k],
                "patient_id": nodules.patients[k],
            }
            for space, all_of in distances.items():
                best = nearest(all_of, shift_voxels)
                other = nearest(all_of.masked_fill(~view(others, all_of), torch.inf), shift_voxels)
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


def read(dataset: NoduleDataset, kind: str) -> Nodules:
    """All nodules of a data set, not augmented.

    Raises:
        ValueError: If there is none.
    """
    number = len(dataset.subtypes)
    if not number:
        message = f"There is no {kind} nodule: check the data's folder, select and fractions"
        raise ValueError(message)
    items = [
        dataset.read(k, dataset.roi_size) for k in tqdm(range(number), desc=kind, unit="nodule")
    ]
    return Nodules(
        torch.stack([item["image"][0] for item in items]),
        torch.stack([item["mask"][0] for item in items]),
        [str(item["name"]) for item in items],
        [str(item["patient_id"]) for item in items],
    )


def all_flips(rank: int) -> list[tuple[int, ...]]:
    """Every set of axes that can be flipped, the empty one first."""
    return [axes for n in range(rank + 1) for axes in combinations(range(rank), n)]


def view(chosen: Tensor, table: Tensor) -> Tensor:
    """A mask over training nodules `(N,)` for a table `(N, ...)`."""
    return chosen.view(-1, *(1,) * (table.ndim - 1))


class VoxelDistances:
    """Distances from a nodule to all training nodules, over flips and shifts.

    sum m (q - t)^2 = sum m q^2 - 2 (m q) * t + m * t^2, where * is a correlation: one convolution
    for all training nodules, flips and shifts.

    Args:
        training: the training nodules.
        shift_voxels: greatest shift along each axis.
    """

    def __init__(self, training: Nodules, shift_voxels: int) -> None:
        # about a common value, for the sake of rounding
        self.middle = training.images.mean()
        centred = (training.images - self.middle).float()
        self.inputs = torch.stack([centred, centred.square()], 1)
        self.shift = shift_voxels

    def to(self, image: Tensor, mask: Tensor) -> Tensor:
        """Root mean square differences inside the mask.

        The nodule lies around voxel `size // 2`, about which flips are made. Of a mask that reaches
        so far that a shift would leave the ROI, the middle counts.

        Args:
            image: `(*spatial)`.
            mask: `(*spatial)`.

        Returns:
            `(N, flips, *shifts)`, `2 shift_voxels + 1` along each axis.

        Raises:
            ValueError: If the mask has no voxel in the middle.
        """
        rank, size = image.ndim, np.array(image.shape)
        center = size // 2
        room = np.minimum(center, size - 1 - center) - self.shift
        reach = np.abs(np.argwhere(mask.numpy() > 0) - center).max(0, initial=0)
        radius = np.minimum(reach, room)
        if (radius < 0).any() or not mask.any():
            message = (
                f"A nodule's ROI of {tuple(size)} voxels leaves no room for shifts of "
                f"{self.shift}, or its mask is empty: lower shift_voxels or raise roi_size"
            )
            raise ValueError(message)
        inner = tuple(slice(c - r, c + r + 1) for c, r in zip(center, radius, strict=True))
        outer = tuple(
            slice(c - r - self.shift, c + r + self.shift + 1)
            for c, r in zip(center, radius, strict=True)
        )
        weight = mask[inner].float()
        query = (image[inner] - self.middle).float()
        kernel = torch.stack([-2 * weight * query, weight])
        flipped = torch.stack(
            [kernel.flip([axis + 1 for axis in axes]) for axes in all_flips(rank)]
        )
        inputs = self.inputs[(slice(None), slice(None), *outer)]
        squares = CONVOLVE[rank](inputs, flipped) + (weight * query.square()).sum()
        return (squares / weight.sum()).clamp(min=0).sqrt()


def embed(images: Tensor, features: FeatureExtractor, window: tuple[float, float]) -> Tensor:
    """Features `(N, D)` of ROIs `(N, *spatial)`; those of several views side by side."""
    low, high = window
    seen = ((images - low) / (high - low))[:, None].float()
    with torch.no_grad():
        parts = [features.views(batch).values() for batch in torch.split(seen, BATCH)]
        return torch.cat([torch.cat(list(views), 1) for views in parts])


def feature_distances(
    image: Tensor, training: Tensor, features: FeatureExtractor, window: tuple[float, float]
) -> Tensor:
    """Euclidean distances `(N, flips)` of one nodule's features to those of training nodules."""
    flipped = torch.stack([image.flip(axes) for axes in all_flips(image.ndim)])
    return torch.cdist(training, embed(flipped, features, window))


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
        over patients of both, `nearer than any` (than every held-out one), and `same patient` (the
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
            row |= {"high": high, "nearer than any": np.mean(ours < theirs.min())}
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
            axes.set_xlabel("distance to the nearest")
            axes.set_yticks([])
            axes.legend(frameon=False)
    return figure


def side_by_side(closest: list[tuple[int, Found]], synthetic: Nodules, training: Nodules) -> Figure:
    """Middle slices of synthetic nodules, above the training nodules that they are nearest to."""
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(1.6 * len(closest), 3.9), layout="constrained")
        grid = figure.subplots(2, len(closest), squeeze=False)
        for column, (k, found) in zip(grid.T, closest, strict=True):
            axes_of = tuple(range(training.images.ndim - 1))
            # the query was flipped; its partner is flipped the other way round, and shifted
            partner = training.images[found.number].roll([-s for s in found.shift], axes_of)
            size = partner.shape
            partner = partner.flip(found.flips)
            even = [axis for axis in found.flips if size[axis] % 2 == 0]
            partner = partner.roll([1] * len(even), even) if even else partner
            shown = [synthetic.images[k], partner]
            limits = {"vmin": float(shown[0].min()), "vmax": float(shown[0].max())}
            names = (f"synthetic\n{found.distance:.3g}", training.names[found.number])
            for axes, image, name in zip(column, shown, names, strict=True):
                flat = image if image.ndim == 2 else image[len(image) // 2]
                axes.imshow(flat, cmap="gray", **limits)
                axes.set_title(name)
                axes.axis("off")
    return figure
