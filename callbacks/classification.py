"""How well a classifier does on held-out patients, and what it sees in synthetic nodules."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from callbacks.distributed import gather_cases, gather_in_order
from datamodules.batch import Classification, NoduleBatch
from datamodules.io.whole_files import written_whole
from lightning_modules.core.classifier import load_classifier
from lightning_modules.core.merging import Merging, SynthesizesWithAdapters
from noduleforge.evaluation.classification import TABLE, class_figures
from noduleforge.evaluation.probabilities import BINS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ClassificationMetrics(Callback):
    """Measure a `NoduleClassifier` on the test split.

    Writes `classification.csv`, one nodule and characteristic a row, with its `label`, the
    `probability` where both answers weigh alike, and that at the prevalence among real training
    nodules, `calibrated`; `accuracy.csv`: areas under the ROC and the precision-recall curve,
    sensitivity and specificity at a probability of one half, Brier score and calibration error,
    with 95 % intervals over patients; and `calibration.png`.
    """

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a new table."""
        self.rows: list[Any] = []
        self.characteristics: tuple[str, ...] = ()

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
        said: Classification = outputs
        self.characteristics = said.characteristics
        columns = (said.labels.tolist(), said.probabilities.tolist(), said.calibrated.tolist())
        for row, of_nodule in enumerate(zip(*columns, strict=True)):
            for name, label, probability, frequent in zip(
                said.characteristics, *of_nodule, strict=True
            ):
                if np.isfinite(label):
                    self.rows.append(
                        {
                            "name": batch["name"][row],
                            "patient_id": batch["patient_id"][row],
                            "characteristic": name,
                            "label": int(label),
                            "probability": probability,
                            "calibrated": frequent,
                        }
                    )

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write both tables, of all ranks.

        Raises:
            ValueError: If of no test nodule the answer is known.
        """
        rows = gather_cases(self.rows, "characteristic", "name")
        if not rows:
            message = (
                f"It is known of no test nodule whether it is {' or '.join(self.characteristics)}"
                ": give nodules with these ratings, or another split."
            )
            raise ValueError(message)
        if not trainer.is_global_zero:
            return
        table = pd.DataFrame(rows)
        accuracy = class_figures(table)
        root = Path(trainer.default_root_dir)
        for file, content in ((TABLE, table), ("accuracy.csv", accuracy)):
            with written_whole(root / file) as temporary:
                content.to_csv(temporary, index=False)
        with written_whole(root / "calibration.png") as temporary:
            reliability(table).savefig(temporary, dpi=110)
        print(accuracy.to_string(index=False, float_format="{:.3f}".format))


def reliability(table: pd.DataFrame) -> "Figure":
    """Share of positives against the mean probability, in bins, one panel for each class.

    Args:
        table: of `TABLE`.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = list(table["characteristic"].unique())
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(2.4 * len(names), 2.6), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            part = table[table["characteristic"] == name]
            bins = np.minimum((part["calibrated"] * BINS).astype(int), BINS - 1)
            means = part.groupby(bins)[["calibrated", "label"]].mean()
            sizes = part.groupby(bins).size()
            axes.plot([0, 1], [0, 1], color="0.7", lw=0.8)
            axes.scatter(means["calibrated"], means["label"], s=4 + sizes)
            axes.set(title=name, xlim=(0, 1), ylim=(0, 1), aspect="equal")
            axes.set_xlabel("probability")
        figure.supylabel("share")
    return figure


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
        self.classifier = load_classifier(self.path, data.roi.spacing_mm).to(pl_module.device)
        self.rows: list[tuple[int, dict[str, Any]]] = []

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
        module = cast(SynthesizesWithAdapters, pl_module)
        first = int(batch["index"][0])
        names = self.classifier.characteristics
        for way, merging in self.mergings.items():
            for combination, strengths in self.combinations.items():
                with (
                    module.using(strengths, merging),
                    trainer.precision_plugin.forward_context(),
                ):
                    image = module.sample(batch).image
                said = self.classifier(image.float()).sigmoid().tolist()
                for row, probabilities in enumerate(said):
                    self.rows += [
                        (
                            first,
                            {
                                "name": batch["name"][row],
                                "patient_id": batch["patient_id"][row],
                                "merging": way,
                                "combination": combination,
                                "characteristic": name,
                                "asked": int(name in strengths),
                                "probability": probability,
                            },
                        )
                        for name, probability in zip(names, probabilities, strict=True)
                    ]

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table, of all ranks, and print shares."""
        rows = gather_in_order(self.rows)
        table = pd.DataFrame(rows)
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
