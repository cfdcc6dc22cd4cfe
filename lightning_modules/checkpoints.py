"""Weights out of the checkpoints of earlier runs."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from lightning_modules.core.codec import LatentCodec
from lightning_modules.core.denoiser import Denoiser
from lightning_modules.heads.head import IntensityWindow


def load_codec(codec: LatentCodec, path: Path, window: IntensityWindow) -> None:
    """Load the autoencoder of a stage 1 checkpoint, or the one that a stage 2 checkpoint holds.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no autoencoder's, or of another size or window.
    """
    checkpoint = _read(path)
    theirs, ours = checkpoint.get("noduleforge", {}).get("window"), [window.low, window.high]
    if theirs != ours:
        message = (
            f"The autoencoder in {path} was trained with the window {theirs}, but the head's is "
            f"{ours}: they must be the same."
        )
        raise ValueError(message)
    sizes = "model.codec: give it the channels, latent_channels and num_res_blocks of stage 1"
    _load(codec, checkpoint, "codec.", path, sizes)


def load_denoiser(denoiser: Denoiser, path: Path) -> None:
    """Load the averaged weights of a diffusion checkpoint.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If its network is of another size or has other conditioners.
    """
    sizes = "model.unet and model.head: give them the checkpoint's sizes and conditioners"
    _load(denoiser, _read(path), "ema.module.", path, sizes)


def _read(path: Path) -> dict[str, Any]:
    if not Path(path).is_file():
        message = f"The checkpoint {path} is not a file: train it first, or correct the path."
        raise FileNotFoundError(message)
    try:
        checkpoint: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        checkpoint["state_dict"]
    except (RuntimeError, UnpicklingError, EOFError, KeyError, TypeError) as error:
        message = (
            f"The file {path} is no checkpoint or is cut short: copy it again, or train it again."
        )
        raise ValueError(message) from error
    return checkpoint


def _load(module: nn.Module, checkpoint: dict[str, Any], prefix: str, path: Path, fit: str) -> None:
    weights = {
        name.removeprefix(prefix): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        message = f"The weights in {path} do not fit {fit}."
        raise ValueError(message) from error
