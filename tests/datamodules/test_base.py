"""Items, splits and orders are pure functions of their seeds."""

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import LightningModule, Trainer

from datamodules.base import (
    NoduleDataModule,
    NoduleDataset,
    SubtypeSampler,
    augment,
    check_fractions,
    check_no_patient_crosses,
    split_of,
)
from datamodules.batch import NoduleBatch

FRACTIONS = (0.7, 0.1, 0.2)


class Balls(NoduleDataset):
    """Balls of integer values, of a spacing of 2 mm."""

    image_dtype = np.int16

    def read(self, nodule: int, size: Sequence[int]) -> NoduleBatch:
        axes = np.indices(size)
        center = [s // 2 for s in size]
        squares = [(axis - c) ** 2 for axis, c in zip(axes, center, strict=True)]
        mask = np.sum(squares, axis=0) <= (len(size) + 3 + nodule % 3) ** 2
        image = np.where(mask, 0.0, -800.0) + 5 * np.sin(axes[-1] / 3 + nodule).round()
        n = len(size)
        return {
            "image": torch.tensor(image, dtype=torch.float32)[None],
            "mask": torch.tensor(mask, dtype=torch.float32)[None],
            "subtype": torch.tensor(self.subtypes[nodule]),
            "attributes": {"diameter_mm": torch.tensor(10.0), "texture": torch.tensor(np.nan)},
            "spacing_mm": torch.full((n,), 2.0),
            "origin_mm": torch.tensor([-2.0 * c for c in center[::-1]], dtype=torch.float64),
            "direction": torch.eye(n, dtype=torch.float64),
            "name": f"ball-{nodule}",  # type: ignore[typeddict-item]
            "patient_id": f"P{nodule}",  # type: ignore[typeddict-item]
            "index": torch.tensor(nodule),
        }

    def facts(self) -> Iterable[str]:
        return ["balls"]


class BallModule(NoduleDataModule):
    def build(self) -> dict[str, NoduleDataset]:
        augmented_copies = {"train": self.augmented_copies}
        return {
            split: Balls(
                [0, 0, 0, 1, 2][:number], (12, 12, 12), augmented_copies.get(split, 1), self.seed
            )
            for split, number in {"train": 5, "val": 3, "test": 2, "predict": 0}.items()
        }


def assert_same(first: Any, second: Any) -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype
        torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)
    else:
        assert first == second


@pytest.mark.parametrize("shape", [(12, 12, 12), (16, 16)])
def test_versions_do_not_depend_on_what_was_read_before(shape: tuple[int, ...]) -> None:
    """Augmentation shares one read among a nodule's versions, in whatever order they are
    asked."""
    straight = Balls([0, 1, 2], shape, augmented_copies=4)
    reads = []
    counted = straight.read
    straight.read = lambda nodule, size: reads.append(nodule) or counted(nodule, size)  # type: ignore[method-assign,func-returns-value]
    items = [straight[index] for index in range(12)]
    assert reads == [0, 0, 1, 1, 2, 2]
    for index in (5, 11, 4, 5, 6, 1, 3):
        assert_same(Balls([0, 1, 2], shape, augmented_copies=4)[index], items[index])
        assert_same(straight[index], items[index])


def test_split_of_never_changes() -> None:
    """Values of version 0.1.0: another value would move patients between the splits of users."""
    names = [split_of(f"LIDC-IDRI-{i:04}", 0, FRACTIONS) for i in range(18, 30)]
    first = "train train train test train test"
    assert " ".join(names) == f"{first} train train val test val test"


@given(st.text(), st.integers(0, 2**31), st.floats(0, 1))
def test_split_of_follows_the_shares(patient: str, seed: int, share: float) -> None:
    assert split_of(patient, seed, (1.0, 0.0, 0.0)) == "train"
    assert split_of(patient, seed, (0.0, 0.0, 1.0)) == "test"
    split = split_of(patient, seed, (share, 1 - share, 0.0))
    assert split == split_of(patient, seed, (share, 1 - share, 0.0))
    assert split in ("train", "val") or share < 1


@settings(max_examples=20)
@given(st.lists(st.integers(0, 50), min_size=1), st.integers(0, 1000))
def test_no_patient_crosses(patients: list[int], seed: int) -> None:
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for patient in patients:
        parts[split_of(str(patient), seed, FRACTIONS)].append(str(patient))
    check_no_patient_crosses(parts)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shares_hold(seed: int) -> None:
    splits: list[str] = [split_of(str(i), seed, FRACTIONS) for i in range(5000)]
    for name, share in zip(("train", "val", "test"), FRACTIONS, strict=True):
        assert splits.count(name) / 5000 == pytest.approx(share, abs=0.025)  # 4 sigma


def test_a_patient_in_two_splits_is_an_error() -> None:
    with pytest.raises(ValueError, match="Patient 'b' is in both train and test"):
        check_no_patient_crosses({"train": ["a", "b"], "val": ["c"], "test": ["b"]})


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.9, 0.2, 0.1), (1.2, -0.2, 0.0)])
def test_bad_fractions(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="three numbers of at least 0 that sum to 1"):
        check_fractions(fractions)


