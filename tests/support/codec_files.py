"""Codecs as others give them away, with random weights, and small."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi

MAISI_SIZES: dict[str, Any] = {"channels": [4, 8], "num_res_blocks": 1, "norm_num_groups": 2}


def write_diffusers(folder: Path, **settings: Any) -> AutoencoderKL:
    """The folder of Stable Diffusion's VAE: three channels in and out, four of latents."""
    torch.manual_seed(0)
    network = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        norm_num_groups=2,
        **settings,
    )
    network.save_pretrained(folder)
    return network.eval()


def write_maisi(
    path: Path, channels: Sequence[int] = (4, 8), groups: int = 2, named: bool = False
) -> AutoencoderKlMaisi:
    """The state dict of MAISI's VAE, with the settings of its config."""
    torch.manual_seed(0)
    network = AutoencoderKlMaisi(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        latent_channels=4,
        num_channels=channels,
        num_res_blocks=(1, 1),
        norm_num_groups=groups,
        norm_eps=1e-6,
        attention_levels=(False, False),
        norm_float16=False,
        num_splits=1,
    )
    state = network.state_dict()
    torch.save({"unet_state_dict": state} if named else state, path)
    return network.eval()
