"""Named low-rank adapters (LoRA, Hu et al. 2022) on a frozen denoiser, kept by peft."""

import hashlib
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from lightning_modules.core.adapter_files import WEIGHTS, base_of, check_folder, complete
from lightning_modules.core.denoiser import Denoiser
from lightning_modules.core.randomness import generator

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

SELF_ATTENTION = r".*attn1\.(to_q|to_k|to_v|out_proj)"
"""Paper A (Singh et al., MIDL 2026, table 10) adapts queries, keys, values and the projection."""


PREFIX = "base_model.model."
"""What peft puts before the name of a layer."""

MERGED = "merged"
"""Name of the adapter that others are merged into."""


@dataclass
class AdapterConfig:
    """Size and strength of an adapter.

    Attributes:
        rank: r of the update B A.
        alpha: the update is multiplied by alpha / rank, and by the strength at which it is used.
        targets: regular expression of the layers that are adapted, or a list of name endings.
        basis: which of many mutually orthogonal bases A is, and stays (Orthogonal Adaptation, Po et
            al. 2024): adapters of different numbers never meet in what they read, whether or not
            they were trained together. None trains A as well.
    """

    rank: int = 8
    alpha: float = 8.0
    targets: str | list[str] = SELF_ATTENTION
    basis: int | None = None

    @property
    def factor(self) -> float:
        """The effective factor at strength 1, alpha / rank."""
        return self.alpha / self.rank


class LowRank(NamedTuple):
    """One layer's update of one adapter: `factor * B @ A`.

    Attributes:
        site: name of the layer.
        a: `(rank, in)`; spans what the update reads.
        b: `(out, rank)`; spans what the update writes.
        factor: alpha / rank times the strength.
    """

    site: str
    a: Tensor
    b: Tensor
    factor: float


def add_adapter(denoiser: Denoiser, name: str, config: AdapterConfig, seed: int = 0) -> None:
    """Freeze the denoiser and put a new adapter on its network; it changes nothing yet (B is 0).

    Args:
        denoiser: the base, with adapters or without.
        name: the adapter's.
        config: its size.
        seed: of A, which depends on it and on the names alone: every process begins alike.

    Raises:
        ValueError: If there is an adapter of that name, or no layer that is to be adapted.
    """
    if name in adapter_names(denoiser):
        message = f"There is an adapter {name!r} already: choose another name."
        raise ValueError(message)
    from peft import LoraConfig, PeftModel, get_peft_model

    targets = _layer_names(denoiser, config.targets)
    lora = LoraConfig(r=config.rank, lora_alpha=cast(int, config.alpha), target_modules=targets)
    try:
        if not targets:
            message = "none has such a name"
            raise ValueError(message)
        if isinstance(denoiser.unet, PeftModel):
            denoiser.unet.add_adapter(name, lora)
        else:
            denoiser.requires_grad_(False)
            denoiser.unet = get_peft_model(denoiser.unet, lora, adapter_name=name)
    except ValueError as error:
        message = f"The adapter's targets {config.targets!r} fit no layer of the network ({error})."
        raise ValueError(message) from error
    for low in updates(denoiser, name):
        # as peft does, which draws from the global generator
        stream = generator("adapter", seed, name, low.site)
        nn.init.kaiming_uniform_(low.a, math.sqrt(5), generator=stream)
        if config.basis is not None:
            with torch.no_grad():
                low.a.copy_(_basis(low.site, low.a, config.basis))
            low.a.fixed = True  # type: ignore[attr-defined]
    activate(denoiser, dict.fromkeys(adapter_names(denoiser), 1.0))


def _layer_names(denoiser: Denoiser, targets: str | list[str]) -> list[str]:
    """The layers that are meant, which is what an adapter's folder says: no expression."""
    if not isinstance(targets, str):
        return targets
    names = (name.removeprefix(PREFIX) for name, _ in denoiser.unet.named_modules())
    own = (name for name in names if ".lora_" not in name and not name.endswith(".base_layer"))
    return [name for name in own if re.fullmatch(targets, name)]


