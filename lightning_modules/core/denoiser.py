"""The denoising network behind one narrow interface: noisy latent, timestep, conditioning."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any, Literal, NamedTuple, get_args

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from datamodules.batch import NoduleBatch
from lightning_modules.core.codec import Codec, check_channels
from lightning_modules.core.conditioning import (
    Conditioner,
    Conditioning,
    LatentGeometry,
    Surroundings,
    stack_conditions,
)
from lightning_modules.core.window import IntensityWindow

Compile = Literal["default", "reduce-overhead", "max-autotune"]
"""Modes of torch.compile."""


@dataclass
class UNetConfig:
    """Size of the denoising UNet.

    Attributes:
        channels: channels of each level; each further level halves the resolution.
        attention: for each level whether it has self- and cross-attention.
        num_res_blocks: residual blocks of each level.
        head_channels: channels of one attention head.
        norm_num_groups: groups of the group normalization; divides every entry of `channels`.
        token_dim: width of the cross-attention tokens.
        embedding_dim: width of the embedding that conditions are encoded to.
        checkpointing: recompute activations in the backward pass to save memory.
        channels_last: keep activations channels-last, which tensor cores prefer.
        compile: mode of torch.compile for the network, one graph for each batch size; null for
            none. It is compiled in training and, by itself, in `lightning predict` and `test`. The
            modes after `default` record CUDA graphs.

    Raises:
        ValueError: If the groups do not divide the channels, or there is no such mode.
    """

    channels: Sequence[int] = (32, 64, 128)
    attention: Sequence[bool] = (False, False, True)
    num_res_blocks: int = 1
    head_channels: int = 32
    norm_num_groups: int = 16
    token_dim: int = 64
    embedding_dim: int = 128
    checkpointing: bool = False
    channels_last: bool = False
    compile: Compile | None = None

    def __post_init__(self) -> None:
        """Refuse channels that the groups do not divide, and another mode."""
        check_channels("unet", self.channels, self.norm_num_groups)
        if self.compile not in (None, *get_args(Compile)):
            message = (
                f"unet.compile is {self.compile!r}, expected null or one of "
                f"{', '.join(get_args(Compile))}."
            )
            raise ValueError(message)


class Denoiser(nn.Module):
    """UNet (Rombach et al. 2022, MONAI's) with its conditioners.

    What is known of a nodule is encoded once, by `condition`, and then used at every step.

    Args:
        config: size of the UNet.
        codec: gives the latent's geometry; it is not kept.
        conditioners: what the UNet is told.
        window: intensities that the model sees, and that its histograms cover.
        histogram_bins: bins of these histograms.
    """

    def __init__(
        self,
        config: UNetConfig,
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
        self.unet = DiffusionModelUNet(
            spatial_dims=geometry.spatial_dims,
            in_channels=geometry.latent_channels + sum(c.channels for c in conditioners.values()),
            out_channels=geometry.latent_channels,
            channels=tuple(config.channels),
            attention_levels=tuple(config.attention),
            num_res_blocks=config.num_res_blocks,
            num_head_channels=config.head_channels,
            norm_num_groups=config.norm_num_groups,
            with_conditioning=True,
            cross_attention_dim=config.token_dim,
            num_class_embeds=1,
            use_flash_attention=True,
        )
        # MONAI adds `class_embedding(class_labels)` to the timestep's embedding: here it is the
        # projection of the conditions' embedding
        self.unet.class_embedding = nn.Linear(config.embedding_dim, 4 * config.channels[0])
        self.memory_format = torch.contiguous_format
        if config.channels_last:
            volumes = geometry.spatial_dims == 3
            self.memory_format = torch.channels_last_3d if volumes else torch.channels_last
        self.unet.to(memory_format=self.memory_format)
        if config.checkpointing:
            for block in (*self.unet.down_blocks, self.unet.middle_block, *self.unet.up_blocks):
                _recompute(block)
        self.compile_unet()

    def compile_unet(self) -> None:
        """Let the UNet be compiled when it is first asked, if the config says so.

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
