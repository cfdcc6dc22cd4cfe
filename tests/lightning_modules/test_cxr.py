"""Radiographs: patches without a nodule, then nodules into them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import seed_everything

from datamodules.batch import NoduleBatch
from datamodules.lidc import LIDCDataModule
from lightning_modules.core.denoiser import UNetConfig
from lightning_modules.core.process import DiffusionProcess
from lightning_modules.cxr import CXRDiffusion
from lightning_modules.diffusion import SamplingConfig
from lightning_modules.heads.cxr import CXRHead

Make = Callable[..., Any]


class WithoutNodules(LIDCDataModule):
    """The same images, with empty masks."""

    def transfer_batch_to_device(self, batch: Any, *args: Any) -> NoduleBatch:
        moved: NoduleBatch = super().transfer_batch_to_device(batch, *args)
        return {**moved, "mask": torch.zeros_like(moved["mask"])}


@pytest.fixture
def model(make_codec: Make) -> Callable[..., CXRDiffusion]:
    def make(**settings: Any) -> CXRDiffusion:
        return CXRDiffusion(
            CXRHead((-1000, 400), margin_voxels=2),
            make_codec(2),
            UNetConfig((8, 16), (False, True), 1, 8, 4, 16, 16),
            DiffusionProcess(),
            **{"sampling": SamplingConfig(evaluations=4), "ema_decay": 0.9, **settings},
        )

    return make


def test_the_second_stage_starts_from_patches_without_nodules(
    tmp_path: Path, model: Make, make_data: Make, make_autoencoder: Make, make_trainer: Make
) -> None:
    seed_everything(0)
    data = make_data(2, cache_dir=None)
    settings = {"roi_size": [16, 16], "fractions": (0.6, 0.2, 0.2), "cache_dir": None}
    normal = WithoutNodules(data.root, batch_size=4, **settings)
    trainer = make_trainer(2)
    trainer.fit(make_autoencoder(2), data)
    trainer.save_checkpoint(tmp_path / "codec.ckpt")

    first = model(autoencoder=tmp_path / "codec.ckpt")
    trainer = make_trainer(2)
    trainer.fit(first, normal)
    trainer.save_checkpoint(tmp_path / "first.ckpt")

    second = model(autoencoder=tmp_path / "codec.ckpt", init_from=tmp_path / "first.ckpt")
    make_trainer(1).fit(second, data)
    changed = [
        not torch.equal(a, b)
        for a, b in zip(first.ema.module.parameters(), second.denoiser.parameters(), strict=True)
    ]
    assert any(changed)

    batch = torch.utils.data.default_collate([data.datasets["test"][i] for i in range(3)])
    batch["mask"][1] = 0
    synthesis = second.eval().sample(batch)
    kept = synthesis["image"] == batch["image"]
    assert not kept[1].any()  # without a nodule the whole patch is synthesized
    assert kept[0].any()
    assert torch.isfinite(synthesis["image"]).all()


def test_guidance_contrasts_with_no_mask(model: Make) -> None:
    conditioners = model().head.conditioners
    assert conditioners["mask"].guided
    assert not conditioners["background"].guided


def test_a_codec_of_volumes_is_refused(make_codec: Make) -> None:
    with pytest.raises(ValueError, match=r"spatial_dims 2, but model\.codec has 3"):
        CXRDiffusion(CXRHead(), make_codec(3), UNetConfig(), DiffusionProcess())