def _basis(site: str, like: Tensor, number: int) -> Tensor:
    """The rows of an orthogonal matrix, the same for all adapters of a layer, that are one's own.

    Raises:
        ValueError: If the layer has not so many rows.
    """
    rank, width = like.shape
    if number < 0 or (number + 1) * rank > width:
        message = (
            f"basis is {number}, but {site} reads {width} values, which hold {width // rank} bases "
            f"of rank {rank}: give 0 to {width // rank - 1}, or a lower rank."
        )
        raise ValueError(message)
    normal = torch.randn(width, width, generator=generator("basis", site), dtype=torch.float64)
    rows: Tensor = torch.linalg.qr(normal).Q[number * rank : (number + 1) * rank]
    # as large as the random rows that they stand for
    size = float(like.detach().norm(dim=1).mean())
    return (rows * size).to(like)


def adapter_names(denoiser: Denoiser) -> list[str]:
    """The adapters' names, in the order in which they were added."""
    from peft import PeftModel

    return list(denoiser.unet.peft_config) if isinstance(denoiser.unet, PeftModel) else []


def load_base(denoiser: Denoiser, weights: Mapping[str, Any]) -> None:
    """Load the weights of a denoiser without adapters, below the adapters that this one has.

    Raises:
        RuntimeError: If they are another network's.
    """
    names = {
        name.replace(f".{PREFIX}", ".").replace(".base_layer.", "."): name
        for name in denoiser.state_dict()
        if ".lora_" not in name
    }
    if differing := names.keys() ^ weights.keys():
        message = f"Only one of the two networks has {sorted(differing)[:3]}"
        raise RuntimeError(message)
    denoiser.load_state_dict({names[key]: value for key, value in weights.items()}, strict=False)


def activate(denoiser: Denoiser, strengths: Mapping[str, float]) -> None:
    """Let these adapters, and no others, take part, each at its strength.

    The updates of several are added, each times strength * alpha / rank. All adapters keep their
    gradients (peft takes them from those that are not active).

    Raises:
        ValueError: If there is no adapter of that name.
    """
    names = adapter_names(denoiser)
    for name in strengths:
        if name not in names:
            message = f"There is no adapter {name!r}, only {names}: load it first."
            raise ValueError(message)
    if not names:
        return
    unet = denoiser.unet
    if not strengths:
        unet.base_model.disable_adapter_layers()
        return
    unet.base_model.enable_adapter_layers()
    unet.base_model.set_adapter(list(strengths))
    for layer in layers(denoiser).values():
        for name, strength in strengths.items():
            layer.set_scale(name, strength)
    for key, parameter in unet.named_parameters():
        if ".lora_" in key:
            parameter.requires_grad_(not getattr(parameter, "fixed", False))


def active(denoiser: Denoiser) -> dict[str, float]:
    """The adapters that take part, each with its strength."""
    for layer in layers(denoiser).values():
        if not layer.disable_adapters:
            return {
                name: layer.scaling[name] * layer.r[name] / layer.lora_alpha[name]
                for name in layer.active_adapters
            }
    return {}


@contextmanager
def base_alone(denoiser: Denoiser) -> Iterator[None]:
    """Let no adapter take part meanwhile."""
    strengths = active(denoiser)
    activate(denoiser, {})
    try:
        yield
    finally:
        activate(denoiser, strengths)


def merge_adapters(
    denoiser: Denoiser,
    strengths: Mapping[str, float],
    kind: str,
    density: float = 0.5,
    seed: int = 0,
) -> None:
    """Let adapters take part together, merged into one.

    Args:
        denoiser: with the adapters; an earlier merged one is replaced.
        strengths: for each adapter that takes part its strength.
        kind: `sum`, `cat`, `svd`, `ties`, `dare` or `linear`; see `core.merging.Weighted`.
        density: share of the entries that `ties` and `dare` keep.
        seed: of what `dare` drops.

    Raises:
        ValueError: If an adapter is not there.
    """
    unet = denoiser.unet
    if MERGED in adapter_names(denoiser):
        unet.base_model.delete_adapter(MERGED)
    activate(denoiser, strengths)
    if kind == "sum" or not strengths:
        return
    # merging reads the layers' scalings, into which `activate` has put the strengths
    ranks = [unet.peft_config[name].r for name in strengths]
    kinds = {"ties": "ties_svd", "dare": "dare_linear_svd"}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet.base_model.add_weighted_adapter(
            list(strengths),
            [1.0] * len(strengths),
            MERGED,
            combination_type=kinds.get(kind, kind),
            svd_rank=max(ranks) if kind == "svd" else sum(ranks),
            density=density if kind in kinds else None,
        )
    activate(denoiser, {MERGED: 1.0})


