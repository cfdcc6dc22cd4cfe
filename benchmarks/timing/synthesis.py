"""Synthesis: nodules a second by batch and by network evaluations."""

from collections.abc import Iterator
from typing import Any

import torch

from lightning_modules.core.sampling import SamplingConfig
from lightning_modules.ct import CTDiffusion
from lightning_modules.heads.ct import CTHead
from timing.clock import Machine, Row, flops_of, spread
from timing.models import build, make_batch, parameters_m, sizes_of


def synthesis(
    machine: Machine,
    configs: tuple[str, ...],
    batches: tuple[int, ...],
    changes: dict[str, Any],
    what: str,
) -> Iterator[Row]:
    """A row for each batch, 20 and 8 evaluations in turn.

    Args:
        machine: where, and until when.
        configs: laid over each other.
        batches: nodules synthesized together.
        changes: laid over the model's arguments.
        what: names the rows.
    """
    model = build(CTDiffusion, CTHead(), sizes_of(configs, changes), machine.device).eval()
    names = {"what": what, "parameters_m": parameters_m(model.denoiser)}
    a_nodule, flops = 0.0, {}
    for size in batches:
        if (needed := 4 * a_nodule * size) > machine.left:
            reason = f"would take about {needed:.0f} s, {max(machine.left, 0):.0f} s are left"
            yield {**names, "batch": size, "skipped": reason}
            continue
        batch = make_batch(model, size)

        def sample(evaluations: int, batch: Any = batch) -> None:
            model.sampling = SamplingConfig(evaluations)
            with machine.autocast():
                model.sample(batch)

        try:
            flops = flops or {n: flops_of(lambda n=n: sample(n)) / size for n in (20, 8)}
            steps = {str(n): lambda n=n: sample(n) for n in (20, 8)}
            times = machine.in_turn(steps, 7)
        except torch.OutOfMemoryError:
            yield {**names, "batch": size, "skipped": "does not fit into the card's memory"}
            break
        a_nodule = max(times["20"]) / size
        for evaluations, spent in times.items():
            yield {
                **names,
                "batch": size,
                "evaluations": int(evaluations),
                "nodules_per_s": spread([size / seconds for seconds in spent]),
                **machine.computing(size * flops[int(evaluations)], sorted(spent)[len(spent) // 2]),
                "memory_mib": round(machine.memory_mib()),
            }
