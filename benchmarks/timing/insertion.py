"""One nodule put into a whole scan, reading and writing aside."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.batch import Roi
from datamodules.hounsfield import AIR_HU
from datamodules.insertion.edits import Edit, apply
from datamodules.insertion.rois import cut
from datamodules.io.volumes import Volume
from lightning_modules.ct import CTDiffusion
from lightning_modules.diffusion import NoduleDiffusion
from lightning_modules.heads.ct import CTHead
from timing.clock import Machine, Row, milliseconds, ratio
from timing.models import build, make_batch, sizes_of
from timing.peers import STEPS, Maisi

SPACING_MM = (1.0, 0.7, 0.7)


def scan(shape: tuple[int, ...]) -> Volume:
    """A scan of lung, z, y, x."""
    return Volume(np.full(shape, -850, np.int16), SPACING_MM, (0.0,) * 3, np.eye(3))


class Inserted:
    """Puts a nodule into the middle of a scan: cut, synthesize, add; without a model 0.4 HU."""

    def __init__(
        self, study: Volume, roi: Roi, machine: Machine, model: NoduleDiffusion | None = None
    ) -> None:
        self.study, self.roi, self.machine, self.model = study, roi, machine, model
        self.batch: Any = make_batch(model, 1) if model else None

    def __call__(self) -> None:
        """Insert it once more."""
        middle = dict(zip("zyx", (n // 2 for n in self.study.array.shape), strict=True))
        row = {"subtype": "solid", "diameter_mm": 6.0, **middle}
        region = cut(self.study, row, Path(), self.roi, 3, AIR_HU)
        change = region.mask * np.float32(0.4)
        if self.model is not None:
            tensors = {"image": region.image.array, "mask": region.mask}
            moved = {
                name: torch.from_numpy(np.ascontiguousarray(array, np.float32))[None, None]
                for name, array in tensors.items()
            }
            batch = {**self.batch, **{n: v.to(self.model.device) for n, v in moved.items()}}
            with self.machine.autocast():
                synthesis = self.model.sample(batch)
            change = (synthesis.image - synthesis.background)[0, 0].cpu().numpy()
        grid = region.image
        volume = Volume(change, grid.spacing_mm, grid.origin_mm, grid.direction)
        apply(self.study, Edit(row, volume, region.mask))


def insertion(
    machine: Machine,
    configs: tuple[str, ...],
    changes: dict[str, Any],
    shape: tuple[int, int, int],
    peer: tuple[int, int, int],
) -> Iterator[Row]:
    """Ours against denoising the whole latent volume, and a large scan against a small one.

    Args:
        machine: where, and until when.
        configs: of ours, laid over each other.
        changes: laid over our model's arguments.
        shape: of the scan, z, y, x.
        peer: of the volume that MAISI denoises; smaller where the scan's would take too long.
    """
    model = build(CTDiffusion, CTHead(), sizes_of(configs, changes), machine.device).eval()
    side = model.roi.shape(3)[0]
    sides, large = " x ".join(map(str, shape)), scan(shape)
    putting = {
        "large": Inserted(large, model.roi, machine),
        "small": Inserted(scan((2 * side,) * 3), model.roi, machine),
    }
    times = machine.in_turn(putting)
    tracemalloc.start()
    putting["large"]()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    yield {
        "what": f"cutting and adding alone, {sides} to {2 * side} x {2 * side} x {2 * side}",
        "ms": milliseconds(times["large"]),
        "ratio": ratio(times["large"], times["small"]),
        "scan_mib": round(large.array.nbytes / 2**20),
        "beside_it_mib": round(peak / 2**20, 1),
    }
    maisi = Maisi(peer, machine)
    steps = {"ours": Inserted(large, model.roi, machine, model), "peer": maisi.evaluation}
    times = machine.in_turn(steps, 5)
    whole = [STEPS * spent for spent in times["peer"]]
    yield {
        "what": f"ours, one nodule into {sides}: cut, synthesize, add",
        "evaluations": model.sampling.evaluations,
        "ms": milliseconds(times["ours"]),
    }
    smaller = (
        ""
        if peer == shape
        else f"; the scan has {np.prod(shape) / np.prod(peer):.0f} times as many"
    )
    yield {
        "what": "MAISI-v2: denoising the whole latent volume",
        "evaluations": STEPS,
        "ms": milliseconds(whole),
        "to_ours": ratio(whole, times["ours"]),
        "differs": f"extrapolated from one evaluation of {' x '.join(map(str, peer))} voxels"
        f"{smaller}; random weights, neither encoded nor decoded, nothing kept of the scan",
    }
