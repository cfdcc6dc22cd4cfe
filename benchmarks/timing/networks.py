"""The network alone, compiled against eager and channels-last against contiguous."""

from collections.abc import Iterator
from typing import Any

import torch

from lightning_modules.ct import CTDiffusion
from lightning_modules.heads.ct import CTHead
from timing.clock import Machine, Row, flops_of, milliseconds, ratio
from timing.models import Bare, build, sizes_of


def network(
    machine: Machine,
    configs: tuple[str, ...],
    batch: int,
    changes: dict[str, Any],
    unet: dict[str, Any],
    what: str,
) -> Iterator[Row]:
    """A step of the network alone with changed settings, to one without.

    Args:
        machine: where, and until when.
        configs: laid over each other.
        batch: of the step.
        changes: laid over the model's arguments.
        unet: the changed settings.
        what: names the row.
    """
    torch.manual_seed(0)
    sizes = sizes_of(configs, changes)
    plain = build(CTDiffusion, CTHead(regularizers={}), sizes, machine.device)
    sizes = sizes_of(configs, {**changes, "unet": {**changes.get("unet", {}), **unet}})
    changed = build(CTDiffusion, CTHead(regularizers={}), sizes, machine.device)
    changed.denoiser.load_state_dict(plain.denoiser.state_dict())
    before, after = Bare(plain, batch, machine), Bare(changed, batch, machine)
    changed.denoiser.unet = after.unet
    changed.denoiser.compile_unet()  # a copy is not compiled
    with torch.no_grad():
        flops = flops_of(before.forward)
    first = machine.seconds(after.step)
    times = machine.in_turn({"changed": after.step, "plain": before.step})
    spent = times["changed"]
    yield {
        "what": what,
        "batch": batch,
        "ms": milliseconds(spent),
        "plain_ms": milliseconds(times["plain"]),
        "times_as_fast": ratio(times["plain"], spent),
        "first_step_s": round(first, 1),
        **machine.computing(3 * flops, sorted(spent)[len(spent) // 2]),
        "memory_mib": round(machine.memory_mib()),
    }
