"""How well a detector finds nodules on radiographs of held-out patients."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from callbacks.distributed import gather_cases
from callbacks.scores import Estimate, auroc, estimate, interval, patient_weights, share
from datamodules.batch import NoduleBatch
from datamodules.io.whole_files import written_whole

TABLE = "detection.csv"
"""What is said of every image."""

RATES = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)
"""False positives per image at which sensitivity is reported (Setio et al. 2017, LUNA16)."""

THRESHOLDS = np.arange(1, 20) / 20
"""Probabilities of a pixel out of which the one with the best IoU is chosen."""

NEIGHBOURS = np.ones((3, 3), bool)
"""Pixels that touch at a corner belong together."""

DRAWN = 4
"""How many radiographs with a nodule, and how many without, are drawn."""

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def find_nodules(mask: Bools) -> list[Bools]:
    """The connected components of a mask `(y, x)`."""
    labels, number = ndimage.label(mask, NEIGHBOURS)
    return [labels == k for k in range(1, number + 1)]


def find_candidates(
    pixels: Floats, threshold: float, distance_px: float
) -> list[tuple[float, float, float]]:
    """List the local maxima of a probability map above a threshold.

    Connected components above the threshold would grow together where it is low, and FROC needs it
    low: nodules would then be lost, whatever their probability.

    Args:
        pixels: probabilities `(y, x)`.
        threshold: what a maximum must exceed.
        distance_px: in what distance nothing may exceed a maximum; of equal ones in this distance
            the first is kept, and those that touch are one.

    Returns:
        Of each its probability, and y and x of its centre, in pixels.
    """
    reach = int(distance_px)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    highest = ndimage.maximum_filter(pixels, footprint=np.hypot(y, x) <= distance_px)
    labels, number = ndimage.label((pixels == highest) & (pixels > threshold), NEIGHBOURS)
    places = range(1, number + 1)
    scores = ndimage.maximum(pixels, labels, places)
    centers = ndimage.center_of_mass(labels > 0, labels, places)
    found = [(float(s), float(y), float(x)) for s, (y, x) in zip(scores, centers, strict=True)]
    kept: list[tuple[float, float, float]] = []
    for score, row, column in found:  # in half precision equal probabilities are frequent
        near = [s for s, y, x in kept if np.hypot(y - row, x - column) <= distance_px]
        if score not in near:
            kept.append((score, row, column))
    return kept


def hit_nodule(center: Sequence[float], nodules: Sequence[Bools]) -> int | None:
    """Say which nodule a candidate hits.

    It hits a nodule if its centre lies in the nodule's mask, or no farther from the mask's centre
    than the radius of the disc with the mask's area (as in LUNA16, Setio et al. 2017, where nodules
    are balls); of several, the one whose centre is nearest.

    Args:
        center: of the candidate, (y, x) in pixels.
        nodules: their masks `(y, x)`, none of them empty.

    Returns:
        Its position in `nodules`, or None.
    """
    row, column = (round(c) for c in center)
    hits = []
    for number, mask in enumerate(nodules):
        middle = [axis.mean() for axis in np.nonzero(mask)]
        distance = float(np.hypot(*np.subtract(center, middle)))
        if mask[row, column] or distance <= (mask.sum() / np.pi) ** 0.5:
            hits.append((distance, number))
    return min(hits)[1] if hits else None


def overlap(pixels: Floats, mask: Bools) -> Floats:
    """Intersection over union with a mask, not empty, at each of `THRESHOLDS`."""
    found = pixels[None] > THRESHOLDS[:, None, None]
    iou: Floats = (found & mask).sum((1, 2)) / (found | mask).sum((1, 2))
    return iou


def sensitivity_at(table: pd.DataFrame, weights: Floats, rate: float) -> Floats:
    """Share of nodules found at no more than `rate` false positives per image (Bunch et al. 1978).

    The threshold is the lowest that allows no more; nothing is interpolated.

    Args:
        table: one image a row: `false_positives`, the scores of the candidates that hit nothing,
            and `found`, for each nodule the highest score of the candidates that hit it, minus
            infinity if none does.
        weights: `(..., images)`, how often each image is there.
        rate: false positives per image, over all images.

    Returns:
        `(...)`; NaN where there is no nodule.
    """
    scores, of_score = _flat(table["false_positives"])
    falling = np.argsort(-scores)
    limits, of_score = np.append(scores[falling], -np.inf), of_score[falling]
    found, of_nodule = _flat(table["found"])

    def of_one(often: Floats) -> Floats:
        # so many false positives have scores that are allowed; the next one's is the limit
        allowed = (np.cumsum(often[of_score]) <= rate * often.sum() + 1e-9).sum()
        return share(found > limits[allowed], np.ones(len(found), bool), often[of_nodule])

    # one after the other: all at once, of a large test set, would not fit into memory
    return np.apply_along_axis(of_one, -1, weights)


def _flat(column: pd.Series) -> tuple[Floats, NDArray[np.intp]]:
    """The numbers of all rows, and the row of each."""
    counts = [len(values) for values in column]
    return np.concatenate([*column]), np.repeat(np.arange(len(column)), counts)


def youden_threshold(labels: NDArray[Any], scores: Floats) -> float:
    """The score from which on sensitivity + specificity - 1 is highest (Youden 1950).

    Of several it is the highest.

    Args:
        labels: 1 or 0, both present.
        scores: as many.
    """
    values = np.unique(scores)[::-1]
    said = scores >= values[:, None]
    positive, negative = labels == 1, labels == 0
    # sensitivity + specificity - 1, times both numbers: whole numbers, in which ties are exact
    gain = said[:, positive].sum(1) * negative.sum() - said[:, negative].sum(1) * positive.sum()
    return float(values[int(gain.argmax())])


def estimates(table: pd.DataFrame, youden: float) -> dict[str, Estimate]:
    """All figures; see `DetectionMetrics`.

    Args:
        table: one image a row: `patient_id`, `label`, `probability`, `subtlety`, `iou`, and what
            `sensitivity_at` needs.
        youden: the probability from which on an image counts as one with a nodule.

    Returns:
        Their `number` is that of the images or nodules that they are of.
    """
    label, score = table["label"].to_numpy(), table["probability"].to_numpy()
    iou, subtlety = table["iou"].fillna(0).to_numpy(), np.floor(table["subtlety"] + 0.5).to_numpy()
    positive, nodule, said = label == 1, table["found"].map(len).to_numpy(), score >= youden

    def froc(weights: Floats, rate: float) -> Floats:
        return sensitivity_at(table, weights, rate)

    def among(chosen: Bools, of: Bools) -> tuple[Bools, Callable[[Floats], Floats]]:
        return of, lambda weights: share(chosen, of, weights)

    # of each figure what it is of, and how it comes from weights of the images
    listed: dict[str, tuple[NDArray[Any], Callable[[Floats], Floats]]] = {
        "auc": (np.ones(len(table)), lambda w: auroc(label, score, w)),
        "best_iou": (positive, lambda w: (w * iou).sum(-1) / (w * positive).sum(-1)),
        **{f"froc_{rate:g}": (nodule, partial(froc, rate=rate)) for rate in RATES},
        "cpm": (nodule, lambda w: np.mean([froc(w, rate) for rate in RATES], axis=0)),
        "sensitivity": among(said, positive),
        "specificity": among(~said, ~positive),
        **{
            f"sensitivity_subtlety_{level:.0f}": among(said, positive & (subtlety == level))
            for level in np.unique(subtlety[positive & np.isfinite(subtlety)])
        },
    }
    drawn = patient_weights(table["patient_id"].to_list())
    return {name: estimate(figure, drawn, of.sum()) for name, (of, figure) in listed.items()}


def figures_of(table: pd.DataFrame, youden: float) -> pd.DataFrame:
    """All figures, with 95 % bootstrap intervals over patients.

    Args:
        table: as for `estimates`.
        youden: as for `estimates`.

    Returns:
        `figure`, `value`, `low`, `high`, and `n`, the images or nodules that it is of.
    """
    rows = []
    for name, found in estimates(table, youden).items():
        low, high = interval(found.draws)
        row = {"figure": name, "value": found.value, "low": low, "high": high}
        rows.append(row | {"n": int(found.number)})
    return pd.DataFrame(rows)


def read_tables(folder: Path) -> tuple[pd.DataFrame, float]:
    """Read what `DetectionMetrics` wrote, as `estimates` takes it.

    Args:
        folder: of the run.

    Returns:
        The table and Youden's point.

    Raises:
        FileNotFoundError: If a table is missing.
    """
    for name in (TABLE, "candidates.csv", "detection_figures.csv"):
        if not (folder / name).is_file():
            message = f"{folder / name} is missing: run `lightning test` there again."
            raise FileNotFoundError(message)
    table = pd.read_csv(folder / TABLE, dtype={"name": str, "patient_id": str})
    candidates = pd.read_csv(folder / "candidates.csv", dtype={"image": str})
    false = candidates[candidates["hit"] == 0].groupby("image")["score"]
    hits = candidates[candidates["hit"] == 1].groupby(["image", "nodule"])["score"].max()
    scores = {str(name): part.to_numpy(float) for name, part in false}
    found = [
        np.array([hits.get((name, k), -np.inf) for k in range(number)], float)
        for name, number in zip(table["name"], table["nodules"], strict=True)
    ]
    table["found"] = pd.Series(found)
    table["false_positives"] = pd.Series([scores.get(n, np.empty(0)) for n in table["name"]])
    figures = pd.read_csv(folder / "detection_figures.csv").set_index("figure")["value"]
    youden = figures[figures.index.str.startswith("youden_threshold")]
    return table, float(youden.iloc[0])


class DetectionMetrics(Callback):
    """Measure a `NoduleDetector` on the test split.

    A candidate is a local maximum of the pixels' probabilities (`find_candidates`), which is its
    score. It hits a nodule (a connected component of the mask) by the rule of `hit_nodule`. Several
    hits of one nodule count once, with the highest score;
    candidates that hit none are false positives.

    Writes `detection.csv`, one image a row, `candidates.csv`, one candidate a row (`nodule` is the
    number of the one that it hits), and `detection_figures.csv`, with 95 % bootstrap intervals over
    the radiographs' patients:

    - `auc`: area under the ROC curve of the image's probability;
    - `best_iou`: mean over images with a nodule of intersection over union at one threshold for
      all, that of 0.05, 0.1 ... 0.95 with the highest mean on the validation split;
    - `froc_...`: sensitivity at 1/8 ... 8 false positives per image, and `cpm`, their mean;
    - `sensitivity` and `specificity` of images, and `sensitivity_subtlety_...` by subtlety (rounded
      where it is a mean, halves up), at Youden's point of the validation split.

    Where the validation split lacks images with a nodule or without, both thresholds are the test
    split's, and figures at them too good; the table names the split. `froc.png` is the FROC curve,
    `detections.png` shows some radiographs.

    Args:
        candidate_threshold: probability that a candidate exceeds.
        candidate_distance_mm: candidates that are nearer to each other are one, the more probable.
    """

    def __init__(
        self, candidate_threshold: float = 0.01, candidate_distance_mm: float = 10.0
    ) -> None:
        super().__init__()
        self.candidate_threshold = candidate_threshold
        self.candidate_distance_mm = candidate_distance_mm

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the validation split, and begin new tables.

        Raises:
            ValueError: If the test split has no image with a nodule, or none without.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        labels = data.datasets["test"].subtypes
        if len(set(labels)) < 2:
            message = (
                f"The test split has {labels.count(1)} images with a nodule and {labels.count(0)} "
                "without: a detector is measured on both, give data.sources with both."
            )
            raise ValueError(message)
        self.drawn: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.validation: list[dict[str, Any]] = []
        if len(set(data.datasets["val"].subtypes)) < 2:
            return
        module: Any = pl_module
        for batch in data.val_dataloader():
            moved = trainer.strategy.batch_to_device(batch)
            with trainer.precision_plugin.forward_context():
                found = module.detect(moved["image"])
            self.validation += self.measure(found, batch)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: NoduleBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure each image, and keep some to be drawn."""
        measured = self.measure(outputs, batch)
        self.rows += measured
        for number, row in enumerate(measured):
            if sum(kept["label"] == row["label"] for kept in self.drawn) < DRAWN:
                arrays = {"image": batch["image"], "mask": batch["mask"], "pixels": outputs.pixels}
                shown = {name: value[number, 0].cpu().numpy() for name, value in arrays.items()}
                self.drawn.append(row | shown)

    def measure(self, found: Any, batch: NoduleBatch) -> list[dict[str, Any]]:
        """One row for each image.

        Args:
            found: a `Detection`, probabilities.
            batch: with `mask`, `spacing_mm`, and `nodule` and `subtlety` among the attributes.
        """
        rows = []
        masks, maps = batch["mask"].cpu().numpy() > 0, found.pixels.double().cpu().numpy()
        for number, (mask, pixels) in enumerate(zip(masks[:, 0], maps[:, 0], strict=True)):
            nodules = find_nodules(mask)
            distance_px = self.candidate_distance_mm / float(batch["spacing_mm"][number].max())
            candidates = find_candidates(pixels, self.candidate_threshold, distance_px)
            hits = [hit_nodule((y, x), nodules) for _, y, x in candidates]
            scores: dict[int | None, list[float]] = {}
            for (score, _, _), hit in zip(candidates, hits, strict=True):
                scores.setdefault(hit, []).append(score)
            best = [max(scores.get(k, [-np.inf])) for k in range(len(nodules))]
            rows.append(
                {
                    "name": batch["name"][number],
                    "patient_id": batch["patient_id"][number],
                    "label": int(batch["attributes"]["nodule"][number]),
                    "probability": float(found.nodule[number]),
                    "subtlety": float(batch["attributes"]["subtlety"][number]),
                    "found": np.array(best, float),
                    "false_positives": np.array(scores.get(None, []), float),
                    "candidates": [(*c, hit) for c, hit in zip(candidates, hits, strict=True)],
                    "ious": overlap(pixels, mask) if nodules else None,
                }
            )
        return rows

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write tables and pictures, of all ranks."""
        rows = gather_cases(self.rows, "name")
        if not trainer.is_global_zero:
            return
        split, chosen = ("val", self.validation) if self.validation else ("test", rows)
        labels, scores = (
            np.array([row[key] for row in chosen]) for key in ("label", "probability")
        )
        youden = youden_threshold(labels, scores)
        ious = [row["ious"] for row in chosen if row["ious"] is not None]
        place = int(np.mean(ious, axis=0).argmax())
        pixel = float(THRESHOLDS[place])

        table = pd.DataFrame(rows)
        table["iou"] = [np.nan if ious is None else ious[place] for ious in table["ious"]]
        figures = figures_of(table, youden)
        thresholds = {f"youden_threshold_{split}": youden, f"iou_threshold_{split}": pixel}
        chosen_at = [{"figure": name, "value": value} for name, value in thresholds.items()]
        figures = pd.concat([figures, pd.DataFrame(chosen_at)])

        tables = {
            TABLE: table_of_images(table),
            "candidates.csv": table_of_candidates(rows),
            "detection_figures.csv": figures,
        }
        for name, content in tables.items():
            with written_whole(f"{trainer.default_root_dir}/{name}") as temporary:
                content.to_csv(temporary, index=False)
        pictures = {
            "froc": draw_froc(table, figures),
            "detections": draw_detections(self.drawn, pixel),
        }
        for name, figure in pictures.items():
            with written_whole(f"{trainer.default_root_dir}/{name}.png") as temporary:
                figure.savefig(temporary, dpi=110)
        print(figures.to_string(index=False, float_format="{:.3f}".format))


def table_of_images(table: pd.DataFrame) -> pd.DataFrame:
    """What `detection.csv` says: of each image also how many nodules it has and how many are hit.

    Args:
        table: as for `estimates`.
    """
    named = table[["name", "patient_id", "label", "probability", "subtlety", "iou"]]
    return named.assign(
        nodules=table["found"].map(len),
        hit=table["found"].map(lambda found: int(np.isfinite(found).sum())),
        false_positives=table["false_positives"].map(len),
    )


def table_of_candidates(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """What `candidates.csv` says.

    Args:
        rows: of `DetectionMetrics.measure`.
    """
    found = [(row["name"], *candidate) for row in rows for candidate in row["candidates"]]
    table = pd.DataFrame(found, columns=["image", "score", "y", "x", "nodule"])
    table = table.astype({"nodule": "Int64"})
    return table.assign(hit=table["nodule"].notna().astype(int))


def draw_froc(table: pd.DataFrame, figures: pd.DataFrame) -> Figure:
    """Sensitivity over false positives per image, with the band of the intervals at `RATES`.

    Args:
        table: as for `sensitivity_at`.
        figures: of `figures_of`.
    """
    known = figures.set_index("figure")
    at_rates = known.loc[[f"froc_{rate:g}" for rate in RATES]]
    rates = np.geomspace(RATES[0], RATES[-1], 200)
    values = [sensitivity_at(table, np.ones(len(table)), rate) for rate in rates]
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(4.6, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.fill_between(
            RATES, at_rates["low"], at_rates["high"], color="tab:blue", alpha=0.2, lw=0
        )
        axes.plot(rates, values, color="tab:blue")
        axes.set_xscale("log", base=2)
        axes.set_xticks(RATES, ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
        axes.set_ylim(0, 1)
        axes.set_xlabel("false positives per image")
        axes.set_ylabel("sensitivity")
    return figure


def draw_detections(radiographs: Sequence[Mapping[str, Any]], threshold: float) -> Figure:
    """Radiographs with the outlines of nodules, and of the pixels above a threshold.

    Args:
        radiographs: `image`, `mask` and `pixels` `(y, x)`, `label` and `probability`.
        threshold: of the probability of pixels.
    """
    lines = [
        [radiograph for radiograph in radiographs if radiograph["label"] == label]
        for label in (1, 0)
    ]
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(2.4 * DRAWN, 5.2), layout="constrained")
        figure.suptitle("orange: nodule, blue: found")
        for line, axes_of_line in zip(lines, figure.subplots(2, DRAWN), strict=True):
            for axes in axes_of_line:
                axes.axis("off")
            for axes, radiograph in zip(axes_of_line, line, strict=False):
                axes.imshow(radiograph["image"], cmap="gray")
                for inside, color in (
                    (radiograph["mask"] > 0, "tab:orange"),
                    (radiograph["pixels"] > threshold, "tab:blue"),
                ):
                    if inside.any():
                        axes.contour(inside, [0.5], colors=color, linewidths=0.8)
                axes.set_title(
                    f"{'nodule' if radiograph['label'] else 'none'}, "
                    f"{radiograph['probability']:.2f}"
                )
    return figure
