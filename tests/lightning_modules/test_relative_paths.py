"""Runs tell nobody where they were made, nor on which machine."""

import shutil
import socket
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_modules.checkpoints import WholeCheckpointIO
from lightning_modules.event_logger import EventLogger


class Line(LightningModule):
    """A model of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        """The loss."""
        loss = self.layer(batch).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain descent."""
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(root: Path, steps: int, resumed_from: Path | None = None) -> ModelCheckpoint:
    """Train, with the three best and the last checkpoint."""
    kept = ModelCheckpoint(
        root / "checkpoints", monitor="loss", save_top_k=2, save_last=True, every_n_train_steps=1,
        filename="{step}",
    )  # fmt: skip
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", callbacks=[kept], plugins=[WholeCheckpointIO()],
        logger=EventLogger(root, name="tensorboard", version=""), log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Line(), DataLoader(torch.ones(8, 1)), ckpt_path=resumed_from)
    return kept


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run in a folder that somebody is named after."""
    fit(tmp_path / "Jane-Doe/run", 3)
    return tmp_path / "Jane-Doe/run"


def test_nothing_in_a_run_tells_folder_or_machine(run: Path) -> None:
    files = [path for path in run.rglob("*") if path.is_file()]
    assert len(files) > 3
    for path in files:
        assert b"Jane" not in path.read_bytes(), path
        assert socket.gethostname() not in path.name.split("."), path
    assert [path for path in files if ".host." in path.name]


def test_callbacks_find_their_files_where_the_run_lies_now(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.move(run, moved)
    checkpoint = WholeCheckpointIO().load_checkpoint(moved / "checkpoints/last.ckpt")
    (state,) = [one for one in checkpoint["callbacks"].values() if "dirpath" in one]
    assert state["dirpath"] == str(moved / "checkpoints")
    paths = {state["last_model_path"], state["best_model_path"], *state["best_k_models"]}
    assert len(paths) == 3
    assert all(Path(path).is_file() for path in paths)
    kept = fit(moved, 5, moved / "checkpoints/last.ckpt")
    names = {path.name for path in (moved / "checkpoints").iterdir()}
    # of the best two those of before are gone
    assert {name for name in names if name.startswith("step=")} == {"step=4.ckpt", "step=5.ckpt"}
    assert {Path(path).name for path in kept.best_k_models} == {"step=4.ckpt", "step=5.ckpt"}
