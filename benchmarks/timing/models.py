"""Models of the shipped configs' sizes with random weights, and nodules made of noise."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from torch import nn

from datamodules.batch import SUBTYPES, NoduleBatch, Roi
from lightning_modules.core.codec import LatentCodec
from lightning_modules.core.conditioners import SubtypeConditioner
from lightning_modules.core.process import DiffusionProcess
from lightning_modules.core.sampling import SamplingConfig
from lightning_modules.core.unet import UNetConfig
from lightning_modules.diffusion import NoduleDiffusion
from lightning_modules.heads.head import ModalityHead
from timing.clock import Machine, Step

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL, LARGE = ("ct/diffusion.yaml",), ("ct/diffusion.yaml", "ct/diffusion_large.yaml")
RADIOGRAPHS = ("cxr/diffusion.yaml",)
TINY = {
    "roi": {"size": 16, "spacing_mm": 1.0},
    "codec": {"channels": [8, 8], "norm_num_groups": 8},
    "unet": {"channels": [8, 16], "attention": [False, True], "head_channels": 8},
}
"""What makes a config small enough for a test."""


def laid_over(settings: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with changes, group by group."""
    changed = {
        name: laid_over(settings.get(name) or {}, value) if isinstance(value, Mapping) else value
        for name, value in changes.items()
    }
    return {**settings, **changed}


def sizes_of(configs: tuple[str, ...], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the model that configs describe, laid over each other, then changed."""
    settings: dict[str, Any] = {}
    for name in configs:
        settings = laid_over(settings, yaml.safe_load((CONFIGS / name).read_text()))
    return laid_over(settings["model"]["init_args"], changes)


def build(
    make: Callable[..., NoduleDiffusion],
    head: ModalityHead,
    sizes: Mapping[str, Any],
    device: str,
    **settings: Any,
) -> NoduleDiffusion:
    """A model of these sizes, with random weights."""
    codec = LatentCodec(**sizes["codec"])
    codec.scale_factor.fill_(1)
    codec.shift.fill_(0)
    unet, process = UNetConfig(**sizes["unet"]), DiffusionProcess(**sizes["process"])
    roi, sampling = Roi(**sizes["roi"]), SamplingConfig()
    model = make(head, codec, unet, process, roi=roi, sampling=sampling, **settings)
    model.configure_model()
    if "subtype" in model.denoiser.conditioners:  # as if there had been each in training
        nodules: Any = {"subtype": torch.tensor([*range(len(SUBTYPES))])}
        cast(SubtypeConditioner, model.denoiser.conditioners["subtype"]).prepare([nodules])
        model.ema.module.load_state_dict(model.denoiser.state_dict())
    return model.to(device)


def make_batch(model: NoduleDiffusion, size: int) -> NoduleBatch:
    """Random nodules in the middle of the model's ROI, with cached latents, on its device."""
    dims, window, device = model.codec.spatial_dims, model.head.window, model.device
    sides = model.roi.shape(dims)
    shape = (size, 1, *sides)
    mask = torch.zeros(shape)
    mask[(..., *(slice(side // 3, side - side // 3) for side in sides))] = 1
    compression = model.codec.compression
    latent = (size, model.codec.latent_channels, *(side // compression for side in sides))
    identity = torch.eye(dims, dtype=torch.float64, device=device)
    return {
        "image": ((window.high - window.low) * torch.rand(shape) + window.low).to(device),
        "mask": mask.to(device),
        "subtype": torch.arange(size, device=device) % 3,
        "attributes": {"diameter_mm": torch.full((size,), 10.0, device=device)},
        "spacing_mm": torch.full((size, dims), model.roi.spacing_mm, device=device),
        "origin_mm": torch.zeros(size, dims, dtype=torch.float64, device=device),
        "direction": identity.expand(size, dims, dims),
        "name": [str(i) for i in range(size)],
        "patient_id": [str(i) for i in range(size)],
        "index": torch.arange(size, device=device),
        "latent_mean": torch.randn(latent, device=device),
        "latent_logvar": torch.full(latent, -5.0, device=device),
        "context": torch.randn(latent, device=device),
    }


def parameters_m(network: nn.Module) -> float:
    """Weights of a network, in millions."""
    return round(sum(p.numel() for p in network.parameters()) / 1e6, 1)


class Bare:
    """A UNet alone, with inputs of the right shapes; ours, or a copy of it.

    Args:
        model: whose UNet is copied.
        size: of the batch.
        machine: where it computes.
    """

    def __init__(self, model: NoduleDiffusion, size: int, machine: Machine) -> None:
        self.machine, self.denoiser, device = machine, model.denoiser, model.device
        self.unet = copy.deepcopy(model.denoiser.unet).train()
        self.optimizer = torch.optim.AdamW(self.unet.parameters(), fused=True)
        sides = [
            side // model.codec.compression for side in model.roi.shape(model.codec.spatial_dims)
        ]
        config = model.denoiser.config
        inputs = torch.randn(size, self.unet.conv_in.conv.in_channels, *sides, device=device)
        self.inputs = (
            inputs.contiguous(memory_format=model.denoiser.memory_format),
            torch.arange(size, device=device),
            torch.randn(size, 2, config.token_dim, device=device),
            torch.randn(size, config.embedding_dim, device=device),
        )

    def forward(self) -> torch.Tensor:
        """The network's answer."""
        with self.machine.autocast():
            output: torch.Tensor = self.unet(*self.inputs)
        return output

    def step(self) -> None:
        """Forward, backward, optimizer."""
        self.optimizer.zero_grad()
        self.forward().float().square().mean().backward()
        self.optimizer.step()

    def frozen(self) -> Step:
        """Forward, and backward to the input alone."""
        self.unet.requires_grad_(False)
        self.inputs[0].requires_grad_(True)
        return lambda: self.forward().float().square().mean().backward()
