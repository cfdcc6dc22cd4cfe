"""How easily synthetic nodules are told from real ones, by their texture and by eye."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datamodules.batch import Roi, subtype_name
from datamodules.collections import NoduleCollection, NoduleSet
from datamodules.io.volumes import equivalent_diameter_mm
from datamodules.io.whole_files import written_whole
from datamodules.splits import TRAINING_ALONE
from noduleforge.evaluation.bootstrap import interval
from noduleforge.evaluation.groups import GROUPS, LARGE, LARGE_MM
from noduleforge.evaluation.realism import area_told_apart, feature_distance, halves, told_apart
from noduleforge.nodules import Nodules, read_nodules, region
from noduleforge.random_generator import random_generator
from noduleforge.texture import texture_features

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLOORS = 20
"""Real nodules are halved so often to say how far apart sets of real ones are."""


def realism(
    real: NoduleCollection,
    synthetic: NoduleCollection,
    roi: Roi,
    out: Path,
    window: tuple[float, float] = (-1000.0, 400.0),
    pictures: int = 12,
    seed: int = 0,
) -> None:
    """Tell synthetic nodules from the real nodules of the same patients.

    A classifier learns to tell them apart by figures of texture and rim, and is asked about
    patients that it has not seen: an area under the ROC curve (AUC) of 0.5 says that it cannot.
    The distance of the mean figures stands beside that of two halves of the real nodules, which
    no generator can go below. Both depend on what the figures see: they do not prove realism.

    Writes `realism.csv` (by subtype and size, with 95 % bootstrap intervals over patients),
    `features.csv` (by how many deviations each figure differs), `pairs.png` (one row a nodule,
    real and synthetic), and `unlabelled.png` with its answers in `unlabelled.csv`.

    Args:
        real: the real nodules.
        synthetic: the synthetic nodules, all of them.
        roi: the region that is looked at.
        out: folder to write.
        window: intensities that texture and pictures cover.
        pictures: how many nodules are drawn.
        seed: of what is drawn.

    Raises:
        FileNotFoundError: If data are missing.
        ValueError: If a set is empty, has a nodule without a mask, or too few patients.
    """
    if pictures < 1:
        message = f"pictures is {pictures}: give at least 1"
        raise ValueError(message)
    if not window[0] < window[1]:
        message = f"window is {list(window)}: give two intensities, the lower one first"
        raise ValueError(message)
    sets = [c.splits(roi, TRAINING_ALONE, 0)["train"] for c in (real, synthetic)]
    kinds = [read_rois(*named) for named in zip(sets, ("real", "synthetic"), strict=True)]
    table = pd.concat(
        [
            _describe(nodules, of.subtypes, is_synthetic, roi, window)
            for nodules, of, is_synthetic in zip(kinds, sets, (False, True), strict=True)
        ],
        ignore_index=True,
    )
    ours = table["patient_id"].isin(table.loc[table["synthetic"], "patient_id"])
    table = table[ours].reset_index(drop=True)
    if table["synthetic"].all():
        message = "No real nodule is of a patient who has a synthetic one: give the same patients"
        raise ValueError(message)
    result, features = _compare(table)
    for name, content in (("realism", result), ("features", features)):
        with written_whole(out / f"{name}.csv") as path:
            content.to_csv(path, index=False, float_format="%.4g")
    shown = _chosen(table, pictures, seed)
    with written_whole(out / "pairs.png") as path:
        _draw_pairs(kinds, shown, window).savefig(path, dpi=110)
    order = random_generator(seed).permutation(2 * len(shown))
    with written_whole(out / "unlabelled.png") as path:
        _draw_unlabelled(kinds, shown, order, window).savefig(path, dpi=110)
    with written_whole(out / "unlabelled.csv") as path:
        answers = [["real", "synthetic"][number % 2] for number in order]
        frame = pd.DataFrame({"number": np.arange(1, len(order) + 1), "kind": answers})
        frame.to_csv(path, index=False)
    print(result.to_string(index=False, float_format="{:.3g}".format))


def read_rois(nodules: NoduleSet, kind: str) -> Nodules:
    """All nodules of a set, cut to the ROI: a row more would be padding in synthetic patches."""
    whole = read_nodules(nodules, kind)
    images, masks = (region(one, 0, nodules.roi_size) for one in (whole.images, whole.masks))
    return whole._replace(images=images, masks=masks)


def _describe(
    nodules: Nodules,
    subtypes: list[int],
    synthetic: bool,
    roi: Roi,
    window: tuple[float, float],
) -> pd.DataFrame:
    """One nodule a row: what it is, and the figures of its texture."""
    rows = []
    for k, name in enumerate(nodules.names):
        mask = nodules.masks[k].numpy() > 0
        spacing = (roi.spacing_mm,) * mask.ndim
        code = subtypes[k]
        known: dict[str, Any] = {
            "synthetic": synthetic,
            "row": k,
            "name": name,
            "patient_id": nodules.patients[k],
            "subtype": subtype_name(code),
            "diameter_mm": equivalent_diameter_mm(mask, spacing),
        }
        rows.append(known | texture_features(nodules.images[k].numpy(), mask, window))
    return pd.DataFrame(rows)


def _compare(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables of `realism.csv` and `features.csv`."""
    figures = [c for c in table if c not in ("synthetic", "row", "name", "patient_id", "subtype")]
    figures.remove("diameter_mm")  # which is asked for
    values, synthetic = table[figures].to_numpy(), table["synthetic"].to_numpy()
    patients = table["patient_id"]
    probabilities = told_apart(values, synthetic, patients.tolist())
    rows = []
    for group in GROUPS:
        chosen = (
            np.ones(len(table), bool)
            if group == "all"
            else table["diameter_mm"].to_numpy() > LARGE_MM
            if group == LARGE
            else table["subtype"].to_numpy() == group
        )
        if len(np.unique(synthetic[chosen])) < 2:
            continue
        of = patients[chosen].tolist()
        rows.append(
            {
                "group": group,
                "real": int((chosen & ~synthetic).sum()),
                "synthetic": int((chosen & synthetic).sum()),
                **_area(probabilities[chosen], synthetic[chosen], of),
                **_distances(values[chosen], synthetic[chosen], of),
            }
        )
    shift = values[synthetic].mean(0) - values[~synthetic].mean(0)
    deviation = values[~synthetic].std(0)
    features = pd.DataFrame({"figure": figures, "difference": shift, "deviation": deviation})
    features["deviations"] = features["difference"] / features["deviation"]
    order = features["deviations"].abs().sort_values(ascending=False).index
    return pd.DataFrame(rows), features.loc[order]


