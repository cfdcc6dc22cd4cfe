"""A small denoiser with two adapters, and the answers that it ought to give."""

import torch
from torch import Tensor

from lightning_modules.core.adapters import AdapterConfig, add_adapter, updates
from lightning_modules.core.codec import LatentCodec
from lightning_modules.core.conditioners import MaskConditioner
from lightning_modules.core.conditioning import Conditioning
from lightning_modules.core.denoiser import Denoiser
from lightning_modules.core.transformer import TransformerConfig
from lightning_modules.core.unet import UNetConfig
from lightning_modules.core.window import IntensityWindow

BOTH = {"calcified": 2.0, "irregular": -0.7}
"""Strengths of both adapters."""

Size = UNetConfig | TransformerConfig
UNET = UNetConfig((8, 16), (False, True), 1, 8, 4, 6, 10)
TRANSFORMER = TransformerConfig(24, 2, 3, 2, 6, 10)

CONFIG = AdapterConfig(rank=3, alpha=6.0)


def make(config: Size, codec: LatentCodec) -> Denoiser:
    return Denoiser(config, codec, {"mask": MaskConditioner()}, IntensityWindow(-1000, 400), 16)


def build(spatial_dims: int = 2, config: Size = UNET) -> Denoiser:
    torch.manual_seed(0)
    codec = LatentCodec(spatial_dims, channels=(4, 4), latent_channels=3, norm_num_groups=2)
    denoiser = make(config, codec)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return denoiser.eval()


def answer(denoiser: Denoiser, spatial_dims: int = 2) -> Tensor:
    stream = torch.Generator().manual_seed(1)
    shape = (2, 3, *(4,) * spatial_dims)
    channels = torch.randn(2, 5, *(4,) * spatial_dims, generator=stream)
    latent = torch.randn(shape, generator=stream)
    return denoiser(latent, torch.tensor([5, 700]), Conditioning(channels))


def grow(denoiser: Denoiser, name: str, seed: int) -> None:
    """Give an adapter updates that are not zero."""
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for low in updates(denoiser, name):
            low.b.copy_(0.2 * torch.randn(low.b.shape, generator=stream))


def added_densely(
    strengths: dict[str, float], spatial_dims: int = 2, config: Size = UNET
) -> Tensor:
    """The answer of a base whose weights got the updates, without peft."""
    denoiser = with_two(spatial_dims, config)
    plain = build(spatial_dims, config)
    layers = dict(plain.unet.named_modules())
    with torch.no_grad():
        for name, strength in strengths.items():
            for low in updates(denoiser, name):
                site = low.site.removeprefix("base_model.model.")
                layers[site].weight += strength * CONFIG.factor * low.b @ low.a
    return answer(plain, spatial_dims)


def with_two(spatial_dims: int = 2, config: Size = UNET) -> Denoiser:
    denoiser = build(spatial_dims, config)
    for seed, name in enumerate(("calcified", "irregular")):
        torch.manual_seed(seed)
        add_adapter(denoiser, name, CONFIG)
        grow(denoiser, name, seed)
    return denoiser
