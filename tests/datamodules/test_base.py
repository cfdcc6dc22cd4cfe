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
    module = BallModule(batch_size=2, augmented_copies=2, balance=False, batches_per_epoch=3)
    module.setup("fit")
    train = list(module.train_dataloader())
    assert [batch["image"].shape for batch in train] == [(2, 1, 12, 12, 12)] * 3
    assert all(len(batch["name"]) == 2 for batch in train)
    assert [batch["draw"].tolist() for batch in train] == [[0, 1], [2, 3], [4, 5]]
    val = list(module.val_dataloader())
    assert torch.cat([batch["index"] for batch in val]).tolist() == [0, 1, 2]
    assert val[0]["attributes"]["diameter_mm"].shape == (2,)
    assert len(list(module.test_dataloader())) == 1
    assert module.predict_dataloader() == []


def test_workers_change_nothing() -> None:
    batches = []
    for workers in (0, 1):
        module = BallModule(
            batch_size=2, augmented_copies=3, num_workers=workers, seed=3, batches_per_epoch=4
        )
        module.setup()
        batches.append(list(module.train_dataloader()))
    for first, second in zip(*batches, strict=True):
        assert_same(first, second)


@pytest.mark.parametrize("balance", [True, False])
def test_a_batch_may_be_larger_than_the_data_but_there_must_be_a_nodule(balance: bool) -> None:
    module = BallModule(batch_size=13, balance=balance, batches_per_epoch=2)
    module.setup()
    items = torch.cat([batch["index"] for batch in module.train_dataloader()])
    assert len(items) == 26
    if not balance:
        for start in range(0, 25, 5):
            assert sorted(items[start : start + 5].tolist()) == [0, 1, 2, 3, 4]
    module.datasets["train"] = balls([], (12, 12, 12), 1, 0)
    with pytest.raises(ValueError, match=r"no nodule \(train\): give more data"):
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
        self.seen: list[tuple[int, int]] = []

    def training_step(self, batch: NoduleBatch) -> torch.Tensor:
        self.seen += zip(batch["draw"].tolist(), batch["index"].tolist(), strict=True)
        loss: torch.Tensor = self.layer(batch["image"].mean().reshape(1, 1)).sum()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def train(root: Path, data: BallModule, ckpt: Path | None = None, **settings: Any) -> Recorder:
    """Fit, save, and return what was seen."""
    recorder = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=root,
        **settings,
    )
    trainer.fit(recorder, data, ckpt_path=ckpt)
    trainer.save_checkpoint(root / "last.ckpt")
    return recorder


@pytest.mark.parametrize(("workers", "limit"), [(0, 1.0), (1, 1.0), (0, 2)])
def test_training_goes_on_behind_the_nodules_that_it_had(
    workers: int, limit: float, tmp_path: Path
) -> None:
    """In the middle of an epoch, at its end and over several, with batches of other sizes."""
    settings: dict[str, Any] = {"augmented_copies": 2, "seed": 3, "num_workers": workers}
    settings |= {"batches_per_epoch": 3}
    seen, last = [], None
    for steps, batch_size in ((1, 2), (3, 5), (5, 1), (6, 4), (12, 3)):
        data = BallModule(batch_size=batch_size, **settings)
        recorder = train(tmp_path, data, last, max_steps=steps, limit_train_batches=limit)
        seen += recorder.seen
        last = tmp_path / "last.ckpt"
        assert data.consumed == len(seen)
    assert [draw for draw, _ in seen] == list(range(2 + 10 + 2 + 4 + 18))
    straight = train(tmp_path, BallModule(batch_size=36, **settings), max_steps=1)
    assert straight.seen == seen


def test_training_goes_on_behind_the_nodules_of_two_processes(tmp_path: Path) -> None:
    """Three batches of 2 on each of two, saved as the first process does, then on one."""
    data = BallModule(batch_size=2)
    data.setup()
    progress = SimpleNamespace(total=SimpleNamespace(processed=0))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    drawn = set()
    for rank in (0, 1):
        data.trainer = SimpleNamespace(  # type: ignore[assignment]
            world_size=2, global_rank=rank, fit_loop=loop
        )
        batches = iter(data.train_dataloader())
        drawn |= {draw for _ in range(3) for draw in next(batches)["draw"].tolist()}
    progress.total.processed = 3
    state = data.state_dict()
    last = train(tmp_path, BallModule(batch_size=4), max_steps=3)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["BallModule"] == state  # one process with batches of 4 had the same
    last = train(tmp_path, BallModule(batch_size=16), tmp_path / "last.ckpt", max_steps=4)
    assert drawn == set(range(12))
    assert [draw for draw, _ in last.seen] == list(range(12, 28))


def test_fewer_batches_than_processes_are_refused() -> None:
    data = BallModule(batch_size=4)
    data.setup()
    data.datasets["predict"] = data.datasets["train"]
    data.trainer = SimpleNamespace(world_size=8, global_rank=0)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"batch\(es\) of 4 for 8 processes: lower batch_size"):
        data.predict_dataloader()


def test_lightning_may_take_an_order_of_its_own(tmp_path: Path) -> None:
    data = BallModule(batch_size=2, balance=False)
    with pytest.warns(UserWarning, match="overfit"):
        recorder = train(tmp_path, data, max_epochs=2, overfit_batches=2)
    assert recorder.seen == [(n, n) for n in range(4)] * 2


def test_lightning_refuses_to_resume_on_other_data(tmp_path: Path) -> None:
    train(tmp_path, BallModule(seed=3, augmented_copies=2), max_steps=1)
    other = BallModule(seed=3, augmented_copies=3)
    with pytest.raises(ValueError, match="resume with the same files"):
        train(tmp_path, other, tmp_path / "last.ckpt", max_steps=2)


def test_lightning_refuses_to_resume_with_another_seed(tmp_path: Path) -> None:
    train(tmp_path, BallModule(seed=3), max_steps=1)
    with pytest.raises(ValueError, match="begun with the seed 3, and the config says 4: give"):
        train(tmp_path, BallModule(seed=4), tmp_path / "last.ckpt", max_steps=2)


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
