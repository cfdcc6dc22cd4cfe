"""What parts cost over what they are added to: regularizer, synthesis, adapters."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from lightning_modules.composition import CXRComposition, OrthogonalityConfig
from lightning_modules.core.adapters import AdapterConfig
from lightning_modules.core.conditioning import Surroundings
from lightning_modules.core.inpainting import inpaint_mask, mean_fill, to_latent_mask
from lightning_modules.ct import CTDiffusion
from lightning_modules.cxr import CXRAdapter, CXRDiffusion
from lightning_modules.diffusion import NoduleDiffusion
from lightning_modules.heads.ct import CTHead
from lightning_modules.heads.cxr import CXRHead
from timing.clock import Machine, Row, Step, milliseconds, ratio
from timing.models import RADIOGRAPHS, SMALL, Bare, build, make_batch, sizes_of

Batch = Any


def compared(what: str, aim: float, times: dict[str, list[float]]) -> Row:
    """The row of two steps that were timed in turn."""
    over, under = times.values()
    return {
        "what": what,
        "ms": milliseconds(over),
        "to_ms": milliseconds(under),
        "ratio": ratio(over, under),
        "aim": aim,
    }


def step_of(model: NoduleDiffusion, batch: Batch, machine: Machine) -> Step:
    """Losses, backward, optimizer and moving average, without a trainer."""
    trained = [p for p in model.denoiser.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with machine.autocast():
            loss = model.trial_loss(batch)
        loss.backward()
        optimizer.step()
        model.ema.update(model.denoiser)

    return step


def sampled(model: NoduleDiffusion, batch: Batch, machine: Machine) -> Step:
    """Synthetic nodules, from background to pasted image."""

    def step() -> None:
        with machine.autocast():
            model.sample(batch)

    return step


def evaluated(model: NoduleDiffusion, batch: Batch, machine: Machine) -> Step:
    """One encoding, the network evaluations, one decoding."""
    network: Any = model.ema.module
    region = inpaint_mask(batch["mask"], model.head.margin_voxels)
    image = mean_fill(model.head.window.normalize(batch["image"]), region)
    surroundings = Surroundings(batch["context"], to_latent_mask(region, model.codec.compression))
    timestep = torch.full((len(batch["index"]),), 500, device=image.device)

    @torch.no_grad()
    def step() -> None:
        with machine.autocast():
            model.codec.encode(image)
            conditioning = network.condition(batch, surroundings)
            for _ in range(model.sampling.evaluations):
                network(batch["context"], timestep, conditioning)
            model.codec.decode(batch["context"])

    return step


def overheads(machine: Machine, batch: int, changes: dict[str, Any]) -> Iterator[Row]:
    """A row for each part of a CT model.

    Args:
        machine: where, and until when.
        batch: nodules together.
        changes: laid over the model's arguments.
    """
    sizes = sizes_of(SMALL, changes)
    plain = build(CTDiffusion, CTHead(regularizers={}), sizes, machine.device)
    regularized = build(CTDiffusion, CTHead(), sizes, machine.device)
    nodules = make_batch(plain, batch)
    whole = machine.until
    half = Machine(machine.device, machine.sizes, whole - machine.left / 2)
    pairs: list[tuple[str, float, Machine, Callable[[], dict[str, Step]]]] = [
        ("step with the histogram regularizer, to the step without", 1.3, half, lambda: {
            "with": step_of(regularized, nodules, machine),
            "without": step_of(plain, nodules, machine)}),
        ("synthesis, to its evaluations and codec", 1.1, machine, lambda: {
            "all": sampled(plain.eval(), nodules, machine),
            "parts": evaluated(plain, nodules, machine)}),
    ]  # fmt: skip
    for what, aim, until, steps in pairs:
        yield {"batch": batch, **compared(what, aim, until.in_turn(steps()))}


def adapters(machine: Machine, batch: int, changes: dict[str, Any]) -> Iterator[Row]:
    """A row for training an adapter and one for synthesis with three, on radiographs."""
    sizes, names = sizes_of(RADIOGRAPHS, changes), ("a", "b", "c")
    make: Any = lambda what, **settings: build(  # noqa: E731
        what, CXRHead(), sizes, machine.device, **settings
    )
    base, adapter = make(CXRDiffusion), AdapterConfig()
    one = make(CXRAdapter, characteristic="a", adapter=adapter)
    several: Any = make(
        CXRComposition,
        adapters=dict.fromkeys(names),
        adapter=adapter,
        orthogonality=OrthogonalityConfig(),
    )
    nodules = make_batch(base, batch)
    half = Machine(machine.device, machine.sizes, machine.until - machine.left / 2)
    steps = {
        "adapter": step_of(one, nodules, machine),
        "frozen": Bare(base, batch, machine).frozen(),
    }
    what = "an adapter's step, to forward and backward of the frozen network"
    yield {"batch": batch, **compared(what, 1.3, half.in_turn(steps))}
    with several.eval().using(dict.fromkeys(names, 1.0)):
        steps = {
            "three": sampled(several, nodules, machine),
            "base": sampled(base.eval(), nodules, machine),
        }
        what = "synthesis with three fused adapters, to the base's"
        yield {"batch": batch, **compared(what, 1.05, machine.in_turn(steps))}
