"""A picture of synthetic nodules that a person can judge."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from callbacks.distributed import gather_in_order
from callbacks.logged_pictures import log_picture
from callbacks.planes import plane_of
from datamodules.batch import (
    NO_NODULE,
    PLANES,
    SUBTYPES,
    UNKNOWN_SUBTYPE,
    NoduleBatch,
    Synthesis,
    subtype_name,
)
from datamodules.io.whole_files import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_modules.core.merging import SynthesizesWithAdapters

VIEWS = {3: PLANES, 2: ("radiograph",)}
"""What is shown of an image, by its rank."""


class AdapterPicture(Callback):
    """Draw the same nodules with different adapters, side by side.

    The largest nodules of the first batch to be predicted: their background, then each column's
    synthesis. Writes `adapters.png` in the run's folder.

    Args:
        columns: for each title the adapters that take part and their strengths.
        rows: number of nodules.
    """

    def __init__(self, columns: dict[str, dict[str, float]], rows: int = 6) -> None:
        super().__init__()
        self.columns, self.rows = columns, rows

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: NoduleBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Sample, draw and save."""
        if batch_idx or not trainer.is_global_zero:
            return
        import matplotlib as mpl
        from matplotlib.figure import Figure

        module = cast("SynthesizesWithAdapters", pl_module)
        synthesis: Synthesis = outputs
        images = {"background": synthesis.background}
        for title, strengths in self.columns.items():
            with module.using(strengths), trainer.precision_plugin.forward_context():
                images[title] = module.sample(batch).image
        largest = batch["mask"].flatten(1).sum(1).argsort(descending=True)[: self.rows].tolist()
        with mpl.rc_context({"font.size": 8}):
            size = (1.3 * len(images), 1.3 * len(largest) + 0.5)
            figure = Figure(figsize=size, layout="constrained")
            grid = figure.subplots(len(largest), len(images), squeeze=False)
            for number, (line, row) in enumerate(zip(grid, largest, strict=True)):
                arrays = {name: value[row, 0].float().cpu() for name, value in images.items()}
                shown = torch.stack([*arrays.values()])
                display = float(shown.quantile(0.005)), float(shown.quantile(0.995))
                for axes, (title, array) in zip(line, arrays.items(), strict=True):
                    _show(axes, array.numpy(), display)
                    if number == 0:
                        axes.set_title(title)
                line[0].contour(batch["mask"][row, 0].cpu(), [0.5], colors="tab:orange")
        path = Path(trainer.default_root_dir) / "adapters.png"
        with written_whole(path) as temporary:
            figure.savefig(temporary, dpi=110)
        log_picture(trainer, path)
        print(f"Picture: {path}")


class NodulePicture(Callback):
    """Draw predicted nodules: background with mask, synthetic nodule, histograms.

    Writes `synthetic.png` in the run's folder.

    Args:
        per_subtype: nodules of each subtype, and of unknown subtype.
        display: intensities shown as black and white; by default the model's window.
    """

    def __init__(self, per_subtype: int = 2, display: tuple[float, float] | None = None) -> None:
        super().__init__()
        self.per_subtype, self.display = per_subtype, display

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a new picture."""
        self.reference, self.window = "before", (0.0, 1.0)
        codes = (*range(len(SUBTYPES)), UNKNOWN_SUBTYPE, NO_NODULE)
        self.chosen: dict[int, list[tuple[int, dict[str, Any]]]] = {code: [] for code in codes}

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: NoduleBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first nodules of each subtype."""
        synthesis: Synthesis = outputs
        self.window = synthesis.window
        if "histogram" in synthesis.request:
            self.reference = "requested"
        items = batch["index"].tolist()
        for row, code in enumerate(batch["subtype"].tolist()):
            kept = self.chosen.get(code, [])
            if len(kept) < self.per_subtype:
                nodule = {
                    "background": synthesis.background[row, 0].float().cpu().numpy(),
                    "image": synthesis.image[row, 0].float().cpu().numpy(),
                    "mask": batch["mask"][row, 0].cpu().numpy(),
                    "requested": synthesis.requested_histogram[row].cpu().numpy(),
                    "generated": synthesis.generated_histogram[row].cpu().numpy(),
                    "centers": synthesis.bin_centers.cpu().numpy(),
                    "diameter": float(batch["attributes"]["diameter_mm"][row]),
                }
                kept.append((items[row], nodule))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and save the first of all processes."""
        chosen = {
            code: gather_in_order(kept)[: self.per_subtype] for code, kept in self.chosen.items()
        }
        if not trainer.is_global_zero:
            return
        rows = [
            (subtype_name(code) or "nodule", nodule)
            for code, kept in chosen.items()
            for nodule in kept
        ]
        if not rows:
            return
        figure = draw_nodules(rows, self.display or self.window, self.reference)
        path = Path(trainer.default_root_dir) / "synthetic.png"
        with written_whole(path) as temporary:
            figure.savefig(temporary, dpi=110)
        log_picture(trainer, path)
        print(f"Picture: {path}")


def draw_nodules(
    rows: list[tuple[str, dict[str, Any]]], display: tuple[float, float], reference: str
) -> "Figure":
    """One row for each nodule: its background with the mask, the synthetic image, histograms.

    Args:
        rows: subtype and nodule.
        display: intensities shown as black and white.
        reference: what the histogram beside the generated one is.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    planes = VIEWS[rows[0][1]["image"].ndim]
    columns = 2 * len(planes) + 1
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(1.6 * columns + 1.4, 1.75 * len(rows) + 0.5), layout="constrained")
        grid = figure.subplots(
            len(rows), columns, squeeze=False, width_ratios=[1] * (columns - 1) + [1.7]
        )
        for number, (line, (subtype, nodule)) in enumerate(zip(grid, rows, strict=True)):
            inside = np.argwhere(nodule["mask"] > 0)
            middle = inside.mean(0) if len(inside) else np.asarray(nodule["mask"].shape) // 2
            center = [int(c) for c in middle]
            for k, plane in enumerate(planes):
                for offset, name in ((0, "background"), (len(planes), "image")):
                    axes = line[k + offset]
                    _show(axes, plane_of(nodule[name], k, center), display)
                    if offset == 0:
                        outline = plane_of(nodule["mask"], k, center)
                        axes.contour(outline, [0.5], colors="tab:orange", linewidths=0.8)
                    if number == 0:
                        axes.set_title(f"{'background' if offset == 0 else 'synthetic'}, {plane}")
            line[0].set_ylabel(f"{subtype}\n{nodule['diameter']:.0f} mm")
            _histograms(line[-1], nodule, reference, number == 0, number == len(rows) - 1)
    return figure


def _show(axes: "Axes", image: np.ndarray, display: tuple[float, float]) -> None:
    axes.imshow(image, cmap="gray", vmin=display[0], vmax=display[1], interpolation="bilinear")
    axes.set_xticks([])
    axes.set_yticks([])


def _histograms(
    axes: "Axes", nodule: dict[str, Any], reference: str, legend: bool, axis: bool
) -> None:
    centers = nodule["centers"]
    width = centers[1] - centers[0]
    axes.bar(centers, nodule["requested"], width, color="0.8", label=reference)
    axes.step(centers, nodule["generated"], where="mid", color="tab:red", label="generated")
    axes.set_yticks([])
    if legend:
        axes.legend(frameon=False, fontsize=7)
    if axis:
        axes.set_xlabel("HU" if nodule["image"].ndim == 3 else "intensity")
