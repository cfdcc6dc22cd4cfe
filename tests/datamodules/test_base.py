"""Loaders of a data module, and what a checkpoint remembers of its data."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from balls import assert_same, balls
from lightning import LightningModule, Trainer

from datamodules.base import NoduleDataModule
from datamodules.batch import NoduleBatch, Roi
from datamodules.dataset import NoduleDataset
from datamodules.sampler import SubtypeSampler


class BallModule(NoduleDataModule):
    def build(self) -> dict[str, NoduleDataset]:
        augmented_copies = {"train": self.augmented_copies}
        return {
            split: balls(
                [0, 0, 0, 1, 2][:number], (12, 12, 12), augmented_copies.get(split, 1), self.seed
            )
            for split, number in {"train": 5, "val": 3, "test": 2, "predict": 0}.items()
        }


def test_loaders() -> None:
    module = BallModule(batch_size=2, augmented_copies=2, balance=False)
    module.setup("fit")
    train = list(module.train_dataloader())
    assert [batch["image"].shape for batch in train] == [(2, 1, 12, 12, 12)] * 2
    assert all(len(batch["name"]) == 2 for batch in train)
    val = list(module.val_dataloader())
    assert torch.cat([batch["index"] for batch in val]).tolist() == [0, 1, 2]
    assert val[0]["attributes"]["diameter_mm"].shape == (2,)
    assert len(list(module.test_dataloader())) == 1
    assert module.predict_dataloader() == []


def test_workers_change_nothing() -> None:
    batches = []
    for workers in (0, 1):
        module = BallModule(batch_size=2, augmented_copies=3, num_workers=workers, seed=3)
        module.setup()
        loader = module.train_dataloader()
        loader.sampler.set_epoch(2)  # type: ignore[attr-defined]
        batches.append(list(loader))
    for first, second in zip(*batches, strict=True):
        assert_same(first, second)


def test_a_batch_needs_enough_nodules() -> None:
    module = BallModule(batch_size=6)
    module.setup()
    with pytest.raises(ValueError, match=r"5 nodule.*lower batch_size"):
        module.train_dataloader()


@pytest.mark.parametrize(
    ("own", "of_model", "found"),
    [
        (None, Roi(24, 0.7), Roi(24, 0.7)),
        (Roi(24, 0.7), None, Roi(24, 0.7)),
        (Roi(24, 0.7), Roi(24, 0.7), Roi(24, 0.7)),
        (Roi(24, 0.7), Roi(24, 0.8), "The data's ROI is .*0.7.*, the model's .*0.8"),
        (Roi(16, 0.7), Roi(24, 0.7), "leave data.init_args.roi out"),
        (None, None, "There is no ROI: give data.init_args.roi"),
    ],
)
def test_the_roi_is_the_models_and_another_is_refused(
    own: Roi | None, of_model: Roi | None, found: Roi | str
) -> None:
    module = BallModule(own)
    model = SimpleNamespace() if of_model is None else SimpleNamespace(roi=of_model)
    module.trainer = SimpleNamespace(lightning_module=model)  # type: ignore[assignment]
    if isinstance(found, Roi):
        assert module.roi == found
    else:
        with pytest.raises(ValueError, match=found):
            _ = module.roi


class Recorder(LightningModule):
    """Notes what it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[list[int]] = []

    def on_train_epoch_start(self) -> None:
        self.seen.append([])

    def training_step(self, batch: NoduleBatch) -> torch.Tensor:
        self.seen[-1] += batch["index"].tolist()
        loss: torch.Tensor = self.layer(batch["image"].mean().reshape(1, 1)).sum()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_lightning_sets_the_epoch_and_refuses_to_resume_on_other_data(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "limit_val_batches": 0,
        "default_root_dir": tmp_path,
    }
    recorder, data = Recorder(), BallModule(batch_size=5, augmented_copies=2, seed=3)
    trainer = Trainer(max_epochs=3, **settings)
    trainer.fit(recorder, data)
    sampler = SubtypeSampler([0, 0, 0, 1, 2], 2, True, seed=3)
    for epoch, seen in enumerate(recorder.seen):
        sampler.set_epoch(epoch)
        assert seen == list(sampler)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = Recorder()
    Trainer(max_epochs=4, **settings).fit(
        again,
        BallModule(batch_size=5, augmented_copies=2, seed=3),
        ckpt_path=str(tmp_path / "last.ckpt"),
    )
    sampler.set_epoch(3)
    assert again.seen == [list(sampler)]
    other = BallModule(batch_size=5, augmented_copies=2, seed=4)
    with pytest.raises(ValueError, match="resume with the same files"):
        Trainer(max_epochs=4, **settings).fit(
            Recorder(), other, ckpt_path=str(tmp_path / "last.ckpt")
        )


def test_fingerprint_and_checkpoint() -> None:
    first, same = (
        BallModule(augmented_copies=2, seed=0),
        BallModule(augmented_copies=2, seed=0, batch_size=1),
    )
    other = BallModule(augmented_copies=2, seed=1)
    assert first.fingerprint == same.fingerprint
    assert len(first.fingerprint) == 64
    same.load_state_dict(first.state_dict())
    with pytest.warns(UserWarning, match="may be among these"):
        other.load_state_dict(first.state_dict())
