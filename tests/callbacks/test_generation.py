"""One sampling pass for all metrics, in training and in test."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from callbacks.fid import FeatureDistances
from callbacks.generation import Drawn, GenerationMetric, GenerationMetrics
from datamodules.batch import Provenance, Roi
from datamodules.lidc import LIDCDataModule
from lightning_modules.core.features import RandomFeatures


class Copies(LightningModule):
    """Synthesizes the real nodule again, a little brighter with every seed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.window = (-1000.0, 400.0)
        self.provenance = Provenance("", 5, 20, ())
        self.sampled: list[tuple[int, int]] = []

    def sample(self, batch: Any, seed: int) -> Any:
        self.sampled += [(seed, index) for index in batch["index"].tolist()]
        return SimpleNamespace(image=batch["image"] + 10.0 * (seed - 5))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.weight.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class Recorder(GenerationMetric):
    """Remembers what it was shown."""

    draws = 2

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Drawn] = []
        self.references: dict[bool, list[Tensor]] = {False: [], True: []}
        self.begun = 0

    @property
    def provenance(self) -> dict[str, str]:
        return {"network": "none", "weights": "none"}

    def begin(self, spatial_dims: int, device: torch.device) -> None:
        assert spatial_dims == 3
        self.begun += 1
        self.shown = []

    def reference(self, image: Tensor, position: Tensor, other: bool) -> None:
        self.references[other].append(image)

    def update(self, drawn: Drawn) -> dict[str, Tensor]:
        self.shown.append(drawn)
        return {"place": drawn.position.float()}

    def compute(self) -> dict[str, float]:
        return {"number": float(sum(len(drawn.position) for drawn in self.shown))}


@pytest.fixture
def data(store: Path) -> LIDCDataModule:
    settings: dict[str, Any] = {"roi": Roi(16), "batch_size": 4, "cache_dir": None}
    return LIDCDataModule(
        store, fractions=(0.5, 0.25, 0.25), augmented_copies=3, batches_per_epoch=4, **settings
    )


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    def make(callback: GenerationMetrics, **settings: Any) -> Trainer:
        return Trainer(
            accelerator="cpu",
            callbacks=[callback],
            default_root_dir=tmp_path / "run",
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
            **settings,
        )

    return make


def test_the_whole_test_split_is_drawn_once_and_written(
    data: LIDCDataModule, make_trainer: Any, tmp_path: Path
) -> None:
    recorder, model = Recorder(), Copies()
    callback = GenerationMetrics({"a": recorder, "b": Recorder()}, samples=2)
    trainer = make_trainer(callback)
    trainer.test(model, data, verbose=False)
    nodules = data.datasets["test"]
    assert sorted(model.sampled) == [(seed, i) for seed in (5, 6) for i in range(len(nodules))]
    drawn = recorder.shown
    real = torch.cat([part.real for part in drawn])
    images = torch.stack([item["image"] for item in nodules])  # type: ignore[attr-defined]
    torch.testing.assert_close(real, ((images + 1000) / 1400).clamp(0, 1))
    first, second = (torch.cat([part.generated[k] for part in drawn]) for k in (0, 1))
    assert torch.equal(first, real)
    torch.testing.assert_close(second, (real + 10 / 1400).clamp(0, 1), atol=1e-3, rtol=0)
    # as many others as there are nodules, from the training split, none of them augmented
    others = torch.cat(recorder.references[True])
    number = min(len(nodules), len(data.datasets["train"].subtypes))
    plain = [data.datasets["train"][3 * k]["image"] for k in range(number)]
    torch.testing.assert_close(others, ((torch.stack(plain) + 1000) / 1400).clamp(0, 1))

    table = pd.read_csv(tmp_path / "run/generation.csv")
    assert list(table["metric"]) == ["a", "b"]
    assert set(table["value"]) == {len(nodules)}
    assert set(table["samples"]) == {len(nodules)}
    assert set(table["seed"]) == {5}
    assert set(table["provenance"]) == {"network: none; weights: none"}
    assert table["code"].str.startswith("0.").all()
    assert (table["data"] == data.fingerprint[:16]).all()
    rows = pd.read_csv(tmp_path / "run/nodules.csv")
    assert set(rows["name"]) == {nodules[i]["name"] for i in range(len(nodules))}
    assert set(rows["place"]) == set(range(len(nodules)))
    trainer.test(model, data, verbose=False)
    assert len(pd.read_csv(tmp_path / "run/generation.csv")) == 2  # of the same step: replaced


def test_in_training_a_few_every_few_epochs(
    data: LIDCDataModule, make_trainer: Any, tmp_path: Path
) -> None:
    recorder, model = Recorder(), Copies()
    callback = GenerationMetrics({"a": recorder}, samples=3, every_n_epochs=2)
    trainer = make_trainer(callback, max_epochs=5, num_sanity_val_steps=1)
    trainer.fit(model, data)
    assert sorted(model.sampled) == sorted(2 * [(seed, i) for seed in (5, 6) for i in range(3)])
    assert len(torch.cat(recorder.references[False])) == 3  # real images are seen once
    assert trainer.callback_metrics["val/a/number"] == 3
    table = pd.read_csv(tmp_path / "run/generation.csv")
    assert list(table["step"]) == [
        2 * trainer.num_training_batches,
        4 * trainer.num_training_batches,
    ]


def test_in_training_every_few_steps(
    data: LIDCDataModule, make_trainer: Any, tmp_path: Path
) -> None:
    recorder, model = Recorder(), Copies()
    model.part = torch.nn.Dropout().eval()
    callback = GenerationMetrics({"a": recorder}, samples=3, every_n_steps=2)
    trainer = make_trainer(callback, max_steps=5, accumulate_grad_batches=2, max_epochs=-1)
    trainer.fit(model, data)
    assert recorder.begun == 3  # the real images, and twice the synthetic ones
    assert list(pd.read_csv(tmp_path / "run/generation.csv")["step"]) == [2, 4]
    assert model.training
    assert not model.part.training


def test_perfect_copies_have_no_distance_and_the_floor_has(
    data: LIDCDataModule, make_trainer: Any
) -> None:
    callback = GenerationMetrics({"fid": FeatureDistances(RandomFeatures(width=8))})
    trainer = make_trainer(callback)
    trainer.test(Copies(), data, verbose=False)
    figures = trainer.callback_metrics
    assert figures["test/fid/fid"] == pytest.approx(0, abs=1e-6)
    assert figures["test/fid/floor/fid"] > 1e-5
    assert callback.metrics["fid"].provenance["network"].startswith("random")


@pytest.mark.parametrize(
    "settings", [{"metrics": {}}, {"samples": 1}, {"every_n_epochs": 0}, {"every_n_steps": 0}]
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give a metric, two samples or more"):
        GenerationMetrics(**{"metrics": {"a": Recorder()}, **settings})
