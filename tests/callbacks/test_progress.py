"""Lines of training, validation, testing and synthesis; their form is `Progress`'s."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.progress import RunProgress
from datamodules import progress


class Line(LightningModule):
    """One weight, whose loss is 9, 4, 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(3.0))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.weight**2

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Nothing is measured."""

    test_step = predict_step = validation_step

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
        optimizer.step(closure)
        self.weight.data -= 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.0)


@pytest.fixture
def lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """A function that says which lines a trainer's command writes, without speed and time."""
    monkeypatch.setattr(progress, "LINE_EVERY_S", 1e-9)

    def of(command: str, **settings: Any) -> list[str]:
        trainer = Trainer(
            accelerator="cpu", max_steps=3, callbacks=[RunProgress()], logger=False,
            enable_checkpointing=False, enable_model_summary=False, default_root_dir=tmp_path,
            **settings,
        )  # fmt: skip
        loader = DataLoader(torch.ones(8, 1), 2)
        capsys.readouterr()
        loaders = (loader, loader) if command == "fit" else (loader,)
        getattr(trainer, command)(Line(), *loaders)
        told = capsys.readouterr().err.splitlines()
        return [
            ", ".join(part for part in line.split(", ") if "/s" not in part and " a " not in part)
            .removesuffix("00:00 left")
            .removesuffix("00:00 in all")
            .removesuffix(", ")
            for line in told
            if line.startswith(("training", "validation", "test", "synthesis"))
        ]

    return of


def test_training_says_steps_and_loss(lines: Any) -> None:
    found = lines("fit", val_check_interval=2)
    assert found == [
        "training: 1 of 3 steps, loss 9",
        "training: 2 of 3 steps, loss 4",
        *[f"validation: {batch} of 4 batches" for batch in range(1, 5)],
        "training: 3 of 3 steps, loss 1",
    ]


def test_accumulated_gradients_are_one_step(lines: Any) -> None:
    found = lines("fit", accumulate_grad_batches=2, limit_val_batches=0)
    assert [line.split(",")[0] for line in found] == [
        f"training: {n} of 3 steps" for n in (1, 2, 3)
    ]


@pytest.mark.parametrize(("command", "word"), [("test", "test"), ("predict", "synthesis")])
def test_evaluation_says_batches(command: str, word: str, lines: Any) -> None:
    assert lines(command) == [f"{word}: {batch} of 4 batches" for batch in range(1, 5)]


def test_other_processes_say_nothing(lines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "is_global_zero", property(lambda _: False))
    assert lines("test") == []
