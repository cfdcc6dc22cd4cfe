"""A UNet as the denoising network (Rombach et al. 2022): MONAI's, and its size."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from monai.networks.nets import DiffusionModelUNet
from torch import nn

from lightning_modules.core.codec import check_channels
from lightning_modules.core.conditioning import LatentGeometry

Compile = Literal["default", "reduce-overhead", "max-autotune"]
"""Modes of torch.compile."""


def check_compile(section: str, mode: str | None) -> None:
    """Refuse another mode of torch.compile.

    Args:
        section: of the config.
        mode: what it says.

    Raises:
        ValueError: If there is no such mode.
    """
    if mode not in (None, *get_args(Compile)):
        message = (
            f"{section}.compile is {mode!r}, expected null or one of "
            f"{', '.join(get_args(Compile))}."
        )
        raise ValueError(message)


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

    section: ClassVar[str] = "unet"
    """Of a config, and of a model's description."""

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
        check_compile("unet", self.compile)


def make_unet(config: UNetConfig, geometry: LatentGeometry, in_channels: int) -> DiffusionModelUNet:
    """The network, which answers `(inputs, timestep, tokens, embedding)`.

    Args:
        config: its size.
        geometry: of the latents that it answers with.
        in_channels: of the inputs, conditions included.
    """
    unet = DiffusionModelUNet(
        spatial_dims=geometry.spatial_dims,
        in_channels=in_channels,
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
    unet.class_embedding = nn.Linear(config.embedding_dim, 4 * config.channels[0])
    return unet
