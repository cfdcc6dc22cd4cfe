"""Synthetic against real nodules, in the middle of training and on the test split."""

import math
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, cast

import pandas as pd
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import Subset

from callbacks.distributed import gather_rows
from datamodules.batch import NoduleBatch, Provenance, Synthesis, Synthesizes, subtype_name
from datamodules.io.whole_files import written_whole
from datamodules.loading import load_batches
from datamodules.progress import Progress
from lightning_modules.core.window import IntensityWindow


class Drawn(NamedTuple):
    """Nodules, and what was synthesized in their place.

    Attributes:
        batch: the real nodules, `B` of them.
        position: `(B,)`; each one's number in the evaluation.
        real: `(B, 1, *spatial)`, in which the window is [0, 1].
        generated: one such image for each draw, of the same noise seeds in every evaluation.
        syntheses: what they were made of.
    """

    batch: NoduleBatch
    position: Tensor
    real: Tensor
    generated: list[Tensor]
    syntheses: list[Synthesis]


class GenerationMetric(ABC):
    """A figure, or several, of real and synthetic nodules.

    Every process calls all methods the same number of times, `update` aside, which a process
    without nodules never calls; `compute` must give the same on all.
    """

    draws: int = 1
    """Samples of each nodule that it needs."""

    @property
    @abstractmethod
    def provenance(self) -> dict[str, str]:
        """What the figures depend on beside the model and the data, in words."""

    @abstractmethod
    def begin(self, spatial_dims: int, device: torch.device) -> None:
        """Begin an evaluation.

        Args:
            spatial_dims: 2 or 3.
            device: of the images.
        """

    def reference(self, image: Tensor, position: Tensor, other: bool) -> None:
        """See real images, before the first evaluation; nothing by default.

        Args:
            image: `(B, 1, *spatial)`, in which the window is [0, 1].
            position: `(B,)`; each one's number in its set.
            other: whether it is one of as many others, from the training split, that real images
                are compared with for the floor.
        """
        del image, position, other

    @abstractmethod
    def update(self, drawn: Drawn) -> dict[str, Tensor]:
        """Add nodules.

        Returns:
            What is written of each nodule, `(B,)` each.
        """

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The figures of all processes."""


class GenerationMetrics(Callback):
    """Synthesize nodules in the place of real ones, once for all metrics, and measure.

    In training the nodules of the validation split, on the test split in `lightning test`, with the
    averaged weights; each sample depends on its seed and its nodule alone. The figures are logged,
    and written with what they depend on to `generation.csv`; what is known of single nodules to
    `nodules.csv` of the last evaluation.

    Args:
        metrics: by name.
        samples: how many nodules in training, the first of the split; all by default. The test
            split is always taken whole.
        every_n_epochs: in training, how often: after the validation of every so many epochs.
        every_n_steps: after every so many steps instead.
    """

    def __init__(
        self,
        metrics: dict[str, GenerationMetric],
        samples: int | None = None,
        every_n_epochs: int = 1,
        every_n_steps: int | None = None,
    ) -> None:
        super().__init__()
        if (
            not metrics
            or every_n_epochs < 1
            or (every_n_steps is not None and every_n_steps < 1)
            or (samples is not None and samples < 2)
        ):
            message = (
                f"GenerationMetrics has metrics {list(metrics)}, samples {samples}, every_n_epochs "
                f"{every_n_epochs} and every_n_steps {every_n_steps}: give a metric, two samples "
                "or more, and every epoch or step or more."
            )
            raise ValueError(message)
        self.metrics, self.samples = metrics, samples
        self.every_n_epochs, self.every_n_steps = every_n_epochs, every_n_steps
        self._evaluated_step = 0
        self.draws = max(metric.draws for metric in metrics.values())
        self._seen: set[str] = set()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate, every so many epochs."""
        if trainer.sanity_checking or self.every_n_steps is not None:
            return
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._evaluate(trainer, pl_module, "val")

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Evaluate, every so many steps."""
        step = trainer.global_step
        # with gradient accumulation several batches end with the same step
        if self.every_n_steps is None or step % self.every_n_steps or step == self._evaluated_step:
            return
        self._evaluated_step = step
        training = [module for module in pl_module.modules() if module.training]
        pl_module.eval()
        with torch.no_grad():
            self._evaluate(trainer, pl_module, "val")
        for module in training:
            module.training = True

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate."""
        self._evaluate(trainer, pl_module, "test")

    def _evaluate(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        module, device = cast(Synthesizes, pl_module), pl_module.device
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        dataset = data.datasets[split]
        number = len(dataset)
        if split == "val" and self.samples is not None:
            number = min(number, self.samples)
        if number == 0:
            return
        spatial_dims, window = dataset[0]["image"].ndim - 1, IntensityWindow(*module.window)
        if split not in self._seen:
            self._begin(spatial_dims, device)
            self._look(trainer, device, window, split, number)
        self._begin(spatial_dims, device)
        rows = []
        seed = module.provenance.seed
        for batch, position in self._batches(trainer, device, split, number, "synthesis"):
            with trainer.precision_plugin.forward_context():
                syntheses = [module.sample(batch, seed=seed + draw) for draw in range(self.draws)]
            drawn = Drawn(
                batch,
                position,
                _unit(window, batch["image"]),
                [_unit(window, synthesis.image) for synthesis in syntheses],
                syntheses,
            )
            columns: dict[str, Tensor] = {}
            for metric in self.metrics.values():
                columns |= metric.update(drawn)
            rows += _rows(batch, columns)
        figures = {
            f"{split}/{name}/{figure}": value
            for name, metric in self.metrics.items()
            for figure, value in metric.compute().items()
        }
        pl_module.log_dict(figures, rank_zero_only=False, sync_dist=False)
        rows = gather_rows(rows)
        if trainer.is_global_zero:
            self._write(trainer, module.provenance, figures, number, rows)

    def _begin(self, spatial_dims: int, device: torch.device) -> None:
        for metric in self.metrics.values():
            metric.begin(spatial_dims, device)

    def _look(
        self,
        trainer: Trainer,
        device: torch.device,
        window: IntensityWindow,
        split: str,
        number: int,
    ) -> None:
        """Show the metrics real images, and as many others of the training split."""
        for name, other in ((split, False), ("train", True)):
            for batch, position in self._batches(trainer, device, name, number, "real images"):
                image = _unit(window, batch["image"])
                for metric in self.metrics.values():
                    metric.reference(image, position, other)
        self._seen.add(split)

    def _batches(
        self, trainer: Trainer, device: torch.device, split: str, number: int, what: str
    ) -> Iterator[tuple[NoduleBatch, Tensor]]:
        """This process's share of a split's first nodules, in batches, with their numbers."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        dataset = data.datasets[split]
        # versions of a training nodule but the first are augmented; the other splits have
        # one
        number = min(number, len(dataset) // dataset.augmented_copies)
        mine = range(trainer.global_rank, number, trainer.world_size)
        size = data.batch_size
        loader = load_batches(
            Subset(dataset, [place * dataset.augmented_copies for place in mine]),
            size,
            data.num_workers,
        )
        quiet = not trainer.is_global_zero
        bar = Progress(loader, f"{split}: {what}", leave=False, disable=quiet, unit="batch")
        for k, batch in enumerate(bar):
            moved = trainer.strategy.batch_to_device(batch, device)
            places = torch.tensor(mine[k * size : (k + 1) * size], device=device)
            yield moved, places

    def _write(
        self,
        trainer: Trainer,
        provenance: Provenance,
        figures: dict[str, float],
        number: int,
        rows: list[dict[str, Any]],
    ) -> None:
        """Add the figures to the run's table, and write that of the nodules anew."""
        folder = Path(trainer.default_root_dir)
        common = {
            "step": trainer.global_step,
            "samples": number,
            "seed": provenance.seed,
            "evaluations": provenance.evaluations,
            "data": trainer.datamodule.fingerprint[:16],  # type: ignore[attr-defined]
            "code": code_version(),
        }
        table = []
        for key, value in figures.items():
            split, name, figure = key.split("/", 2)
            depends = "; ".join(f"{k}: {v}" for k, v in self.metrics[name].provenance.items())
            row = {"split": split, "metric": name, "figure": figure, "value": value}
            table.append({**row, **common, "provenance": depends})
        path = folder / "generation.csv"
        before = []
        if path.is_file():
            earlier = pd.read_csv(path)
            # a run that resumes measures again what it had measured after its checkpoint
            again = (earlier["split"] == table[0]["split"]) & (earlier["step"] >= common["step"])
            before = [earlier[~again]]
        with written_whole(path) as temporary:
            pd.concat([*before, pd.DataFrame(table)]).to_csv(temporary, index=False)
        with written_whole(folder / "nodules.csv") as temporary:
            nodules = pd.DataFrame(rows).sort_values("name")
            nodules.to_csv(temporary, index=False, float_format="%.5g")
        shown = {k: v for k, v in figures.items() if k.count("/") == 2 and not math.isnan(v)}
        rank_zero_info("\n".join(f"{key:40} {value:10.4f}" for key, value in shown.items()))


def _unit(window: IntensityWindow, image: Tensor) -> Tensor:
    """The image with its window mapped to [0, 1]."""
    return (window.normalize(image.float()) + 1) / 2


def _rows(batch: NoduleBatch, columns: dict[str, Tensor]) -> list[dict[str, Any]]:
    subtypes = [subtype_name(code) for code in batch["subtype"].tolist()]
    values = {name: column.tolist() for name, column in columns.items()}
    return [
        {
            "name": name,
            "patient_id": batch["patient_id"][row],
            "subtype": subtypes[row],
            "diameter_mm": float(batch["attributes"]["diameter_mm"][row]),
            **{column: numbers[row] for column, numbers in values.items()},
        }
        for row, name in enumerate(batch["name"])
    ]


def code_version() -> str:
    """The package's version, and the commit where it is a checkout."""
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return version("noduleforge")
    return f"{version('noduleforge')}+{commit}"
