"""How well nodules are outlined."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray

from callbacks.distributed import gather_cases
from datamodules.batch import NoduleBatch, subtype_name
from datamodules.io.whole_files import written_whole
from noduleforge.evaluation.segmentation import TABLE, by_group, dice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 12
"""How many nodules are drawn."""


class SegmentationMetrics(Callback):
    """Measure a `NoduleSegmenter` on the test split.

    Writes `segmentation.csv`, one nodule a row with its Dice coefficient; `dice.csv`, means by
    subtype and size with 95 % intervals over patients; and `outlines.png`: the worst nodules, truth
    in green and answer in red.
    """

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a new table."""
        self.rows: list[dict[str, Any]] = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: NoduleBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure a batch, and keep the middle slices."""
        values = dice(outputs.cpu().numpy(), batch["mask"].cpu().numpy()).tolist()
        for row, value in enumerate(values):
            code = int(batch["subtype"][row])
            arrays = (batch["image"][row, 0], batch["mask"][row, 0], outputs[row, 0])
            self.rows.append(
                {
                    "name": batch["name"][row],
                    "patient_id": batch["patient_id"][row],
                    "subtype": subtype_name(code),
                    "diameter_mm": float(batch["attributes"]["diameter_mm"][row]),
                    "dice": value,
                    "slices": [_middle(array.float().cpu().numpy()) for array in arrays],
                }
            )

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write tables and picture, of all ranks."""
        rows = gather_cases(self.rows, "name")
        if not trainer.is_global_zero:
            return
        table = pd.DataFrame(rows)
        means = by_group(table)
        root = Path(trainer.default_root_dir)
        of_nodules = table.drop(columns="slices")
        for file, content in ((TABLE, of_nodules), ("dice.csv", means)):
            with written_whole(root / file) as temporary:
                content.to_csv(temporary, index=False)
        with written_whole(root / "outlines.png") as temporary:
            outlines(table.nsmallest(SHOWN, "dice")).savefig(temporary, dpi=110)
        print(means.to_string(index=False, float_format="{:.3f}".format))


def _middle(array: NDArray[Any]) -> NDArray[Any]:
    """The middle slice; ROIs are centred on the nodule."""
    return array if array.ndim == 2 else array[len(array) // 2]


def outlines(table: pd.DataFrame) -> "Figure":
    """The nodules of a table side by side, with the true outline and the answer's."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    columns = min(6, len(table))
    lines = -(-len(table) // columns)
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(1.6 * columns, 1.8 * lines), layout="constrained")
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes in panels:
            axes.axis("off")
        for axes, row in zip(panels, table.to_dict("records"), strict=False):
            image, truth, found = row["slices"]
            axes.imshow(image, cmap="gray")
            for mask, colour in ((truth, "lime"), (found, "red")):
                if mask.min() != mask.max():
                    axes.contour(mask, [0.5], colors=colour, linewidths=0.8)
            axes.set_title(f"{row['name']}\nDice {row['dice']:.2f}")
    return figure
