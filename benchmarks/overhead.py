"""What training and synthesis cost over the bare network.

Prints, as medians over interleaved rounds (A B A B ...), the ratios of

- a training step on cached latents to the bare network's forward, backward and optimizer step;
- the same step with the latent histogram regularizer to the step without;
- synthesis to its network evaluations, one encoding and one decoding.

Usage: python benchmarks/overhead.py [--rounds 15] [--batch-size 8] [--roi-size 32]
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from tqdm import trange

from datamodules.batch import NoduleBatch
from lightning_modules.core.codec import LatentCodec
from lightning_modules.core.conditioning import Surroundings
from lightning_modules.core.denoiser import UNetConfig
from lightning_modules.core.process import DiffusionProcess
from lightning_modules.core.randomness import Streams
from lightning_modules.core.region import fill, synthesized, touched
from lightning_modules.ct import CTDiffusion
from lightning_modules.diffusion import SamplingConfig
from lightning_modules.heads.ct import CTHead

CONFIG = Path(__file__).parents[1] / "configs/ct/diffusion.yaml"


def build(head: CTHead) -> CTDiffusion:
    """The model of configs/ct/diffusion.yaml with random weights."""
    settings = yaml.safe_load(CONFIG.read_text())["model"]["init_args"]
    codec = LatentCodec(**settings["codec"])
    codec.scale_factor.fill_(1)
    codec.shift.fill_(0)
    unet = UNetConfig(**settings["unet"])
    return CTDiffusion(head, codec, unet, DiffusionProcess(), sampling=SamplingConfig(20))


def make_batch(model: CTDiffusion, size: int, side: int) -> NoduleBatch:
    """Random nodules with cached latents."""
    shape = (size, 1, side, side, side)
    mask = torch.zeros(shape)
    low, high = side // 3, side - side // 3
    mask[..., low:high, low:high, low:high] = 1
    latent = (size, model.codec.latent_channels, *(side // model.codec.compression,) * 3)
    return {
        "image": 1400 * torch.rand(shape) - 1000,
        "mask": mask,
        "subtype": torch.arange(size) % 3,
        "attributes": {"diameter_mm": torch.full((size,), 10.0)},
        "spacing_mm": torch.ones(size, 3),
        "origin_mm": torch.zeros(size, 3, dtype=torch.float64),
        "direction": torch.eye(3, dtype=torch.float64).expand(size, 3, 3),
        "name": [str(i) for i in range(size)],
        "patient_id": [str(i) for i in range(size)],
        "index": torch.arange(size),
        "latent_mean": torch.randn(latent),
        "latent_logvar": torch.full(latent, -5.0),
        "context": torch.randn(latent),
    }


def training_step(model: CTDiffusion, batch: NoduleBatch) -> Callable[[], None]:
    """One step as the LightningModule takes it: losses, backward, optimizer, moving average."""
    optimizer = torch.optim.AdamW(model.denoiser.parameters())

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            streams = Streams([("bench", sample) for sample in range(len(batch["index"]))])
            denoising = model.denoise(model.denoiser, batch, streams, dropout=True)
            losses = model.losses(model.denoiser, batch, denoising)
            loss = sum(losses.values(), torch.tensor(0.0))
        loss.backward()
        optimizer.step()
        model.ema.update_parameters(model.denoiser)

    return step


def bare_step(model: CTDiffusion, batch: NoduleBatch) -> Callable[[], None]:
    """Forward, backward and optimizer step of the UNet alone."""
    unet = copy.deepcopy(model.denoiser.unet)
    optimizer = torch.optim.AdamW(unet.parameters())
    size, latent = len(batch["index"]), batch["context"]
    channels = unet.conv_in.conv.in_channels - latent.shape[1]
    inputs = torch.cat([latent, torch.randn(size, channels, *latent.shape[2:])], 1)
    timestep = torch.arange(size)
    tokens = torch.randn(size, 2, model.denoiser.token_dim)
    embedding = torch.randn(size, model.denoiser.embedding_dim)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            output = unet(inputs, timestep, tokens, embedding)
        output.float().square().mean().backward()
        optimizer.step()

    return step


def synthesis(model: CTDiffusion, batch: NoduleBatch) -> Callable[[], None]:
    """Synthetic nodules, from background to pasted image."""

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            model.sample(batch)

    return step


def bare_synthesis(model: CTDiffusion, batch: NoduleBatch) -> Callable[[], None]:
    """One encoding, the network evaluations, one decoding."""
    network, size = model.ema.module, len(batch["index"])
    mask = batch["mask"]
    region = synthesized(mask, model.head.margin_voxels)
    image = fill(model.head.window.normalize(batch["image"]), region)
    surroundings = Surroundings(batch["context"], touched(region, model.codec.compression))
    timestep = torch.full((size,), 500)

    @torch.no_grad()
    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            model.codec.encode(image)
            conditioning = network.condition(batch, surroundings)
            for _ in range(model.sampling.evaluations):
                network(batch["context"], timestep, conditioning)
            model.codec.decode(batch["context"])

    return step


def ratio(
    name: str, ours: Callable[[], None], bare: Callable[[], None], rounds: int, limit: float
) -> None:
    """Time both in turn and print the median ratio with its quartiles."""
    ours()
    bare()
    ratios = []
    for _ in trange(rounds, desc=name, leave=False):
        times = []
        for work in (ours, bare):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        ratios.append(times[0] / times[1])
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"{name:42} {middle:.3f}  (quartiles {low:.3f} to {high:.3f}; at most {limit})")


def main() -> None:
    """Run the three comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--roi-size", type=int, default=32)
    options = parser.parse_args()
    torch.manual_seed(0)
    plain, regularized = build(CTHead(regularizers={})), build(CTHead())
    batch = make_batch(plain, options.batch_size, options.roi_size)
    step, rounds = training_step(plain, batch), options.rounds
    ratio("training step / bare network step", step, bare_step(plain, batch), rounds, 1.15)
    ratio("step with regularizer / without", training_step(regularized, batch), step, rounds, 1.3)
    fewer = max(rounds // 3, 3)
    pair = synthesis(plain, batch), bare_synthesis(plain, batch)
    ratio("synthesis / its evaluations and codec", *pair, fewer, 1.1)


if __name__ == "__main__":
    main()