def _area(
    probabilities: NDArray[Any], synthetic: NDArray[np.bool_], patients: list[str]
) -> dict[str, float]:
    found = area_told_apart(probabilities, synthetic, patients)
    low, high = interval(found.draws)
    return {"auc": found.value, "low": low, "high": high}


def _distances(
    values: NDArray[Any], synthetic: NDArray[np.bool_], patients: list[str]
) -> dict[str, float]:
    real, of = values[~synthetic], np.asarray(patients)[~synthetic]
    floors = []
    for seed in range(FLOORS):
        first = halves(of.tolist(), seed)
        if first.any() and not first.all():
            floors.append(feature_distance(real[first], real[~first]))
    floor = float(np.mean(floors)) if floors else np.nan
    return {"distance": feature_distance(real, values[synthetic]), "floor": floor}


def _chosen(table: pd.DataFrame, number: int, seed: int) -> list[tuple[int, int]]:
    """Rows of real nodules and of the synthetic ones nearest to them in size, small to large."""
    real, made = (table[table["synthetic"] == kind] for kind in (False, True))
    made = made.sort_values("diameter_mm")
    parts = np.array_split(np.arange(len(made)), min(number, len(made)))
    picked = random_generator(seed)
    pairs = []
    for part in parts:
        one = made.iloc[int(picked.choice(part))]
        same = real[real["patient_id"] == one["patient_id"]]
        same = same if len(same) else real
        nearest = (same["diameter_mm"] - one["diameter_mm"]).abs().idxmin()
        pairs.append((int(real.loc[nearest, "row"]), int(one["row"])))
    return pairs


def _draw_pairs(
    kinds: list[Nodules], pairs: list[tuple[int, int]], window: tuple[float, float]
) -> "Figure":
    """Each row a real nodule and a synthetic one of its size, in its patient, without and with."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 7}):
        figure = Figure(figsize=(5.2, 1.35 * len(pairs)), layout="constrained")
        grid = figure.subplots(len(pairs), 4, squeeze=False)
        for line, rows in zip(grid, pairs, strict=True):
            for place, (nodules, row) in enumerate(zip(kinds, rows, strict=True)):
                image, mask = (_middle(a[row].numpy()) for a in (nodules.images, nodules.masks))
                for axes in line[2 * place : 2 * place + 2]:
                    axes.imshow(image, cmap="gray", vmin=window[0], vmax=window[1])
                    axes.axis("off")
                line[2 * place + 1].contour(mask, [0.5], colors="tab:orange", linewidths=0.7)
        for axes, title in zip(grid[0], ("real", "its outline", "synthetic", ""), strict=True):
            axes.set_title(title)
    return figure


def _draw_unlabelled(
    kinds: list[Nodules],
    pairs: list[tuple[int, int]],
    order: NDArray[np.int_],
    window: tuple[float, float],
) -> "Figure":
    """The same nodules by number alone, in an order that says nothing."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    columns = 6
    lines = -(-len(order) // columns)
    with mpl.rc_context({"font.size": 7}):
        figure = Figure(figsize=(1.3 * columns, 1.5 * lines), layout="constrained")
        for axes in figure.subplots(lines, columns, squeeze=False).flat:
            axes.axis("off")
        for number, (axes, one) in enumerate(zip(figure.axes, order.tolist(), strict=False), 1):
            image = kinds[one % 2].images[pairs[one // 2][one % 2]].numpy()
            axes.imshow(_middle(image), cmap="gray", vmin=window[0], vmax=window[1])
            axes.set_title(str(number))
    return figure


def _middle(array: NDArray[Any]) -> NDArray[Any]:
    return array if array.ndim == 2 else array[len(array) // 2]
