"""Radiograph models of a few thousand weights."""

from collections.abc import Callable
from typing import Any

import torch

from datamodules.batch import NoduleBatch, Roi
from lightning_modules.core.process import DiffusionProcess
from lightning_modules.core.sampling import SamplingConfig
from lightning_modules.core.unet import UNetConfig
from lightning_modules.heads.cxr import CXRHead

Make = Callable[..., Any]


def parts(make_codec: Make) -> tuple[Any, ...]:
    unet = UNetConfig((8, 16), (False, True), 1, 8, 4, 16, 16)
    return CXRHead((-1000, 400), margin_voxels=2), make_codec(2), unet, DiffusionProcess()


SETTINGS: dict[str, Any] = {
    "roi": Roi((16, 16)),
    "sampling": SamplingConfig(evaluations=4),
    "ema_decay": 0.9,
}


def some(data: Any, size: int = 3) -> NoduleBatch:
    batch: NoduleBatch = torch.utils.data.default_collate(
        [data.datasets["test"][i] for i in range(size)]
    )
    return batch
