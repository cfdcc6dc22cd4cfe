"""Guards: memory before the first step and when it runs out."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from callbacks.guards import Guards
from datamodules.batch import Roi
from datamodules.lidc import LIDCDataModule
from lightning_modules.core.saved_tensors import saved_bytes


class Toy(LightningModule):
    """One weight; its step may fail."""

    def __init__(self, raised: BaseException | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.raised = raised

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.raised is not None:
            raise self.raised
        return self.layer.weight.sum()

    def trial_loss(self, batch: Any) -> Tensor:
        return (self.layer(batch["image"].flatten(1)[:, :1]) ** 2).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(module: LightningModule, store: Path, root: Path) -> None:
    data = LIDCDataModule(store, roi=Roi(16), batch_size=4, cache_dir=None)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=3,
        callbacks=[Guards()],
        default_root_dir=root,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)


def test_memory_is_told_before_the_first_step(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        fit(Toy(), store, tmp_path / "run")
    (told,) = [r.message for r in caplog.records if r.message.startswith("Memory:")]
    assert "MiB for weights, gradients and optimizer, about" in told
    assert told.endswith("for a batch of 4")


def test_saved_bytes_are_those_of_the_graph() -> None:
    a, b = torch.zeros(10, 20, requires_grad=True), torch.zeros(20, 30, requires_grad=True)
    # a product keeps both factors, and its square the product
    assert saved_bytes(lambda: ((a @ b) ** 2).sum()) == 4 * (200 + 600 + 300)
    # one tensor is counted once
    assert saved_bytes(lambda: (a * a).sum()) == 4 * 200
    with torch.no_grad():
        assert saved_bytes(lambda: (a * 2 * a).sum()) > 0  # as in training


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory_says_which_settings_help(
    error: BaseException, store: Path, tmp_path: Path
) -> None:
    with pytest.raises(type(error)) as raised:
        fit(Toy(raised=error), store, tmp_path / "run")
    (note,) = raised.value.__notes__
    assert "lower data.init_args.batch_size" in note
    other = ValueError("something else")
    Guards().on_exception(SimpleNamespace(), SimpleNamespace(), other)  # type: ignore[arg-type]
    assert not hasattr(other, "__notes__")
