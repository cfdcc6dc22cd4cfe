"""A small data set of nodules on disk, and tiny models for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning import Trainer, seed_everything
from radiographs import SETTINGS, Make, parts

from datamodules.batch import Roi
from datamodules.collections import LIDCCollection
from datamodules.combined import CombinedDataModule
from datamodules.lidc import LIDCDataModule
from lightning_modules.autoencoder import Autoencoder
from lightning_modules.core.adapters import AdapterConfig
from lightning_modules.core.codec import LatentCodec
from lightning_modules.core.conditioners import (
    BackgroundConditioner,
    HistogramConditioner,
    MaskConditioner,
    SubtypeConditioner,
)
from lightning_modules.core.process import DiffusionProcess
from lightning_modules.core.regularizer import HistogramRegularizer
from lightning_modules.core.sampling import SamplingConfig
from lightning_modules.core.unet import UNetConfig
from lightning_modules.cxr import CXRAdapter, CXRDiffusion
from lightning_modules.diffusion import NoduleDiffusion
from lightning_modules.heads.head import ModalityHead


@pytest.fixture
def make_data(tmp_path: Path, write_store: Callable[..., Path]) -> Callable[..., LIDCDataModule]:
    """A function that makes a data module over a store of its own."""

    def make(spatial_dims: int, **settings: object) -> LIDCDataModule:
        root = tmp_path / f"store{spatial_dims}"
        if not root.exists():
            write_store(root, spatial_dims)
        settings = {"roi": Roi((16,) * spatial_dims), "batch_size": 4, **settings}
        settings = {"cache_dir": tmp_path / "cache", "batches_per_epoch": 5, **settings}
        return LIDCDataModule(root, fractions=(0.6, 0.2, 0.2), **settings)

    return make


@pytest.fixture
def make_codec() -> Callable[[int], LatentCodec]:
    """A function that makes a codec of a few thousand weights."""
    return lambda spatial_dims: LatentCodec(spatial_dims, (4, 8), 2, norm_num_groups=2)


@pytest.fixture
def make_diffusion(make_codec: Callable[[int], LatentCodec]) -> Callable[..., NoduleDiffusion]:
    """A function that makes a small diffusion model with every kind of condition."""

    def make(
        spatial_dims: int,
        window: tuple[float, float] = (-1000, 400),
        margin_voxels: int = 2,
        histogram_bins: int = 16,
        regularizer_weight: float = 0.5,
        **settings: object,
    ) -> NoduleDiffusion:
        head = ModalityHead(
            window,
            {
                "mask": MaskConditioner(),
                "background": BackgroundConditioner(),
                "subtype": SubtypeConditioner(),
                "histogram": HistogramConditioner(),
            },
            {"histogram": HistogramRegularizer(min_voxels=1, weight=regularizer_weight)},
            margin_voxels=margin_voxels,
            histogram_bins=histogram_bins,
        )
        unet = UNetConfig((8, 16), (False, True), 1, 8, 4, 16, 16)
        defaults = {"sampling": SamplingConfig(evaluations=4), "warmup_steps": 5, "ema_decay": 0.9}
        defaults["roi"] = Roi((16,) * spatial_dims)
        codec = make_codec(spatial_dims)
        return NoduleDiffusion(head, codec, unet, DiffusionProcess(), **{**defaults, **settings})

    return make


@pytest.fixture
def make_autoencoder(make_codec: Callable[[int], LatentCodec]) -> Callable[..., Autoencoder]:
    """A function that makes a small autoencoder module."""

    def make(spatial_dims: int, **settings: object) -> Autoencoder:
        window = (-1000, 400)
        roi = Roi((16,) * spatial_dims)
        return Autoencoder(make_codec(spatial_dims), window, roi, warmup_steps=5, **settings)

    return make


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """A function that makes a quiet trainer on one CPU process."""

    def make(max_steps: int = 2, **settings: object) -> Trainer:
        defaults = {
            "accelerator": "cpu",
            "default_root_dir": tmp_path / "run",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        return Trainer(max_steps=max_steps, **{**defaults, **settings})

    return make


@pytest.fixture
def stage1(tmp_path: Path, make_data: Make, make_autoencoder: Make, make_trainer: Make) -> Make:
    """A function that trains a codec for `spatial_dims` and gives its checkpoint."""

    def make(spatial_dims: int, steps: int = 3) -> Path:
        seed_everything(0)
        trainer = make_trainer(steps)
        trainer.fit(make_autoencoder(spatial_dims, learning_rate=1e-2), make_data(spatial_dims))
        path = tmp_path / f"stage1-{spatial_dims}.ckpt"
        trainer.save_checkpoint(path)
        return path

    return make


@pytest.fixture
def trained(make_data: Make, make_diffusion: Make, make_trainer: Make, stage1: Make) -> Make:
    """A function that fits a few steps and gives trainer, model and data."""

    def make(spatial_dims: int, steps: int = 3, **settings: Any) -> tuple[Any, Any, Any]:
        path = stage1(spatial_dims)
        seed_everything(1)
        model = make_diffusion(spatial_dims, autoencoder=path, **settings)
        data = make_data(spatial_dims)
        trainer = make_trainer(steps)
        trainer.fit(model, data)
        return trainer, model, data

    return make


@pytest.fixture
def model(make_codec: Make) -> Callable[..., CXRDiffusion]:
    def make(**settings: Any) -> CXRDiffusion:
        head, codec, unet, process = parts(make_codec)
        given: dict[str, Any] = {"unet": unet, **SETTINGS, **settings}
        return CXRDiffusion(head, codec, process=process, **given)

    return make


@pytest.fixture
def adapter(make_codec: Make) -> Callable[..., CXRAdapter]:
    def make(**settings: Any) -> CXRAdapter:
        given: dict[str, Any] = {"characteristic": "calcified", "adapter": AdapterConfig(2, 2.0)}
        given |= {"learning_rate": 1e-2, **SETTINGS, **settings}
        return CXRAdapter(*parts(make_codec), **given)

    return make


@pytest.fixture
def base(
    tmp_path: Path, model: Make, make_data: Make, make_autoencoder: Make, make_trainer: Make
) -> Path:
    """The checkpoint of a base, trained for two steps."""
    seed_everything(0)
    data = make_data(2, cache_dir=None)
    trainer = make_trainer(2)
    trainer.fit(make_autoencoder(2), data)
    trainer.save_checkpoint(tmp_path / "codec.ckpt")
    trainer = make_trainer(2)
    settings = {"autoencoder": tmp_path / "codec.ckpt", "learning_rate": 1e-2, "warmup_steps": 0}
    trainer.fit(model(**settings), data)
    trainer.save_checkpoint(tmp_path / "base.ckpt")
    return tmp_path / "base.ckpt"


@pytest.fixture
def mixed(make_data: Make) -> Callable[..., CombinedDataModule]:
    """Two parts with nodules of their own."""

    def make(names: tuple[str, str] = ("calcified", "irregular")) -> CombinedDataModule:
        queries = ("subtype == 'solid'", "subtype != 'solid'")
        root = make_data(2).collection.root
        selected: Any = [LIDCCollection(root, select=query) for query in queries]
        return CombinedDataModule(
            dict(zip(names, selected, strict=True)),
            (0.6, 0.2, 0.2),
            Roi((16, 16)),
            batch_size=4,
            batches_per_epoch=5,
            cache_dir=None,
        )

    return make
