"""Checkpoints as files: read without running what they may hold, and their parts."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from datamodules.patients import UNKNOWN_PATIENTS


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, read without running anything that it may hold.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint.
    """
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


def part_of(checkpoint: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The weights of one module, by its own names.

    Args:
        checkpoint: of `read_checkpoint`.
        prefix: what stands before them, such as `codec.`.
    """
    return {
        name.removeprefix(prefix): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }


def patients_of(checkpoint: Mapping[str, Any]) -> set[str]:
    """Keys of the patients that a checkpoint was trained on, those before it included."""
    return set(checkpoint.get("noduleforge", {}).get("training_patients", [UNKNOWN_PATIENTS]))
