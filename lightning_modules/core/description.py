"""A model in plain data, from which it is built again without the config of its training.

Classes are named, and looked up among those that are known here: a checkpoint can make nothing
else.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from torch import nn

from lightning_modules.core.codec import Codec, LatentCodec
from lightning_modules.core.conditioners import (
    AttributeConditioner,
    BackgroundConditioner,
    HistogramConditioner,
    MaskConditioner,
    SubtypeConditioner,
)
from lightning_modules.core.denoiser import Denoiser
from lightning_modules.core.facts import ModelFacts
from lightning_modules.core.pretrained_codecs import DiffusersCodec, MaisiCodec
from lightning_modules.core.process import DiffusionProcess
from lightning_modules.core.sampling import (
    ClassifierFreeGuidance,
    Guidance,
    LabelGuidance,
    SamplingConfig,
)
from lightning_modules.core.transformer import TransformerConfig
from lightning_modules.core.unet import UNetConfig

KNOWN: dict[str, Any] = {
    known.__name__: known
    for known in (
        MaskConditioner,
        BackgroundConditioner,
        SubtypeConditioner,
        HistogramConditioner,
        AttributeConditioner,
        ClassifierFreeGuidance,
        LabelGuidance,
    )
}
"""Conditioners and guidance that a description may name."""

CODECS: dict[str, Any] = {
    known.__name__: known for known in (LatentCodec, DiffusersCodec, MaisiCodec)
}
"""Codecs that it may name."""


class Parts(NamedTuple):
    """What a model synthesizes with.

    Attributes:
        codec: the autoencoder.
        denoiser: the network with its conditioners.
        process: the diffusion process.
        sampling: how nodules are synthesized.
        guidance: of the network's answers.
    """

    codec: Codec
    denoiser: Denoiser
    process: DiffusionProcess
    sampling: SamplingConfig
    guidance: Guidance


def describe(parts: Parts) -> dict[str, Any]:
    """A model's parts as numbers, strings, lists and dictionaries; weights are not in it."""
    return {
        "codec": _named(parts.codec),
        parts.denoiser.config.section: asdict(parts.denoiser.config),
        "conditioners": {n: _named(c) for n, c in parts.denoiser.conditioners.items()},
        "process": parts.process.settings,
        "sampling": asdict(parts.sampling),
        "guidance": _named(parts.guidance),
    }


BINDING = ("prediction", "schedule", "shift", "timesteps")
"""Settings of the process without which the network's answers mean something else."""


def check_process(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Check that a checkpoint's network was trained in the config's diffusion process.

    Args:
        theirs: the checkpoint's description.
        ours: the config's.

    Raises:
        ValueError: Naming what differs.
    """
    for name in BINDING:
        known = theirs.get("process", {}).get(name)
        _check_same(f"process.{name}", known, ours["process"][name])


def check_conditioners(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Check that a checkpoint's network was told of nodules in the config's way.

    Args:
        theirs: the checkpoint's description.
        ours: the config's.

    Raises:
        ValueError: Naming what differs.
    """
    for name, conditioner in ours["conditioners"].items():
        stored = theirs.get("conditioners", {}).get(name)
        if stored is None:  # its weights are missing, which is said where they are loaded
            continue
        known = stored["settings"]
        if stored["class_name"] in KNOWN:  # with what an older description left at its default
            known = _make(stored, KNOWN).settings
        for setting, value in conditioner["settings"].items():
            if setting in known and setting not in ("dropout", "guided"):
                _check_same(f"head.conditioners.{name}.{setting}", known[setting], value)


def _check_same(name: str, theirs: Any, ours: Any) -> None:
    if _plain(theirs) != _plain(ours):
        message = (
            f"The checkpoint was trained with {name} {theirs}, but the config says {ours}: set it "
            "to the checkpoint's value."
        )
        raise ValueError(message)


def _plain(value: Any) -> Any:
    """Tuples as lists, which checkpoints may hold for each other."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def build(description: Mapping[str, Any], facts: ModelFacts) -> Parts:
    """The parts that a description is of, with random weights.

    Args:
        description: of `describe`.
        facts: of the same model.

    Raises:
        ValueError: If it names a class that is not known, or settings that a part does not have.
    """
    try:
        codec = build_codec(description)
        codec.see(facts.window)
        kind = UNetConfig if UNetConfig.section in description else TransformerConfig
        # what only training needs is left out
        size = replace(kind(**description[kind.section]), checkpointing=False, compile=None)
        conditioners = {n: _make(named, KNOWN) for n, named in description["conditioners"].items()}
        return Parts(
            codec,
            Denoiser(size, codec, conditioners, facts.window, facts.histogram_bins),
            DiffusionProcess(**description["process"]),
            SamplingConfig(**description["sampling"]),
            _make(description["guidance"], KNOWN),
        )
    except (KeyError, TypeError) as error:
        message = (
            f"The model's description cannot be read ({error}): use the version of noduleforge "
            "that it was trained with."
        )
        raise ValueError(message) from error


def build_codec(description: Mapping[str, Any]) -> Codec:
    """The codec that a description is of, with random weights; raises as `build`."""
    said = description["codec"]
    # before there were several, the settings stood alone
    named = said if "class_name" in said else {"class_name": "LatentCodec", "settings": said}
    codec: Codec = _make(named, CODECS)
    return codec


def _named(part: nn.Module | Guidance) -> dict[str, Any]:
    return {"class_name": type(part).__name__, "settings": part.settings}


def _make(named: Mapping[str, Any], known: Mapping[str, Any]) -> Any:
    if named["class_name"] not in known:
        message = (
            f"The model has a {named['class_name']!r}, expected one of {', '.join(known)}: use "
            "`lightning predict` with the config that names your class."
        )
        raise ValueError(message)
    return known[named["class_name"]](**named["settings"])
