"""How well a detector finds nodules on radiographs of held-out patients."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from callbacks.distributed import gather_cases
from datamodules.batch import Detection, Detects, NoduleBatch
from datamodules.io.whole_files import written_whole
from noduleforge.evaluation.detection import (
    TABLE,
    THRESHOLDS,
    figures_of,
    measure,
    table_of_candidates,
    table_of_images,
    youden_threshold,
)
from noduleforge.evaluation.froc import RATES, sensitivity_at

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWN = 4
"""How many radiographs with a nodule, and how many without, are drawn."""


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
        module = cast(Detects, pl_module)
        for batch in data.val_dataloader():
            moved = trainer.strategy.batch_to_device(batch)
            with trainer.precision_plugin.forward_context():
                found = module.detect(moved["image"])
            self.validation += self.rows_of(found, batch)

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
        measured = self.rows_of(outputs, batch)
        self.rows += measured
        for number, row in enumerate(measured):
            if sum(kept["label"] == row["label"] for kept in self.drawn) < DRAWN:
                arrays = {"image": batch["image"], "mask": batch["mask"], "pixels": outputs.pixels}
                shown = {name: value[number, 0].cpu().numpy() for name, value in arrays.items()}
                self.drawn.append(row | shown)

    def rows_of(self, found: Detection, batch: NoduleBatch) -> list[dict[str, Any]]:
        """One row for each image.

        Args:
            found: probabilities.
            batch: with `mask`, `spacing_mm`, and `nodule` and `subtlety` among the attributes.
        """
        rows = []
        masks, maps = batch["mask"].cpu().numpy() > 0, found.pixels.double().cpu().numpy()
        for number, (mask, pixels) in enumerate(zip(masks[:, 0], maps[:, 0], strict=True)):
            distance_px = self.candidate_distance_mm / float(batch["spacing_mm"][number].max())
            rows.append(
                {
                    "name": batch["name"][number],
                    "patient_id": batch["patient_id"][number],
                    "label": int(batch["attributes"]["nodule"][number]),
                    "probability": float(found.nodule[number]),
                    "subtlety": float(batch["attributes"]["subtlety"][number]),
                    **measure(pixels, mask, self.candidate_threshold, distance_px),
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


def draw_froc(table: pd.DataFrame, figures: pd.DataFrame) -> "Figure":
    """Sensitivity over false positives per image, with the band of the intervals at `RATES`.

    Args:
        table: as for `sensitivity_at`.
        figures: of `figures_of`.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

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


def draw_detections(radiographs: Sequence[Mapping[str, Any]], threshold: float) -> "Figure":
    """Radiographs with the outlines of nodules, and of the pixels above a threshold.

    Args:
        radiographs: `image`, `mask` and `pixels` `(y, x)`, `label` and `probability`.
        threshold: of the probability of pixels.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

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
