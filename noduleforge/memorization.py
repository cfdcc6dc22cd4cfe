"""Are synthetic nodules copies of training nodules? The nearest ones, in voxels and in features."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from datamodules.batch import Roi
from datamodules.collections import NoduleCollection
from datamodules.io.whole_files import written_whole
from datamodules.patients import GENERATOR, check_generator
from datamodules.progress import Progress
from datamodules.splits import TRAINING_ALONE, check_fractions
from lightning_modules.core.features import FeatureExtractor
from noduleforge.evaluation.memorization import QUANTILE, SPACES, summarize
from noduleforge.nearest import (
    Found,
    VoxelDistances,
    aligned,
    embed,
    exact,
    flips_of,
    nearest,
    view,
)
from noduleforge.nodules import Nodules, read_nodules, region

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Sets(NamedTuple):
    """What is compared.

    Attributes:
        training: real nodules that the generator may have seen, with a margin around the ROI.
        queries: by kind, `synthetic` and `held-out`, the nodules that are looked for among them.
        roi_size: voxels of the ROI along each axis.
    """

    training: Nodules
    queries: dict[str, Nodules]
    roi_size: tuple[int, ...]


def memorization(
    real: NoduleCollection,
    synthetic: NoduleCollection,
    roi: Roi,
    out: Path,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    split_seed: int = 0,
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
        real: the real nodules.
        synthetic: the synthetic nodules, all of them.
        roi: the region that is compared.
        out: folder to write.
        fractions: shares of the real patients for train, val and test, as the generator was trained
            with, which is checked where its `generator.json` lies with the synthetic nodules.
        split_seed: of that split.
        features: a feature network, see docs/metrics.md; without it voxels alone are compared.
        window: intensities that the network sees as 0 and 1.
        shift_voxels: by how much at most a training nodule is shifted.
        pairs: how many of the closest pairs are drawn.

    Raises:
        FileNotFoundError: If data are missing.
        ValueError: If a setting is out of its range, a set is empty, dimensions differ, or a nodule
            has no mask or no training nodule of another patient.
    """
    if shift_voxels < 0 or pairs < 1:
        message = f"shift_voxels is {shift_voxels} and pairs {pairs}: give at least 0 and 1"
        raise ValueError(message)
    if not window[0] < window[1]:
        message = f"window is {list(window)}: give two intensities, the lower one first"
        raise ValueError(message)
    check_fractions(fractions)
    sets = read_sets(real, synthetic, roi, fractions, split_seed, shift_voxels)
    table, closest = find_nearest(sets, features, window, shift_voxels)
    summary = summarize(table)
    for name, content in (("distances", table), ("summary", summary)):
        with written_whole(out / f"{name}.csv") as path:
            content.to_csv(path, index=False, float_format="%.6g")
    with written_whole(out / "distances.png") as path:
        draw(table).savefig(path, dpi=110)
    with written_whole(out / "closest_pairs.png") as path:
        shown = side_by_side(closest[:pairs], sets.queries["synthetic"], sets.training)
        shown.savefig(path, dpi=110)
    print(summary.to_string(index=False, float_format="{:.3g}".format))


def read_sets(
    real: NoduleCollection,
    synthetic: NoduleCollection,
    roi: Roi,
    fractions: tuple[float, float, float],
    split_seed: int,
    margin: int,
) -> Sets:
    """Read what is compared.

    Args:
        real: the real nodules; their training split is looked through, their test split held out.
        synthetic: the synthetic nodules.
        roi: the region that is compared.
        fractions: shares of the real patients for train, val and test.
        split_seed: of their split.
        margin: voxels to be read beyond the ROI of training nodules on every side.

    Raises:
        FileNotFoundError: If data are missing.
        ValueError: If a set is empty, dimensions differ, a nodule has no mask, or the generator has
            seen patients of the test split.
    """
    splits = real.splits(roi, fractions, split_seed)
    made = synthetic.splits(roi, TRAINING_ALONE, split_seed)["train"]
    size = splits["train"].roi_size
    if len(made.roi_size) != len(size):
        message = (
            f"The synthetic nodules have {len(made.roi_size)} dimensions, the real ones "
            f"{len(size)}: give two sets of the same kind"
        )
        raise ValueError(message)
    if (generator := synthetic.root / GENERATOR).is_file():
        check_generator(generator, {"test": splits["test"].patients})
    return Sets(
        read_nodules(splits["train"], "training", margin),
        {
            "synthetic": read_nodules(made, "synthetic"),
            "held-out": read_nodules(splits["test"], "held-out"),
        },
        size,
    )


def find_nearest(
    sets: Sets,
    features: FeatureExtractor | None,
    window: tuple[float, float],
    shift_voxels: int,
) -> tuple[pd.DataFrame, list[tuple[int, Found]]]:
    """Find the training nodules that are nearest.

    Args:
        sets: what is compared.
        features: a feature network, or none.
        window: intensities that the network sees as 0 and 1.
        shift_voxels: greatest shift of a training nodule; the margin of `sets.training`.

    Returns:
        The table of `distances.csv`, and which synthetic nodules are nearest in voxels, from the
        nearest on, with what was found for them.

    Raises:
        ValueError: If a nodule has no training nodule of another patient.
    """
    training, queries, roi = sets
    rows: list[dict[str, Any]] = []
    found: dict[str, list[Found]] = {}
    by_voxels = VoxelDistances(training.images, shift_voxels)
    embedded = None
    if features is not None:
        embedded = embed(region(training.images, shift_voxels, roi), features, window)
    for kind, nodules in queries.items():
        for k in Progress(range(len(nodules.names)), desc=kind, unit="nodule"):
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
    closest = sorted(enumerate(found["synthetic"]), key=lambda item: item[1].distance)
    return pd.DataFrame(rows), closest


def draw(table: pd.DataFrame) -> "Figure":
    """Distributions of the distances of synthetic and of held-out real nodules.

    Args:
        table: as for `summarize`.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

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


def side_by_side(
    closest: list[tuple[int, Found]], synthetic: Nodules, training: Nodules
) -> "Figure":
    """Middle slices of synthetic nodules, above the training nodules that they are nearest to."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

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
