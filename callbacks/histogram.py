"""How well synthetic nodules keep to the histogram asked for, and how much they vary."""

import json
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torchmetrics import Metric

from callbacks.ranks import gather_rows
from datamodules.batch import SUBTYPES, NoduleBatch, Synthesis
from datamodules.files import written_whole
from lightning_modules.core.histogram import wasserstein1

GROUPS = (*SUBTYPES, "over_8mm", "all")


class HistogramFidelity(Metric):
    """Sums from which fidelity, spread and intra-class variance are computed.

    - `w1`: mean Wasserstein-1 distance between requested and generated histogram.
    - `spread`: mean Wasserstein-1 distance between two samples of one request.
    - `variance_ratio`: for each subtype, the variance of generated histograms between nodules,
      summed over bins, relative to that of the requested ones; 1 is right, less is collapse.

    Args:
        bins: bins of the histograms.
        bin_width: width of a bin in image units (HU for CT).
    """

    full_state_update = False

    def __init__(self, bins: int, bin_width: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bin_width = bin_width
        groups = len(GROUPS)
        for name, shape in {
            "count": (groups,),
            "w1": (groups,),
            "spread": (groups,),
            "generated": (groups, bins),
            "generated_square": (groups, bins),
            "requested": (groups, bins),
            "requested_square": (groups, bins),
        }.items():
            zeros = torch.zeros(shape, dtype=torch.float64)
            self.add_state(name, zeros, dist_reduce_fx="sum")

    def update(
        self, requested: Tensor, generated: Tensor, subtype: Tensor, diameter_mm: Tensor
    ) -> None:
        """Add nodules.

        Args:
            requested: `(B, bins)`.
            generated: `(2, B, bins)`; two samples of each request.
            subtype: `(B,)` codes.
            diameter_mm: `(B,)`.
        """
        codes = torch.arange(len(SUBTYPES), device=subtype.device)
        member = torch.cat(
            [
                subtype == codes.unsqueeze(1),
                (diameter_mm > 8).unsqueeze(0),
                torch.ones_like(subtype, dtype=torch.bool).unsqueeze(0),
            ]
        ).double()
        requested, first, second = requested.double(), *generated.double()
        states: dict[str, Tensor] = {
            "count": torch.ones_like(requested[:, 0]),
            "w1": wasserstein1(requested, first, self.bin_width),
            "spread": wasserstein1(first, second, self.bin_width),
            "generated": first,
            "generated_square": first.square(),
            "requested": requested,
            "requested_square": requested.square(),
        }
        for name, values in states.items():
            setattr(self, name, getattr(self, name) + member @ values)

    def compute(self) -> dict[str, float]:
        """Each figure by group, such as `w1/solid`; groups without a nodule are left out."""
        result = {}
        for row, group in enumerate(GROUPS):
            count = self._sum("count")[row]
            if count == 0:
                continue
            result[f"count/{group}"] = float(count)
            result[f"w1/{group}"] = float(self._sum("w1")[row] / count)
            result[f"spread/{group}"] = float(self._sum("spread")[row] / count)
            if count > 1 and group in SUBTYPES:
                ratio = self._variance("generated", row) / self._variance("requested", row)
                result[f"variance_ratio/{group}"] = float(ratio)
        return result

    def _sum(self, name: str) -> Tensor:
        value: Tensor = getattr(self, name)
        return value

    def _variance(self, name: str, row: int) -> Tensor:
        count = self._sum("count")[row]
        mean = self._sum(name)[row] / count
        return (self._sum(f"{name}_square")[row] / count - mean.square()).sum()


class HistogramMetrics(Callback):
    """Measure histogram fidelity on the test split; write `metrics.json` and `nodules.csv`.

    The test step's synthetic nodules are one sample of each request; another, of the next seed, is
    drawn beside it.
    """

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        self.metric: HistogramFidelity | None = None
        self.rows: list[str] = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: NoduleBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch."""
        first: Synthesis = outputs
        second: Synthesis = cast(Any, pl_module).sample(batch, seed=first["seed"] + 1)
        centers = first["bin_centers"]
        width = float(centers[1] - centers[0])
        if self.metric is None:
            self.metric = HistogramFidelity(len(centers), width).to(pl_module.device)
        generated = torch.stack([s["generated_histogram"] for s in (first, second)])
        requested = first["requested_histogram"]
        diameter = batch["attributes"]["diameter_mm"]
        self.metric.update(requested, generated, batch["subtype"], diameter)
        w1 = wasserstein1(requested, generated, width)
        spread = wasserstein1(generated[0], generated[1], width)
        for row, name in enumerate(batch["name"]):
            subtype = int(batch["subtype"][row])
            values = (float(x[row]) for x in (diameter, w1[0], w1[1], spread))
            cells = ",".join(f"{value:.4f}" for value in values)
            self.rows.append(f"{name},{SUBTYPES[subtype] if subtype >= 0 else ''},{cells}")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Combine the ranks, write the files and show the figures."""
        if self.metric is None:
            return
        figures, rows = self.metric.compute(), gather_rows(self.rows)
        if not trainer.is_global_zero:
            return
        folder = trainer.default_root_dir
        with written_whole(f"{folder}/metrics.json") as path:
            path.write_text(json.dumps(figures, indent=2) + "\n")
        with written_whole(f"{folder}/nodules.csv") as path:
            header = "name,subtype,diameter_mm,w1_first,w1_second,spread"
            path.write_text("\n".join([header, *rows]) + "\n")
        for name, value in figures.items():
            print(f"{name:32} {value:10.3f}")
