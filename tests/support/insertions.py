"""Requests as a run asks them: of a model that paints, or of none."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch
from lightning import LightningModule, Trainer

from callbacks.insertion import StudyWriter
from datamodules.batch import NoduleBatch, Provenance, Roi, Synthesis
from datamodules.insertion.modules import InsertionDataModule
from datamodules.insertion.requests import InsertionPlan
from lightning_modules.core.inpainting import feather, paste

CT_ROI, RADIOGRAPH_ROI = Roi(32), Roi(64, 0.8)


class Painter(LightningModule):
    """Paints 0 HU where a nodule is asked for."""

    margin_voxels = 3
    provenance = Provenance("painter.ckpt", 0, 1, ("a", "b"))

    def __init__(self, roi: Roi) -> None:
        super().__init__()
        self.roi = roi

    def predict_step(self, batch: Any, batch_idx: int) -> Synthesis:
        weight = feather(batch["mask"], 3)
        image = paste(batch["image"], torch.zeros_like(batch["image"]), weight)
        none = torch.zeros(len(image), 0)
        return Synthesis(
            *(image, batch["image"], batch, none, none, none[0]),
            window=(-1000.0, 400.0),
            provenance=self.provenance,
        )


def painted(
    data: InsertionDataModule, run: Path, writer: StudyWriter, roi: Roi = CT_ROI, **settings: Any
) -> pd.DataFrame:
    """The manifest of a run in which the `Painter` fulfils the requests.

    Args:
        data: the requests.
        run: folder of the run.
        writer: of the studies.
        roi: of the painter.
        settings: more of the trainer's.
    """
    trainer = Trainer(
        default_root_dir=run, accelerator="cpu", logger=False, enable_progress_bar=False,
        callbacks=[writer], **settings,
    )  # fmt: skip
    trainer.predict(Painter(roi), data, return_predictions=False)
    return pd.read_csv(run / "nodules.csv", dtype=str).set_index("nodule_id")


def asked_of(
    data: InsertionDataModule, roi: Roi, run: Path = Path("nowhere"), margin_voxels: int = 3
) -> tuple[InsertionPlan, list[NoduleBatch]]:
    """The plan and all batches of requests to a model that has this ROI and margin."""
    model = SimpleNamespace(roi=roi, margin_voxels=margin_voxels)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        lightning_module=model, default_root_dir=str(run), world_size=1, global_rank=0
    )
    data.setup("predict")
    return data.plan, list(data.predict_dataloader())