def fuse(denoiser: Denoiser) -> None:
    """Add the active updates to the base's weights: the network then costs what the base does."""
    if adapter_names(denoiser):
        denoiser.unet.base_model.merge_adapter()


def updates(denoiser: Denoiser, name: str) -> Iterator[LowRank]:
    """The updates of one adapter, layer by layer, with gradient."""
    for site, layer in layers(denoiser).items():
        a, b = (cast(nn.Linear, part[name]).weight for part in (layer.lora_A, layer.lora_B))
        yield LowRank(site, a, b, layer.scaling[name])


def save_adapter(denoiser: Denoiser, name: str, folder: Path, patients: Sequence[str]) -> None:
    """Write an adapter as a peft folder, `adapter_config.json` and `adapter_model.safetensors`.

    Beside them go `patients.json`, keys of the patients that it was trained on, `base.json`, the
    fingerprint of the network under it, and checksums. An older folder is replaced when the new one
    is whole.
    """
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}-unfinished")
    shutil.rmtree(temporary, ignore_errors=True)
    denoiser.unet.save_pretrained(temporary, selected_adapters=[name])
    written = temporary / name if (temporary / name).is_dir() else temporary
    complete(written, patients, base_fingerprint(denoiser))
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    written.rename(folder)
    shutil.rmtree(temporary, ignore_errors=True)


def base_fingerprint(denoiser: Denoiser) -> str:
    """Hex SHA-256 of the network below its adapters, to bfloat16: the same in any precision."""
    digest = hashlib.sha256()
    weights = {
        name.replace(f".{PREFIX}", ".").replace(".base_layer.", "."): value
        for name, value in denoiser.unet.named_parameters(prefix="unet")
        if ".lora_" not in name
    }
    for name in sorted(weights):
        rounded = weights[name].detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(name.encode() + rounded.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def check_bases(denoiser: Denoiser, folders: Mapping[str, Path | str]) -> None:
    """Check that adapters lie on the network that they were trained on, as far as they say it.

    Args:
        denoiser: with the base's weights.
        folders: of the adapters, by name.

    Raises:
        ValueError: If one was trained on another.
    """
    bases = {name: base_of(Path(folder)) for name, folder in folders.items()}
    if not any(bases.values()):
        return
    ours = base_fingerprint(denoiser)
    for name, base in bases.items():
        if base not in (None, ours):
            message = (
                f"The adapter {name} in {folders[name]} was trained on another base: give the "
                "checkpoint that it was trained on, or train it on this one."
            )
            raise ValueError(message)


def load_adapter(denoiser: Denoiser, name: str, folder: Path) -> set[str]:
    """Read a peft folder as an adapter of that name.

    Whether it lies on its own base is said by `check_bases`, once that has its weights.

    Returns:
        Keys of the patients that it was trained on.

    Raises:
        FileNotFoundError: If the folder holds no adapter.
        ValueError: If there is an adapter of that name, it is damaged (see `check_folder`), or it
            does not fit the network.
    """
    folder = Path(folder)
    patients = check_folder(folder)
    if name in adapter_names(denoiser):
        message = f"There is an adapter {name!r} already: choose another name."
        raise ValueError(message)
    from peft import PeftModel
    from safetensors import SafetensorError

    try:
        if isinstance(denoiser.unet, PeftModel):
            denoiser.unet.load_adapter(str(folder), name, is_trainable=True)
        else:
            denoiser.requires_grad_(False)
            denoiser.unet = PeftModel.from_pretrained(
                denoiser.unet, str(folder), adapter_name=name, is_trainable=True
            )
    except SafetensorError as error:
        message = f"{folder / WEIGHTS} is damaged or cut short ({error}): copy the folder again."
        raise ValueError(message) from error
    except (RuntimeError, ValueError) as error:
        message = (
            f"The adapter in {folder} does not fit the network: use the base it was trained on."
        )
        raise ValueError(message) from error
    activate(denoiser, dict.fromkeys(adapter_names(denoiser), 1.0))
    return patients


def layers(denoiser: Denoiser) -> dict[str, "LoraLayer"]:
    """The layers that have adapters, by name."""
    from peft.tuners.lora import LoraLayer

    modules: dict[str, nn.Module] = dict(denoiser.unet.named_modules())
    return {name: layer for name, layer in modules.items() if isinstance(layer, LoraLayer)}
