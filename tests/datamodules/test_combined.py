"""Several data modules side by side."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules import CombinedDataModule, LIDCDataModule
from datamodules.batch import Roi


@pytest.fixture
def make_part(tmp_path: Path, write_store: Callable[..., Path]) -> Callable[..., LIDCDataModule]:
    root = write_store(tmp_path / "store", 2, patients=40)

    def make(**settings: Any) -> LIDCDataModule:
        given = {"roi": Roi((16, 16)), "batch_size": 4, "fractions": (0.6, 0.2, 0.2), **settings}
        return LIDCDataModule(root, **{"cache_dir": None, **given})

    return make


def test_a_batch_has_one_of_each_part(make_part: Callable[..., Any]) -> None:
    parts = {name: make_part(select=f"subtype == '{name}'") for name in ("solid", "ground-glass")}
    data = CombinedDataModule(parts)
    data.setup()
    batches = [batch for batch, _, _ in data.train_dataloader()]
    assert batches
    for batch in batches:
        assert set(batch) == {"solid", "ground-glass"}
        assert (batch["solid"]["subtype"] == 0).all()
        assert (batch["ground-glass"]["subtype"] == 2).all()
        assert len(batch["solid"]["name"]) == 4
    assert len(batches) == min(len(part.train_dataloader()) for part in parts.values())
    assert data.val_dataloader().dataset is parts["solid"].datasets["val"]


def test_latents_of_all_parts_are_cached(make_part: Callable[..., Any], tmp_path: Path) -> None:
    part = make_part(cache_dir=tmp_path / "cache")
    data = CombinedDataModule(
        {"a": part, "b": make_part(cache_dir=tmp_path / "cache", augmented_copies=2)}
    )
    data.setup()

    def encode(batch: Any) -> dict[str, torch.Tensor]:
        return dict.fromkeys(("latent_mean", "latent_logvar", "context"), batch["image"])

    reports = [data.cache_latents(encode, "key", 0, 1, lambda: None) for _ in range(2)]
    entries = sum(len(p.datasets["train"]) + len(p.datasets["val"]) for p in data.parts.values())
    assert reports[0]["entries"] == reports[1]["entries"] == entries
    assert reports[1]["misses"] == 0


def test_the_fingerprint_is_that_of_all_parts(make_part: Callable[..., Any]) -> None:
    one = CombinedDataModule({"a": make_part(), "b": make_part(seed=1)})
    same = CombinedDataModule({"a": make_part(), "b": make_part(seed=1)})
    other = CombinedDataModule({"a": make_part(), "b": make_part(seed=2)})
    assert one.fingerprint == same.fingerprint != other.fingerprint
    same.load_state_dict(one.state_dict())
    third = CombinedDataModule({"a": make_part(), "c": make_part(seed=1)})
    with pytest.raises(ValueError, match=r"trained on the parts \['a', 'b'\]"):
        third.load_state_dict(one.state_dict())


def test_a_patient_must_be_in_one_split_of_all_parts(make_part: Callable[..., Any]) -> None:
    data = CombinedDataModule({"a": make_part(), "b": make_part(seed=1)})
    with pytest.raises(ValueError, match="all nodules of a patient must be in one split"):
        data.setup()


def test_parts_must_have_one_spacing(make_part: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"ROIs are .*spacing_mm=1\.0.*spacing_mm=2\.0"):
        CombinedDataModule({"a": make_part(), "b": make_part(roi=Roi((16, 16), 2.0))})
    with pytest.raises(ValueError, match="give one part or more"):
        CombinedDataModule({})
