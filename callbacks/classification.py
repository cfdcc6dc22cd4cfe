"""How well a classifier does on held-out patients, and what it sees in synthetic nodules."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from scipy import stats

from callbacks.ranks import gather_rows
from datamodules.batch import NoduleBatch
from datamodules.files import written_whole
from lightning_modules.classifier import load_classifier
from lightning_modules.core.merging import Merging

REPLICATES = 1000
"""Resamples of a bootstrap."""


def auroc(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    """Area under the receiver operating characteristic, ties counted half; NaN without both labels.

    It is Mann-Whitney's U over the number of pairs (Hanley and McNeil 1982).
    """
    positive, negative = scores[labels == 1], scores[labels == 0]
    if not len(positive) or not len(negative):
        return float("nan")
    pairs = len(positive) * len(negative)
    return float(stats.mannwhitneyu(positive, negative).statistic / pairs)


def patient_interval(
    table: pd.DataFrame, figure: Callable[[pd.DataFrame], float], seed: int = 0
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a figure, with patients resampled.

    Args:
        table: rows with a `patient_id`.
        figure: from such rows to a number; resamples for which it is NaN are left out.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    rows = list(table.groupby("patient_id").indices.values())
    drawn = [rng.integers(len(rows), size=len(rows)) for _ in range(REPLICATES)]
    values = [figure(table.iloc[np.concatenate([rows[k] for k in some])]) for some in drawn]
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)


FIGURES: Mapping[str, Callable[[pd.DataFrame], float]] = {
    "auroc": lambda t: auroc(t["label"].to_numpy(), t["probability"].to_numpy()),
    "sensitivity": lambda t: float((t.loc[t["label"] == 1, "probability"] > 0.5).mean()),
    "specificity": lambda t: float((t.loc[t["label"] == 0, "probability"] <= 0.5).mean()),
}


class ClassificationMetrics(Callback):
    """Measure a `NoduleClassifier` on the test split.

    Writes `classification.csv`, one nodule and characteristic a row, and `accuracy.csv`: area under
    the ROC curve, and sensitivity and specificity at a probability of one half, with 95 % intervals
    over patients.
    """

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a new table."""
        self.rows: list[Any] = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: NoduleBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what was said of nodules of which it is known."""
        module: Any = pl_module
        labels = module.labels(batch).tolist()
        for row, said in enumerate(outputs.tolist()):
            for name, label, probability in zip(
                module.characteristics, labels[row], said, strict=True
            ):
                if np.isfinite(label):
                    self.rows.append(
                        {
                            "name": batch["name"][row],
                            "patient_id": batch["patient_id"][row],
                            "characteristic": name,
                            "label": int(label),
                            "probability": probability,
                        }
                    )

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write both tables, of all ranks."""
        table = pd.DataFrame(gather_rows(self.rows))
        if not trainer.is_global_zero:
            return
        rows = []
        for name, part in table.groupby("characteristic", sort=False):
            counts = {"with": (part["label"] == 1).sum(), "without": (part["label"] == 0).sum()}
            for figure, value in FIGURES.items():
                low, high = patient_interval(part, value)
                rows.append(
                    {"characteristic": name, "figure": figure, "value": value(part)}
                    | {"low": low, "high": high, **counts}
                )
        accuracy = pd.DataFrame(rows)
        for file, content in (("classification", table), ("accuracy", accuracy)):
            with written_whole(f"{trainer.default_root_dir}/{file}.csv") as temporary:
                content.to_csv(temporary, index=False)
        print(accuracy.to_string(index=False, float_format="{:.3f}".format))


class CharacteristicFidelity(Callback):
    """Let a classifier say how often synthetic nodules show what was asked for.

    Every nodule to be predicted is synthesized with each combination of adapters (or labels), in
    the same place, from the same noise. Writes a table: one nodule, way of merging,
    combination and characteristic a row.

    Args:
        classifier: checkpoint of a `NoduleClassifier`; it should share no training with the model.
        combinations: for each name the adapters that take part and their strengths; an adapter is
            named like the characteristic that it is for. None of them is the base.
        mergings: for each name a way in which adapters take part together; by default the model's.
        file: name of the table.
    """

    def __init__(
        self,
        classifier: Path,
        combinations: dict[str, dict[str, float]],
        mergings: dict[str, Merging] | None = None,
        file: str = "fidelity.csv",
    ) -> None:
        super().__init__()
        self.path, self.combinations, self.file = classifier, combinations, file
        self.mergings: Mapping[str, Merging | None] = mergings or {"default": None}

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the classifier and begin a new table."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.classifier = load_classifier(self.path, data.roi_spacing_mm).to(pl_module.device)
        self.rows: list[Any] = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: NoduleBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Synthesize the batch in every way, and classify."""
        module: Any = pl_module
        names = self.classifier.characteristics
        for way, merging in self.mergings.items():
            for combination, strengths in self.combinations.items():
                with (
                    module.using(strengths, merging),
                    trainer.precision_plugin.forward_context(),
                ):
                    image = module.sample(batch)["image"]
                said = self.classifier(image.float()).sigmoid().tolist()
                for row, probabilities in enumerate(said):
                    self.rows += [
                        {
                            "name": batch["name"][row],
                            "patient_id": batch["patient_id"][row],
                            "merging": way,
                            "combination": combination,
                            "characteristic": name,
                            "asked": int(name in strengths),
                            "probability": probability,
                        }
                        for name, probability in zip(names, probabilities, strict=True)
                    ]

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table, of all ranks, and print shares."""
        table = pd.DataFrame(gather_rows(self.rows))
        if not trainer.is_global_zero:
            return
        path = f"{trainer.default_root_dir}/{self.file}"
        with written_whole(path) as temporary:
            table.to_csv(temporary, index=False)
        shares = table.assign(shown=table["probability"] > 0.5).pivot_table(
            "shown", ["merging", "combination"], "characteristic", sort=False
        )
        print(shares.to_string(float_format="{:.2f}".format))
        rank_zero_info(f"Fidelity: {path}")
