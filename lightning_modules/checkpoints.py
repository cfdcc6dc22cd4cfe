"""Checkpoints: written whole, and weights out of those of earlier runs."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from datamodules.io.whole_files import written_whole
from lightning_modules.core.adapters import adapter_names, load_base
from lightning_modules.core.checkpoint_files import (
    part_of,
    patients_of,
    previous_file,
    read_checkpoint,
)
from lightning_modules.core.codec import Codec
from lightning_modules.core.denoiser import Denoiser
from lightning_modules.core.description import check_conditioners, check_process
from lightning_modules.core.facts import check_facts
from lightning_modules.core.window import IntensityWindow
from lightning_modules.relative_paths import absolute, relative


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside the old one and moves it into place when it is on disk.

    Whatever happens meanwhile (a kill, a full disk), there is a whole checkpoint: Lightning's own
    writer goes by the system's temporary folder, which may be another disk, and then copies. The
    old one is kept as `previous-last.ckpt`, should the new one be damaged afterwards.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint.

        Raises:
            OSError: If it cannot be written, naming the file; the older one is as it was.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            with written_whole(path) as temporary, temporary.open("wb") as file:
                torch.save(relative(checkpoint), file)
                file.flush()
                os.fsync(file.fileno())
                _keep_previous(Path(path))
        except (OSError, RuntimeError) as error:  # torch's writer makes its own of a full disk
            message = (
                f"The checkpoint {path} could not be written ({error}); an older one is still "
                "whole: make room, and run the same command again."
            )
            raise OSError(message) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, checked, and without running anything that it may hold.

        Args:
            path: the file.
            map_location: as Lightning gives it; a file is read onto the CPU.
            weights_only: as Lightning gives it; nothing else is ever read.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no checkpoint, or damaged.
        """
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
        if Path(path).is_dir():
            message = (
                f"{path} is a folder, expected the file of a checkpoint: give an exported model as "
                "model.init_args.init_from, and ckpt_path null."
            )
            raise ValueError(message)
        return absolute(read_checkpoint(Path(path)), Path(path).parent)


def _keep_previous(path: Path) -> None:
    """Give the checkpoint at `path` a second name, so that it outlives being replaced."""
    if not path.is_file():
        return
    with written_whole(previous_file(path)) as second:
        try:
            second.hardlink_to(path)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, second)


def load_codec(codec: Codec, path: Path, window: IntensityWindow) -> set[str]:
    """Load the autoencoder of a stage 1 checkpoint, or the one that a stage 2 checkpoint holds.

    Returns:
        Keys of the patients that the checkpoint was trained on.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no autoencoder's, or of another size or window.
    """
    checkpoint = read_checkpoint(path)
    theirs, ours = checkpoint.get("noduleforge", {}).get("window"), [window.low, window.high]
    if theirs != ours:
        message = (
            f"The autoencoder in {path} was trained with the window {theirs}, but the head's is "
            f"{ours}: give both the same."
        )
        raise ValueError(message)
    sizes = "model.codec: give it the channels, latent_channels and num_res_blocks of stage 1"
    with _fitting(path, sizes):
        codec.load_state_dict(part_of(checkpoint, "codec."))
    return patients_of(checkpoint)


def load_denoiser(
    denoiser: Denoiser, path: Path, facts: Mapping[str, Any], description: Mapping[str, Any]
) -> None:
    """Load the averaged weights of a diffusion checkpoint, below the adapters that there are.

    Args:
        denoiser: the network.
        path: a diffusion checkpoint.
        facts: what its window, margin and spacing must be.
        description: of the model; a network with adapters takes the conditions of its base, and
            any has the base's process.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If its network is of another size, or was trained with other facts.
    """
    checkpoint = read_checkpoint(path)
    saved = checkpoint.get("noduleforge", {})
    check_facts(saved, facts)
    check_process(saved.get("synthesizer", {}), description)
    if adapter_names(denoiser):
        check_conditioners(saved.get("synthesizer", {}), description)
    sizes = (
        "model.unet or model.transformer, and model.head: give them the checkpoint's sizes and "
        "conditioners"
    )
    with _fitting(path, sizes):
        load_base(denoiser, part_of(checkpoint, "ema.module."))


@contextmanager
def _fitting(path: Path, sizes: str) -> Iterator[None]:
    """Put into words that weights do not fit."""
    try:
        yield
    except RuntimeError as error:
        message = f"The weights in {path} do not fit {sizes}."
        raise ValueError(message) from error
