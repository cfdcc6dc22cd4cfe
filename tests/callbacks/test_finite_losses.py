"""A loss that is not finite ends a run; no weights that it has spoilt reach the disk."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.finite_losses import CHECKED_TOGETHER, FiniteLosses


class Toy(LightningModule):
    """One weight; the loss of a batch with a chosen nodule is not finite."""

    def __init__(self, spoils: int, raises: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.spoils, self.raises, self.steps = spoils, raises, 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.steps += 1
        if self.raises and not torch.isfinite(self.layer.weight).all():
            message = "the algorithm failed to converge"
            raise ValueError(message)
        scale = torch.where((batch["index"] == self.spoils).any(), torch.inf, 1.0)
        return self.layer.weight.sum() * scale

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        assert self.layer.weight.isfinite().all()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def nodules() -> DataLoader[Any]:
    items: Any = [{"index": n, "name": f"n{n}"} for n in range(400)]
    return DataLoader(items, 2)


def fit(module: Toy, root: Path, **settings: Any) -> None:
    saver = ModelCheckpoint(
        root, save_last=True, save_top_k=0, **{"every_n_train_steps": 30, **settings}
    )
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[FiniteLosses(), saver],
        default_root_dir=root,
        logger=False,
        val_check_interval=70,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, nodules(), nodules())


def saved(root: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(root / "last.ckpt", weights_only=True)
    assert all(weight.isfinite().all() for weight in checkpoint["state_dict"].values())
    return checkpoint


@pytest.mark.parametrize(
    ("step", "every", "last", "steps"),
    [
        (29, 30, None, 30),  # in the step before a checkpoint
        (30, 30, 30, 60),
        (30, 150, None, CHECKED_TOGETHER),
        (61, 60, 60, 70),  # before a validation
        (199, 150, 150, 200),  # the last step
    ],
)
def test_it_ends_before_the_weights_are_used(
    step: int, every: int, last: int | None, steps: int, tmp_path: Path
) -> None:
    """At the next checkpoint or sooner; what is told is the first batch that was not finite."""
    module = Toy(spoils=2 * step + 1)
    with pytest.raises(RuntimeError, match=rf"loss is -?inf at step {step}: .* listed in"):
        fit(module, tmp_path, every_n_train_steps=every)
    assert module.steps == steps
    if last is None:
        assert not (tmp_path / "last.ckpt").exists()
    else:
        assert saved(tmp_path)["global_step"] == last
    found = json.loads((tmp_path / "non_finite.json").read_text())
    assert (found["step"], found["rank"]) == (step, 0)
    assert found["nodules"] == {"": [f"n{2 * step}", f"n{2 * step + 1}"]}


def test_files_of_weights_alone_are_kept_from_it_too(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="at step 59"):
        fit(Toy(spoils=118), tmp_path, save_weights_only=True)
    assert saved(tmp_path)["global_step"] == 30


def test_what_goes_wrong_of_spoilt_weights_is_told_as_the_loss(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="at step 33") as told:
        fit(Toy(spoils=66, raises=True), tmp_path)
    assert "failed to converge" in str(told.value.__cause__)


def test_a_finite_run_is_left_alone(tmp_path: Path) -> None:
    module = Toy(spoils=-1)
    fit(module, tmp_path)
    assert (module.steps, saved(tmp_path)["global_step"]) == (200, 180)
    assert not (tmp_path / "non_finite.json").exists()


@pytest.mark.parametrize(("other", "told"), [(9, None), (2, "of another process.* step 2")])
def test_several_processes_end_together(other: int, told: str | None, tmp_path: Path) -> None:
    """What is last is the place of another process's first loss that is not finite."""

    def reduce(first: Tensor, reduce_op: str) -> Tensor:
        assert reduce_op == "min"
        return first.clamp(max=other)

    trainer: Any = SimpleNamespace(
        strategy=SimpleNamespace(reduce=reduce), default_root_dir=tmp_path, global_rank=1
    )
    trainer.checkpoint_callbacks, module = [], Toy(0)
    for bad in (None, 5):
        callback = FiniteLosses()
        for step in range(CHECKED_TOGETHER):
            trainer.global_step = step
            batch = {"index": torch.tensor([step]), "name": [f"n{step}"]}
            callback.on_train_batch_start(trainer, module, batch, step)
            loss = torch.tensor(torch.nan if step == bad else 1.0)
            callback.on_before_backward(trainer, module, loss)
        expected = told or ("loss is nan at step 5" if bad else "of another process.* step 9")
        with pytest.raises(RuntimeError, match=expected):
            callback.on_train_batch_end(trainer)
    assert (tmp_path / "non_finite.json").exists() == (told is None)
