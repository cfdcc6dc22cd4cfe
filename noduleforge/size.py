"""How large a config's model is, and what a training step of it takes, without weights or data."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import yaml
from lightning import LightningModule
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from datamodules.batch import Roi
from lightning_modules.composition import CXRZip, SeveralAdapters
from lightning_modules.core.adapters import AdapterConfig, add_adapter
from lightning_modules.core.codec import Codec
from lightning_modules.core.denoiser import Denoiser
from lightning_modules.core.saved_tensors import saved_bytes
from lightning_modules.core.ziplora import add_coefficients
from lightning_modules.downstream import DownstreamModule

MARK = "# over: "
"""Begins the first line of an overlay; the configs that it is laid over follow."""

BATCH_SIZES = (1, 4, 16, 64)

aten = torch.ops.aten


class Step(NamedTuple):
    """What one training step takes.

    Attributes:
        batch_size: nodules of the step.
        flop: floating-point operations, forward and backward.
        activations: bytes that are kept for the backward pass.
    """

    batch_size: int
    flop: int
    activations: int


class Size(NamedTuple):
    """A model's size.

    Attributes:
        model: its class.
        parameters: of its parts, by name; copies that are averaged are not among them.
        trained: how many parameters are trained.
        weights: bytes of all weights, averaged copies included.
        training: bytes of gradients and of AdamW's two moments.
        steps: what a training step takes, for several batch sizes.
    """

    model: str
    parameters: dict[str, int]
    trained: int
    weights: int
    training: int
    steps: list[Step]


def size(configs: list[Path], batch_sizes: list[int] | None = None) -> None:
    """Say how many parameters a config's model has, and what a training step needs.

    Nothing is computed and no file of weights is read: the step is taken with tensors that have a
    shape and no values. Latents count as cached, as they are in training, and weights as float32.
    Activations are what is kept for the backward pass; kernels' own workspace and the allocator's
    reserve come on top. Adapters from folders count as new ones of the config's size.

    Args:
        configs: a config, and what is laid over it; what an overlay names in its first line is put
            before it.
        batch_sizes: nodules of a step; by default 1, 4, 16 and 64, and the config's own.

    Raises:
        FileNotFoundError: If a config is missing.
        ValueError: If it has no model that is trained, or its parts do not fit each other.
    """
    said = with_bases(configs)
    found = measure(said, batch_sizes)
    print(f"{configs[-1]}: {found.model}")
    parts = ", ".join(f"{name} {count / 1e6:,.2f} M" for name, count in found.parameters.items())
    print(f"parameters: {parts}; trained {found.trained / 1e6:,.2f} M")
    print(
        f"memory: weights {memory(found.weights)} (averaged ones included), gradients and AdamW "
        f"{memory(found.training)}"
    )
    print("batch | FLOP of a step | activations | all")
    for step in found.steps:
        total = found.weights + found.training + step.activations
        print(
            f"{step.batch_size:5} | {step.flop:14.3e} | {memory(step.activations):>11} | "
            f"{memory(total)}"
        )


def memory(count: int) -> str:
    """Bytes in the unit that suits them."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def with_bases(configs: Sequence[Path]) -> list[dict[str, Any]]:
    """What the configs say, and before each what it is laid over, each once.

    Raises:
        FileNotFoundError: If one is missing.
        ValueError: If one is no YAML of sections.
    """
    files: list[Path] = []
    for config in map(Path, configs):
        if not config.is_file():
            message = f"The config {config} is not a file: correct the path."
            raise FileNotFoundError(message)
        first = config.read_text("utf-8").partition("\n")[0]
        names = first.removeprefix(MARK).split() if first.startswith(MARK) else []
        folder = config.parents[1] if names else config.parent
        files += [f for f in (*(folder / name for name in names), config) if f not in files]
    said = []
    for file in files:
        try:
            sections: Any = yaml.safe_load(file.read_text("utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            message = f"The config {file} is no YAML in UTF-8 ({error}): correct it."
            raise ValueError(message) from error
        if not isinstance(sections, dict):
            message = f"The config {file} has no sections such as model and data: write them."
            raise ValueError(message)
        said.append(sections)
    return said


def measure(said: Sequence[Mapping[str, Any]], batch_sizes: Sequence[int] | None = None) -> Size:
    """The size of the model of several configs, laid over each other.

    Args:
        said: their sections.
        batch_sizes: see `size`.
    """
    with torch.device("meta"):
        model = build(said)
    if not [*model.parameters()]:
        message = f"{type(model).__name__} has no parameters: there is nothing to measure."
        raise ValueError(message)
    own = last(said, "data", "batch_size")
    sizes = batch_sizes or sorted({*BATCH_SIZES, *([own] if isinstance(own, int) else [])})
    if min(sizes) < 1:
        message = f"batch_sizes is {list(sizes)}: give numbers of 1 or more."
        raise ValueError(message)
    roi = getattr(model, "roi", None) or Roi(last(said, "data", "radiograph_size") or 256)
    mixed = str(last(said, "trainer", "precision")).startswith("bf16")
    trained = [p for p in model.parameters() if p.requires_grad]
    # MONAI's Dice reads values back, so that what is trained with it takes real steps
    valueless = not isinstance(model, DownstreamModule)
    mode = FakeTensorMode(allow_non_fake_inputs=True) if valueless else nullcontext()
    with mode, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's, on logging without a trainer
        lend_storage(model)
        # both grow by the same for each nodule; batch normalization needs two
        two, three = (step_of(model, roi, batch_size, mixed) for batch_size in (2, 3))
    steps = [
        Step(n, *(a + (n - 2) * (b - a) for a, b in zip(two[1:], three[1:], strict=True)))
        for n in sizes
    ]
    return Size(
        type(model).__name__,
        parts_of(model),
        sum(p.numel() for p in trained),
        nbytes(model.parameters()),
        3 * nbytes(trained),
        steps,
    )


def last(said: Sequence[Mapping[str, Any]], section: str, name: str) -> Any:
    """The last value of a setting."""
    found = None
    for sections in said:
        settings = sections.get(section) or {}
        found = settings.get("init_args", settings).get(name, found)
    return found


def build(said: Sequence[Mapping[str, Any]]) -> Any:
    """The model, without values; adapters from folders are new ones of the same size."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(LightningModule, "model", required=True)
    models = [yaml.safe_dump({"model": one["model"]}) for one in said if "model" in one]
    words = [word for model in models for word in ("--config", model)]
    model = parser.instantiate(parser.parse_args(words)).model
    if isinstance(model, SeveralAdapters):
        for name in model.adapters:
            add_adapter(model.denoiser, name, getattr(model, "adapter", AdapterConfig()))
        if isinstance(model, CXRZip):
            add_coefficients(model.denoiser)
    model.configure_model()
    return model


def parts_of(model: nn.Module) -> dict[str, int]:
    """Parameters of a model's parts."""
    return {
        name: count
        for name, part in model.named_children()
        if name != "ema" and (count := sum(p.numel() for p in part.parameters()))
    }


def nbytes(tensors: Iterator[Tensor] | Sequence[Tensor]) -> int:
    """Bytes of tensors."""
    return sum(t.numel() * t.element_size() for t in tensors)


def lend_storage(model: nn.Module) -> None:
    """Move a model from the meta device to a CPU that keeps no values: autocast knows that one."""
    for module in model.modules():
        if isinstance(module, Codec):
            module._checked = True  # whether its scale was measured, which needs values
        for name, weight in module._parameters.items():
            if weight is not None:
                empty = torch.empty_like(weight, device="cpu")
                module._parameters[name] = nn.Parameter(empty, weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device="cpu")


def step_of(model: Any, roi: Roi, batch_size: int, mixed: bool) -> Step:
    """Take a training step without values.

    Args:
        model: with storage.
        roi: the images' size.
        batch_size: of the step.
        mixed: whether it is taken in bf16-mixed.
    """
    batch = make_batch(model, roi, batch_size)
    if isinstance(model, SeveralAdapters):
        batch = dict.fromkeys(model.adapters, batch)
    losses: list[Tensor] = []

    def step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16) if mixed else nullcontext():
            losses.append(model.training_step(batch, 0))
        return losses[0]

    with FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter:
        kept = saved_bytes(step, besides=[*model.parameters(), *model.buffers()])
        torch.autograd.backward(losses.pop())
    model.zero_grad()
    return Step(batch_size, counter.get_total_flops(), kept)


def forward_flop(
    query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    """Of attention, as of the kernels on GPUs."""
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def backward_flop(
    grad: Any, query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    """Of attention, as of the kernels on GPUs."""
    return int(sdpa_backward_flop_count(grad, query, key, value))  # type: ignore[no-untyped-call]


ON_CPU: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: forward_flop,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: backward_flop,
}
"""Kernels that PyTorch's counter does not know."""


class Anything(dict[str, Tensor]):
    """Attributes of nodules, whatever is asked for."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size

    def __contains__(self, name: object) -> bool:
        """Everything is there."""
        return True

    def __missing__(self, name: str) -> Tensor:
        """A value for each nodule."""
        return torch.ones(self.batch_size)


def make_batch(model: Any, roi: Roi, batch_size: int) -> dict[str, Any]:
    """A batch of the right shapes, with cached latents where the model has any."""
    codec = getattr(model, "codec", None)
    dims = codec.spatial_dims if codec is not None else getattr(model, "spatial_dims", None)
    dims = dims or getattr(model, "size", {}).get("spatial_dims", 2)
    sides = roi.shape(dims)
    numbers = torch.zeros(batch_size, dtype=torch.int64)
    batch: dict[str, Any] = {
        "image": torch.zeros(batch_size, 1, *sides),
        "mask": torch.zeros(batch_size, 1, *sides),
        "subtype": numbers,
        "attributes": Anything(batch_size),
        "spacing_mm": torch.ones(batch_size, dims),
        "index": numbers,
        "draw": numbers,
    }
    if isinstance(getattr(model, "denoiser", None), Denoiser):
        latent = [side // cast(Codec, codec).compression for side in sides]
        shape = (batch_size, cast(Codec, codec).latent_channels, *latent)
        batch |= {n: torch.zeros(shape) for n in ("latent_mean", "latent_logvar", "context")}
    return batch
