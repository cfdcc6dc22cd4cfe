"""Checkpoints as files: read without running what they may hold, and their parts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

from datamodules.patients import UNKNOWN_PATIENTS
from lightning_modules.core.model_folder import read_model

ARCHIVE = b"PK\x03\x04"
"""What a zip archive begins with."""


def previous_file(path: Path) -> Path:
    """Where the checkpoint is that stood at `path` before the last one was written."""
    return path.with_name(f"previous-{path.name}")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint or an exported model, read without running anything that it may hold.

    Args:
        path: a file, or a folder of `noduleforge export`, which has what synthesis needs.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint, or damaged; says how to go on from the one before it.
    """
    path = Path(path)
    if path.is_dir():
        return read_model(path)
    if not path.is_file():
        message = f"The checkpoint {path} is not a file: train it first, or correct the path."
        raise FileNotFoundError(message)
    checkpoint: Any
    try:
        checkpoint = load_weights(path)
    except ValueError as error:
        before = previous_file(path)
        mend = (
            f"the one before it is {before}: move it to {path}, or give its path, and run the same "
            "command again."
            if before.is_file()
            else "copy it again, or train it again."
        )
        message = f"The file {path} is no checkpoint or is cut short or damaged ({error}): {mend}"
        raise ValueError(message) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        message = f"The file {path} is no checkpoint (it has no state_dict): give one of a run."
        raise ValueError(message)
    return checkpoint


def load_weights(path: Path) -> Any:
    """What `torch.save` wrote, on the CPU, read without running anything that it may hold.

    Raises:
        ValueError: If the file is damaged or holds what is neither weights nor numbers and texts.
        OSError: If it cannot be read.
    """
    check_records(path)
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except OSError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to say
        message = "it holds no weights that PyTorch can read"
        raise ValueError(message) from error


def check_records(path: Path) -> None:
    """Check what `torch.save` wrote by the zip archive's own checksums, which PyTorch ignores.

    A file that is no archive (PyTorch's form before 1.6, safetensors) has none, and passes.

    Raises:
        ValueError: If a record is not what was written.
        OSError: If the file cannot be read.
    """
    with Path(path).open("rb") as file:
        if file.read(4) != ARCHIVE:
            return
        try:
            with ZipFile(file) as archive:
                damaged = archive.testzip()
        except Exception as error:  # as above, and OSError for a place beyond the file's end
            message = "its archive has no whole directory"
            raise ValueError(message) from error
    if damaged is not None:
        message = f"its record {damaged} differs from its checksum"
        raise ValueError(message)


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
