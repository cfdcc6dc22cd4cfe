"""Ours and what a user would take instead, in turn on the same machine."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from lightning_modules.ct import CTDiffusion
from lightning_modules.heads.ct import CTHead
from timing.clock import Machine, Row, Step, milliseconds, ratio
from timing.models import build, make_batch, parameters_m, sizes_of
from timing.overheads import sampled, step_of
from timing.peers import STEPS, Maisi, latent_diffusion, maisi_decoder


def rows_of(times: Mapping[str, list[float]], facts: Mapping[str, Row]) -> Iterator[Row]:
    """A row for each that was timed in turn, with how often ours fits into it."""
    ours = times["ours"]
    for what, spent in times.items():
        yield {
            "what": what,
            **facts[what],
            "ms": milliseconds(spent),
            "to_ours": ratio(spent, ours),
        }


def peer_training(
    machine: Machine,
    configs: tuple[str, ...],
    batch: int,
    changes: dict[str, Any],
    images: tuple[int, int],
) -> Iterator[Row]:
    """A training step: ours on cached latents, MAISI's ControlNet, MONAI's latent diffusion.

    Args:
        machine: where, and until when.
        configs: of ours, laid over each other.
        batch: of ours, and of latent diffusion in 3D; MAISI has one volume.
        changes: laid over our model's arguments.
        images: side and number of the images of latent diffusion in 2D.
    """
    model = build(CTDiffusion, CTHead(), sizes_of(configs, changes), machine.device)
    nodules, sides = make_batch(model, batch), model.roi.shape(3)
    maisi = Maisi(sides, machine)
    side, number = images
    steps: dict[str, Step] = {
        "ours": step_of(model, nodules, machine),
        "MAISI-v2 ControlNet, UNet frozen": maisi.step,
        "MONAI latent diffusion 3D, encodes each time": latent_diffusion(3, sides[0], 1, machine),
        "MONAI latent diffusion 2D, encodes each time": latent_diffusion(2, side, number, machine),
    }
    shape = " x ".join(map(str, sides))
    facts: list[Row] = [
        {"batch": batch, "voxels": shape, "parameters_m": parameters_m(model.denoiser)},
        {"batch": 1, "voxels": shape, "parameters_m": parameters_m(maisi.unet)},
        {"batch": 1, "voxels": shape},
        {"batch": number, "voxels": f"{side} x {side}"},
    ]
    times = machine.in_turn(steps, 7)
    yield from rows_of(times, dict(zip(steps, facts, strict=True)))


def peer_synthesis(
    machine: Machine, configs: tuple[str, ...], changes: dict[str, Any]
) -> Iterator[Row]:
    """A nodule in an ROI: ours, from image to image, and MAISI's 30 steps and decoding.

    Args:
        machine: where, and until when.
        configs: of ours, laid over each other.
        changes: laid over our model's arguments.
    """
    model = build(CTDiffusion, CTHead(), sizes_of(configs, changes), machine.device).eval()
    sides = model.roi.shape(3)
    maisi, autoencoder = Maisi(sides, machine), maisi_decoder(machine)
    decoder: Any = autoencoder

    @torch.no_grad()
    def whole() -> None:
        latent = maisi.denoise()
        with machine.autocast():
            decoder.decode(latent)

    steps = {"ours": sampled(model, make_batch(model, 1), machine), "MAISI-v2": whole}
    voxels = " x ".join(map(str, sides))
    facts = {
        "ours": {"voxels": voxels, "evaluations": model.sampling.evaluations},
        "MAISI-v2": {"voxels": voxels, "evaluations": STEPS},
    }
    yield from rows_of(machine.in_turn(steps, 7), facts)


def whole_volume(
    machine: Machine, configs: tuple[str, ...], changes: dict[str, Any], sides: tuple[int, ...]
) -> Iterator[Row]:
    """A nodule in its ROI, and MAISI's way to it, which denoises the whole volume; no decoding.

    Where 30 evaluations do not fit into the time, one is timed and the row says so.

    Args:
        machine: where, and until when.
        configs: of ours, laid over each other.
        changes: laid over our model's arguments.
        sides: of the volume, voxels.
    """
    voxels = " x ".join(map(str, sides))
    model = build(CTDiffusion, CTHead(), sizes_of(configs, changes), machine.device).eval()
    ours = sampled(model, make_batch(model, 1), machine)
    maisi = Maisi(sides, machine)
    one = machine.seconds(maisi.evaluation)
    if whole := 3 * STEPS * one < machine.left:
        times = machine.in_turn({"ours": ours, "MAISI-v2": maisi.denoise}, 3)
    else:
        times = machine.in_turn({"ours": ours, "MAISI-v2": maisi.evaluation}, 3)
        times["MAISI-v2"] = [STEPS * spent for spent in times["MAISI-v2"]]
    how = "timed whole" if whole else f"extrapolated: {STEPS} times one evaluation"
    roi = " x ".join(map(str, model.roi.shape(3)))
    facts = {
        "ours": {"voxels": roi, "how": "from image to image"},
        "MAISI-v2": {"voxels": voxels, "how": f"{how}; not decoded"},
    }
    yield from rows_of(times, facts)
