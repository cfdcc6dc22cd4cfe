"""A transformer as the denoising network (DiT, Peebles and Xie 2023), for 2D and 3D latents."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from monai.networks.blocks import CrossAttentionBlock, MLPBlock, SABlock
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from torch import Tensor, nn

from lightning_modules.core.conditioning import LatentGeometry
from lightning_modules.core.unet import Compile, check_compile

FREQUENCIES = 256
"""Width of the timestep's sines and cosines, as in the paper."""


@dataclass
class TransformerConfig:
    """Size of the denoising transformer; by default the paper's DiT-S/2.

    Attributes:
        width: of a patch in the blocks.
        depth: number of blocks.
        heads: attention heads of a block; divides `width`.
        patch_size: latent voxels along one side of a patch; divides the latent's sides.
        token_dim: width of the cross-attention tokens.
        embedding_dim: width of the embedding that conditions are encoded to.
        checkpointing: recompute activations in the backward pass to save memory.
        compile: see `UNetConfig`.

    Raises:
        ValueError: If a number is below 1, the heads do not divide the width, the width is no
            multiple of 12 (positions along two or three axes share it), or there is no such mode.
    """

    section: ClassVar[str] = "transformer"
    """Of a config, and of a model's description."""

    width: int = 384
    depth: int = 12
    heads: int = 6
    patch_size: int = 2
    token_dim: int = 64
    embedding_dim: int = 128
    checkpointing: bool = False
    compile: Compile | None = None

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit each other, and another mode."""
        for name in ("width", "depth", "heads", "patch_size", "token_dim", "embedding_dim"):
            if (value := getattr(self, name)) < 1:
                message = f"transformer.{name} is {value}, expected 1 or more."
                raise ValueError(message)
        if self.width % 12 or self.width % self.heads:
            message = (
                f"transformer.width is {self.width}: give a multiple of 12 that "
                f"transformer.heads, which is {self.heads}, divides."
            )
            raise ValueError(message)
        check_compile("transformer", self.compile)


class TransformerBlock(nn.Module):
    """Attention and a perceptron, modulated by timestep and embedding (adaLN-zero).

    Args:
        width: of a patch.
        heads: of the attention.
        token_dim: width of the tokens that the patches look at, after the paper's variant with
            cross-attention (as in PixArt, Chen et al. 2024, it begins with no effect); None where
            no condition gives any.
    """

    def __init__(self, width: int, heads: int, token_dim: int | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attn1 = SABlock(
            width, heads, qkv_bias=True, use_combined_linear=False, use_flash_attention=True
        )
        self.attn2 = None
        if token_dim is not None:
            self.attn2 = CrossAttentionBlock(
                width, heads, context_input_size=token_dim, qkv_bias=True, use_flash_attention=True
            )
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = MLPBlock(width, 4 * width, act=("GELU", {"approximate": "tanh"}))
        modulation = nn.Linear(width, 6 * width)
        self.modulation = nn.Sequential(nn.SiLU(), modulation)
        self.apply(_initialize)
        _silence(modulation)
        if self.attn2 is not None:
            _silence(self.attn2.out_proj)

    def forward(self, patches: Tensor, condition: Tensor, tokens: Tensor) -> Tensor:
        """The next block's patches.

        Args:
            patches: `(B, N, width)`.
            condition: `(B, width)`.
            tokens: `(B, M, token_dim)`.
        """
        shift1, scale1, gate1, shift2, scale2, gate2 = (
            self.modulation(condition).unsqueeze(1).chunk(6, -1)
        )
        patches = patches + gate1 * self.attn1(self.norm1(patches) * (1 + scale1) + shift1)
        if self.attn2 is not None:
            patches = patches + self.attn2(patches, tokens)
        hidden: Tensor = self.mlp(self.norm2(patches) * (1 + scale2) + shift2)
        patches = patches + gate2 * hidden
        return patches


class DiffusionTransformer(nn.Module):
    """Latents cut into patches, blocks, and patches joined to latents.

    As in the paper each block begins as the identity, and the network with an answer of zero.

    Args:
        config: its size.
        geometry: of the latents that it answers with.
        in_channels: of the inputs, conditions included.
        with_tokens: whether conditions give tokens.
    """

    def __init__(
        self,
        config: TransformerConfig,
        geometry: LatentGeometry,
        in_channels: int,
        with_tokens: bool,
    ) -> None:
        super().__init__()
        self.patch_size, width = config.patch_size, config.width
        planes = geometry.spatial_dims == 2
        cut, join = (nn.Conv2d, nn.ConvTranspose2d) if planes else (nn.Conv3d, nn.ConvTranspose3d)
        self.cut = cut(in_channels, width, config.patch_size, config.patch_size)
        first, second = nn.Linear(FREQUENCIES, width), nn.Linear(width, width)
        self.timestep = nn.Sequential(first, nn.SiLU(), second)
        self.embedding = nn.Linear(config.embedding_dim, width)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, config.heads, config.token_dim if with_tokens else None)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        last = nn.Linear(width, 2 * width)
        self.modulation = nn.Sequential(nn.SiLU(), last)
        self.join = join(width, geometry.latent_channels, config.patch_size, config.patch_size)
        nn.init.xavier_uniform_(self.cut.weight.flatten(1))
        for linear in (first, second, self.embedding):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        for part in (last, self.join):
            _silence(part)

    def forward(
        self, inputs: Tensor, timestep: Tensor, tokens: Tensor, embedding: Tensor
    ) -> Tensor:
        """The answer, `(B, latent_channels, *latent)`.

        Args:
            inputs: `(B, in_channels, *latent)`.
            timestep: `(B,)`.
            tokens: `(B, M, token_dim)`; not looked at where no condition gives any.
            embedding: `(B, embedding_dim)`.

        Raises:
            ValueError: If the latent cannot be cut into patches.
        """
        sides = inputs.shape[2:]
        if any(side % self.patch_size for side in sides):
            message = (
                f"The latent has {tuple(sides)} voxels, but each side must be a multiple of "
                f"transformer.patch_size, {self.patch_size}: change it, or the ROI's size."
            )
            raise ValueError(message)
        grid = [side // self.patch_size for side in sides]
        patches = self.cut(inputs).flatten(2).mT
        patches = patches + positions(grid, patches.shape[-1], inputs.device).to(patches.dtype)
        waves = get_timestep_embedding(timestep, FREQUENCIES).to(embedding.dtype)
        condition = self.timestep(waves) + self.embedding(embedding)
        for block in self.blocks:
            patches = block(patches=patches, condition=condition, tokens=tokens)
        shift, scale = self.modulation(condition).unsqueeze(1).chunk(2, -1)
        patches = self.norm(patches) * (1 + scale) + shift
        output: Tensor = self.join(patches.mT.unflatten(2, grid))
        return output


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def _silence(module: Any) -> None:
    """Let a layer answer zero."""
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)


def positions(grid: Sequence[int], width: int, device: torch.device) -> Tensor:
    """Sines and cosines of each patch's place, `(N, width)`; the axes have equal shares of width.

    Args:
        grid: patches along each axis.
        width: multiple of twice the number of axes.
        device: where.
    """
    share = width // len(grid)
    along = [get_timestep_embedding(torch.arange(n, device=device), share) for n in grid]
    parts = []
    for axis, waves in enumerate(along):
        shape = [1] * len(grid) + [share]
        shape[axis] = grid[axis]
        parts.append(waves.view(shape).expand(*grid, share))
    return torch.cat(parts, -1).flatten(0, -2)
