"""The denoising network behind one narrow interface: noisy latent, timestep, conditioning."""

from collections.abc import Iterable, Mapping
from functools import partial
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from datamodules.batch import NoduleBatch
from lightning_modules.core.codec import Codec
from lightning_modules.core.conditioning import (
    Conditioner,
    Conditioning,
    LatentGeometry,
    Surroundings,
    stack_conditions,
)
from lightning_modules.core.transformer import DiffusionTransformer, TransformerConfig
from lightning_modules.core.unet import UNetConfig, make_unet
from lightning_modules.core.window import IntensityWindow


class Denoiser(nn.Module):
    """A UNet or a transformer with its conditioners.

    What is known of a nodule is encoded once, by `condition`, and then used at every step.

    Args:
        config: which network, and its size.
        codec: gives the latent's geometry; it is not kept.
        conditioners: what the network is told.
        window: intensities that the model sees, and that its histograms cover.
        histogram_bins: bins of these histograms.

    Attributes:
        unet: the network, a transformer too: checkpoints have it by this name.
    """

    unet: Any

    def __init__(
        self,
        config: UNetConfig | TransformerConfig,
        codec: Codec,
        conditioners: Mapping[str, Conditioner],
        window: IntensityWindow,
        histogram_bins: int,
    ) -> None:
        super().__init__()
        geometry = LatentGeometry(
            codec.spatial_dims,
            codec.compression,
            codec.latent_channels,
            config.token_dim,
            config.embedding_dim,
            window,
            histogram_bins,
        )
        for conditioner in conditioners.values():
            conditioner.build(geometry)
        # by name: a config that lists them in another order means the same network
        self.conditioners = nn.ModuleDict(dict(sorted(conditioners.items())))
        self.config = config
        channels = geometry.latent_channels + sum(c.channels for c in conditioners.values())
        self.memory_format = torch.contiguous_format
        if isinstance(config, UNetConfig):
            self.unet = make_unet(config, geometry, channels)
            blocks = [*self.unet.down_blocks, self.unet.middle_block, *self.unet.up_blocks]
            if config.channels_last:
                volumes = geometry.spatial_dims == 3
                self.memory_format = torch.channels_last_3d if volumes else torch.channels_last
        else:
            with_tokens = any("tokens" in c.slots for c in conditioners.values())
            self.unet = DiffusionTransformer(config, geometry, channels, with_tokens)
            blocks = [*self.unet.blocks]
        self.unet.to(memory_format=self.memory_format)
        if config.checkpointing:
            for block in blocks:
                _recompute(block)
        self.compile_unet()

    def compile_unet(self) -> None:
        """Let the network be compiled when it is first asked, if the config says so.

        A copy of a compiled network is not compiled.
        """
        if self.config.compile is not None:
            self.unet.compile(mode=self.config.compile, dynamic=False, fullgraph=True)

    def condition(
        self,
        batch: NoduleBatch,
        surroundings: Surroundings,
        withheld: Mapping[str, Tensor] | None = None,
    ) -> Conditioning:
        """Encode a batch's conditions.

        Args:
            batch: the nodules wanted.
            surroundings: what is known around them.
            withheld: for each conditioner that is to be withheld, `(B,)` boolean, where.
        """
        withheld = withheld or {}
        never = torch.zeros_like(batch["index"], dtype=torch.bool)
        return stack_conditions(
            [
                conditioner(batch, surroundings, withheld.get(name, never))
                for name, conditioner in self.conditioners.items()
            ]
        )

    def prepare(self, batches: Iterable[NoduleBatch]) -> None:
        """Let every conditioner gather its statistics; `batches` is read once for each of them."""
        for conditioner in self.conditioners.values():
            conditioner.prepare(batches)  # type: ignore[operator]

    def forward(self, latent: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """Prediction of the diffusion target.

        Args:
            latent: `(B, C, *latent)`, noisy.
            timestep: `(B,)` integers.
            conditioning: the result of `condition`.

        Returns:
            `(B, C, *latent)` float32.
        """
        channels, tokens, embedding = conditioning
        size = len(latent)
        if tokens is None:
            tokens = latent.new_zeros(size, 1, self.config.token_dim)
        if embedding is None:
            embedding = latent.new_zeros(size, self.config.embedding_dim)
        inputs = latent if channels is None else torch.cat([latent, channels], 1)
        inputs = inputs.contiguous(memory_format=self.memory_format)
        output: Tensor = self.unet(inputs, timestep, tokens, embedding)
        # a CUDA graph's next run overwrites its output
        return output.to(torch.float32, copy=self.config.compile is not None)


class Denoising(NamedTuple):
    """One training question and the network's answer.

    Attributes:
        latent: `(B, C, *latent)`; x_0.
        noise: `(B, C, *latent)`.
        timestep: `(B,)`.
        x_t: `(B, C, *latent)`.
        region: `(B, 1, *latent)`; 1 where the nodule is synthesized.
        conditioning: what the network is told.
        output: `(B, C, *latent)`; what it says.
    """

    latent: Tensor
    noise: Tensor
    timestep: Tensor
    x_t: Tensor
    region: Tensor
    conditioning: Conditioning
    output: Tensor


def _recompute(block: nn.Module) -> None:
    """Let a block recompute its activations in the backward pass instead of keeping them."""
    # a bound method is bound anew when the block is copied; a closure would keep the old weights
    block.forward = MethodType(_checkpointed, block)


def _checkpointed(block: nn.Module, **inputs: Any) -> Any:
    forward = partial(type(block).forward, block)
    if torch.is_grad_enabled():
        return checkpoint(forward, use_reentrant=False, **inputs)
    return forward(**inputs)
