"""A small data set of nodules on disk, and tiny models for it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from lightning import Trainer

from datamodules import LIDCDataModule
from lightning_modules.autoencoder import Autoencoder
from lightning_modules.core.codec import LatentCodec
from lightning_modules.core.conditioning import (
    BackgroundConditioner,
    HistogramConditioner,
    MaskConditioner,
    SubtypeConditioner,
)
from lightning_modules.core.denoiser import UNetConfig
from lightning_modules.core.process import DiffusionProcess
from lightning_modules.core.regularizer import HistogramRegularizer
from lightning_modules.diffusion import NoduleDiffusion, SamplingConfig
from lightning_modules.heads.head import IntensityWindow, ModalityHead


@pytest.fixture
def make_data(tmp_path: Path, write_store: Callable[..., Path]) -> Callable[..., LIDCDataModule]:
    """A function that makes a data module over a store of its own."""

    def make(spatial_dims: int, **settings: object) -> LIDCDataModule:
        root = tmp_path / f"store{spatial_dims}"
        if not root.exists():
            write_store(root, spatial_dims)
        settings = {"batch_size": 4, "cache_dir": tmp_path / "cache", **settings}
        return LIDCDataModule(
            root, roi_size=[16] * spatial_dims, fractions=(0.6, 0.2, 0.2), **settings
        )

    return make


@pytest.fixture
def make_codec() -> Callable[[int], LatentCodec]:
    """A function that makes a codec of a few thousand weights."""
    return lambda spatial_dims: LatentCodec(spatial_dims, (4, 8), 2, norm_num_groups=2)


@pytest.fixture
def make_diffusion(make_codec: Callable[[int], LatentCodec]) -> Callable[..., NoduleDiffusion]:
    """A function that makes a small diffusion model with every kind of condition."""

    def make(spatial_dims: int, margin_voxels: int = 2, **settings: object) -> NoduleDiffusion:
        head = ModalityHead(
            IntensityWindow(-1000, 400),
            {
                "mask": MaskConditioner(),
                "background": BackgroundConditioner(),
                "subtype": SubtypeConditioner(),
                "histogram": HistogramConditioner(),
            },
            {"histogram": HistogramRegularizer(min_voxels=1)},
            margin_voxels=margin_voxels,
        )
        unet = UNetConfig((8, 16), (False, True), 1, 8, 4, 16, 16)
        defaults = {"sampling": SamplingConfig(evaluations=4), "warmup_steps": 5, "ema_decay": 0.9}
        codec = make_codec(spatial_dims)
        return NoduleDiffusion(head, codec, unet, DiffusionProcess(), **{**defaults, **settings})

    return make


@pytest.fixture
def make_autoencoder(make_codec: Callable[[int], LatentCodec]) -> Callable[..., Autoencoder]:
    """A function that makes a small autoencoder module."""

    def make(spatial_dims: int, **settings: object) -> Autoencoder:
        window = IntensityWindow(-1000, 400)
        return Autoencoder(make_codec(spatial_dims), window, warmup_steps=5, **settings)

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
