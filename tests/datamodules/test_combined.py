"""Several collections side by side."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.batch import Roi
from datamodules.collections import LIDCCollection
from datamodules.combined import CombinedDataModule

SOLID, GROUND_GLASS = ({"select": f"subtype == '{name}'"} for name in ("solid", "ground-glass"))


@pytest.fixture
def make(tmp_path: Path, write_store: Callable[..., Path]) -> Callable[..., CombinedDataModule]:
    root = write_store(tmp_path / "store", 2, patients=40)

    def combine(parts: dict[str, dict[str, Any]], **settings: Any) -> CombinedDataModule:
        given = {"roi": Roi((16, 16)), "batch_size": 4, "fractions": (0.6, 0.2, 0.2), **settings}
        collections: Any = {name: LIDCCollection(root, **more) for name, more in parts.items()}
        data = CombinedDataModule(collections, **{"cache_dir": None, **given})
        data.setup()
        return data

    return combine


def test_a_batch_has_one_of_each_part(make: Callable[..., CombinedDataModule]) -> None:
    data = make(
        {"solid": SOLID, "ground-glass": GROUND_GLASS}, augmented_copies=2, batches_per_epoch=6
    )
    batches: list[Any] = [batch for batch, _, _ in data.train_dataloader()]
    assert batches
    for batch in batches:
        assert set(batch) == {"solid", "ground-glass"}
        assert (batch["solid"]["subtype"] == 0).all()
        assert (batch["ground-glass"]["subtype"] == 2).all()
        assert len(batch["solid"]["name"]) == 4
        assert batch["solid"]["draw"].tolist() == batch["ground-glass"]["draw"].tolist()
    assert len(batches) == data.training_batches == 6
    names = [name for batch in data.statistics_batches() for name in batch["name"]]
    whole = [name for part in data.parts.values() for name in part.table["nodule_id"]]
    assert names == whole


def test_the_first_part_is_validated_tested_and_asked_for(
    make: Callable[..., CombinedDataModule],
) -> None:
    data = make({"solid": SOLID, "ground-glass": GROUND_GLASS})
    assert data.datasets["train"] is data.parts["solid"]
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        assert all((batch["subtype"] == 0).all() for batch in loader)


def test_latents_of_all_parts_are_cached(
    make: Callable[..., CombinedDataModule], tmp_path: Path
) -> None:
    data = make({"a": {}, "b": GROUND_GLASS}, cache_dir=tmp_path / "cache")

    def encode(batch: Any) -> dict[str, torch.Tensor]:
        return dict.fromkeys(("latent_mean", "latent_logvar", "context"), batch["image"])

    reports = [data.cache_latents(encode, "key", 0, 1, lambda: None) for _ in range(2)]
    cached = [*data.parts.values(), data.datasets["val"]]
    assert reports[0]["entries"] == reports[1]["entries"] == sum(map(len, cached))
    assert reports[1]["misses"] == 0
    batch: Any = next(iter(data.train_dataloader()))[0]
    assert all("context" in of_part for of_part in batch.values())


def test_the_fingerprint_is_that_of_all_parts(make: Callable[..., CombinedDataModule]) -> None:
    one, same = (make({"a": SOLID, "b": GROUND_GLASS}) for _ in range(2))
    others = [make({"a": SOLID, "c": GROUND_GLASS}), make({"a": SOLID, "b": {}})]
    others.append(make({"a": SOLID, "b": GROUND_GLASS}, split_seed=1))
    assert one.fingerprint == same.fingerprint
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 4
    same.load_state_dict(one.state_dict())
    with pytest.warns(UserWarning, match="may be among these"):
        others[0].load_state_dict(one.state_dict())


def test_patients_of_all_parts_are_training_patients(
    make: Callable[..., CombinedDataModule],
) -> None:
    data = make({"solid": SOLID, "ground-glass": GROUND_GLASS})
    alone = [make({name: part}) for name, part in (("s", SOLID), ("g", GROUND_GLASS))]
    assert data.training_patients == alone[0].training_patients | alone[1].training_patients
    assert all(len(key) == 8 + 1 + 16 for key in data.training_patients)  # of the site, too


def test_a_patient_must_be_in_one_split_of_all_parts(
    make: Callable[..., CombinedDataModule],
) -> None:
    class OtherSplit(LIDCCollection):
        def splits(self, roi: Any, fractions: Any, split_seed: int) -> Any:
            return super().splits(roi, fractions, split_seed + 1)

    data = make({"a": {}})
    other = OtherSplit(data.collections["a"].root)
    mixed = CombinedDataModule({**data.collections, "b": other}, roi=Roi((16, 16)))
    with pytest.raises(ValueError, match="all nodules of a patient must be in one split"):
        mixed.setup()


def test_there_must_be_a_part() -> None:
    with pytest.raises(ValueError, match="give one part or more"):
        CombinedDataModule({}, roi=Roi()).setup()
