"""Data modules of requests, set up as a run does it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from datamodules.batch import Roi
from datamodules.insertion.modules import InsertionDataModule

RADIOGRAPH_ROI = Roi(64, 0.8)


def asked_of(
    data: InsertionDataModule, roi: Roi, run: Path = Path("nowhere"), margin_voxels: int = 3
) -> Any:
    """The data module, with the requests asked of a model that has this ROI and margin."""
    model = SimpleNamespace(roi=roi, margin_voxels=margin_voxels)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        lightning_module=model, default_root_dir=str(run)
    )
    data.setup("predict")
    return data