@pytest.mark.parametrize("shape", [(12, 14), (10, 12, 14)])
def test_items_are_pure(shape: tuple[int, ...]) -> None:
    data = Balls([0, 1], shape, augmented_copies=3, seed=7)
    torch.manual_seed(0)
    items = [data[i] for i in range(6)]
    state = torch.get_rng_state()
    for i in reversed(range(6)):
        assert_same(data[i], items[i])
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"
    assert [int(item["index"]) for item in items] == list(range(6))
    assert str(items[3]["name"]) == "ball-1"
    assert str(items[5]["name"]) == "ball-1-v2"
    assert_same(items[3]["image"], data.read(1, shape)["image"])
    for item in items:
        assert item["image"].shape == item["mask"].shape == (1, *shape)
        assert item["image"].is_contiguous()
        assert set(item["mask"].flatten().tolist()) == {0, 1}
        torch.testing.assert_close(item["image"], item["image"].round(), rtol=0, atol=0)
        torch.testing.assert_close(item["origin_mm"], items[0]["origin_mm"])
    assert not torch.equal(items[0]["image"], items[1]["image"])
    assert not torch.equal(items[1]["image"], items[2]["image"])
    other = Balls([0, 1], shape, augmented_copies=3, seed=8)
    assert not torch.equal(other[1]["image"], items[1]["image"])
    with pytest.raises(IndexError):
        data[6]


@pytest.mark.parametrize("shape", [(40, 40), (40, 40, 40)])
def test_augmentation_moves_image_and_mask_together(shape: tuple[int, ...]) -> None:
    item = Balls([0], shape).read(0, shape)
    before = copy.deepcopy(item)
    sizes = set()
    for seed in range(8):
        after = augment(item, np.random.default_rng(seed))
        assert_same(item, before)
        inside = after["mask"] > 0
        # partial voxels on the rim aside, what was bright is in the mask and nothing else
        assert ((after["image"] > -400) == inside).float().mean() > 0.995
        scale = float(after["attributes"]["diameter_mm"]) / 10
        assert 0.95 <= scale <= 1.05
        growth = float(after["mask"].sum() / item["mask"].sum()) ** (1 / len(shape))
        assert growth == pytest.approx(scale, abs=0.04)
        center = torch.nonzero(inside[0]).double().mean(0)
        assert (center - 20).abs().max() < 2.0 + 1.5
        sizes.add(round(scale, 6))
    assert len(sizes) == 8


def test_every_axis_is_flipped() -> None:
    ramp = torch.stack(torch.meshgrid(*[torch.arange(16.0)] * 3, indexing="ij")).sum(0)[None]
    item = Balls([0], (16,) * 3).read(0, (16,) * 3)
    item["image"] = ramp
    signs = set()
    for seed in range(64):
        image = augment(item, np.random.default_rng(seed))["image"][0, 4:12, 4:12, 4:12]
        signs.add(tuple(bool(image.diff(dim=d).mean() > 0) for d in range(3)))
    assert len(signs) == 8


def test_versions_below_one() -> None:
    with pytest.raises(ValueError, match="augmented_copies is 0"):
        Balls([0], (4, 4), augmented_copies=0)


SUBTYPES = [0] * 90 + [1] * 8 + [2] * 2


def test_sampler_is_pure() -> None:
    sampler = SubtypeSampler(SUBTYPES, 3, True, seed=1)
    sampler.set_epoch(4)
    order = list(sampler)
    assert order == list(sampler)
    again = SubtypeSampler(SUBTYPES, 3, True, seed=1)
    list(again)
    again.set_epoch(4)
    assert list(again) == order
    again.set_epoch(5)
    assert list(again) != order
    assert len(order) == len(sampler) == 100
    assert set(order) <= set(range(300))


def test_balanced_draws_every_subtype_as_often() -> None:
    sampler = SubtypeSampler(SUBTYPES, 2, True, seed=0)
    counts, augmented_copies = np.zeros(3), np.zeros(2)
    for epoch in range(50):
        sampler.set_epoch(epoch)
        for item in sampler:
            counts[SUBTYPES[item // 2]] += 1
            augmented_copies[item % 2] += 1
    np.testing.assert_allclose(counts / 5000, 1 / 3, atol=0.03)
    np.testing.assert_allclose(augmented_copies / 5000, 1 / 2, atol=0.03)


def test_unbalanced_draws_every_nodule_once() -> None:
    sampler = SubtypeSampler(SUBTYPES, 2, False, seed=0)
    assert sorted(item // 2 for item in sampler) == list(range(100))


@pytest.mark.parametrize("balance", [True, False])
def test_processes_share_one_order(balance: bool) -> None:
    parts = [list(SubtypeSampler(SUBTYPES[:99], 2, balance, 0, 2, rank)) for rank in range(2)]
    assert len(parts[0]) == len(parts[1]) == 50
    if not balance:
        assert {item // 2 for part in parts for item in part} == set(range(99))


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
