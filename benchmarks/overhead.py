"""What training and synthesis cost over the bare network.

Prints, as medians over interleaved rounds (A B A B ...), the ratios of

- a training step on cached latents to the bare network's forward, backward and optimizer step;
- the same step with the latent histogram regularizer to the step without;
- synthesis to its network evaluations, one encoding and one decoding;
- for radiographs, an adapter's training step to forward and backward of the frozen network, and
  synthesis with three fused adapters to synthesis with the base.

Usage: python benchmarks/overhead.py [--rounds 15] [--batch-size 8] [--roi-size 32]
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import trange

from datamodules.batch import NoduleBatch, Roi
from lightning_modules.composition import CXRComposition, OrthogonalityConfig
from lightning_modules.core.adapters import AdapterConfig
from lightning_modules.core.codec import LatentCodec
from lightning_modules.core.conditioning import Surroundings
from lightning_modules.core.denoiser import UNetConfig
from lightning_modules.core.inpainting import inpaint_mask, mean_fill, to_latent_mask
from lightning_modules.core.process import DiffusionProcess
from lightning_modules.core.randomness import SampleStreams
from lightning_modules.core.sampling import SamplingConfig
from lightning_modules.ct import CTDiffusion
from lightning_modules.cxr import CXRAdapter, CXRDiffusion
from lightning_modules.diffusion import NoduleDiffusion
from lightning_modules.heads.ct import CTHead
from lightning_modules.heads.cxr import CXRHead
from lightning_modules.heads.head import ModalityHead

CONFIGS = Path(__file__).parents[1] / "configs"


def build(
    make: Callable[..., NoduleDiffusion], head: ModalityHead, config: str, **settings: Any
) -> NoduleDiffusion:
    """A model of the sizes in a config, with random weights."""
    sizes = yaml.safe_load((CONFIGS / config).read_text())["model"]["init_args"]
    codec = LatentCodec(**sizes["codec"])
    codec.scale_factor.fill_(1)
    codec.shift.fill_(0)
    unet, sampling = UNetConfig(**sizes["unet"]), SamplingConfig(20)
    roi = Roi(**sizes["roi"])
    return make(head, codec, unet, DiffusionProcess(), roi=roi, sampling=sampling, **settings)


def make_batch(model: NoduleDiffusion, size: int, side: int) -> NoduleBatch:
    """Random nodules with cached latents."""
    dims, window = model.codec.spatial_dims, model.head.window
    shape = (size, 1, *(side,) * dims)
    mask = torch.zeros(shape)
    mask[(..., *(slice(side // 3, side - side // 3),) * dims)] = 1
    latent = (size, model.codec.latent_channels, *(side // model.codec.compression,) * dims)
    return {
        "image": (window.high - window.low) * torch.rand(shape) + window.low,
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


def training_step(model: NoduleDiffusion, batch: NoduleBatch) -> Callable[[], None]:
    """One step as the LightningModule takes it: losses, backward, optimizer, moving average."""
    optimizer = torch.optim.AdamW(
        [p for p in model.denoiser.parameters() if p.requires_grad], fused=True
    )

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            streams = SampleStreams(batch["index"], "bench")
            denoising = model.denoise(model.denoiser, batch, streams, dropout=True)
            losses = model.losses(model.denoiser, batch, denoising)
            loss = sum(losses.values(), torch.tensor(0.0))
        loss.backward()
        optimizer.step()
        model.ema.update(model.denoiser)

    return step


def bare_step(
    model: NoduleDiffusion, batch: NoduleBatch, frozen: bool = False
) -> Callable[[], None]:
    """Forward, backward and optimizer step of the UNet alone; frozen, backward to its input."""
    unet = copy.deepcopy(model.denoiser.unet).requires_grad_(not frozen)
    optimizer = torch.optim.AdamW(unet.parameters(), fused=True)
    size, latent = len(batch["index"]), batch["context"]
    channels = unet.conv_in.conv.in_channels - latent.shape[1]
    inputs = torch.cat([latent, torch.randn(size, channels, *latent.shape[2:])], 1)
    inputs.requires_grad_(frozen)
    timestep = torch.arange(size)
    tokens = torch.randn(size, 2, model.denoiser.config.token_dim)
    embedding = torch.randn(size, model.denoiser.config.embedding_dim)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            output = unet(inputs, timestep, tokens, embedding)
        output.float().square().mean().backward()
        if not frozen:
            optimizer.step()

    return step


def synthesis(model: NoduleDiffusion, batch: NoduleBatch) -> Callable[[], None]:
    """Synthetic nodules, from background to pasted image."""

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            model.sample(batch)

    return step


def bare_synthesis(model: NoduleDiffusion, batch: NoduleBatch) -> Callable[[], None]:
    """One encoding, the network evaluations, one decoding."""
    network, size = model.ema.module, len(batch["index"])
    mask = batch["mask"]
    region = inpaint_mask(mask, model.head.margin_voxels)
    image = mean_fill(model.head.window.normalize(batch["image"]), region)
    surroundings = Surroundings(batch["context"], to_latent_mask(region, model.codec.compression))
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
    """Run the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--roi-size", type=int, default=32)
    options = parser.parse_args()
    torch.manual_seed(0)
    rounds, fewer = options.rounds, max(options.rounds // 3, 3)
    ct = "ct/diffusion.yaml"
    plain = build(CTDiffusion, CTHead(regularizers={}), ct)
    regularized = build(CTDiffusion, CTHead(), ct)
    batch = make_batch(plain, options.batch_size, options.roi_size)
    step = training_step(plain, batch)
    ratio("training step / bare network step", step, bare_step(plain, batch), rounds, 1.15)
    ratio("step with regularizer / without", training_step(regularized, batch), step, rounds, 1.3)
    pair = synthesis(plain, batch), bare_synthesis(plain, batch)
    ratio("synthesis / its evaluations and codec", *pair, fewer, 1.1)

    cxr, names = "cxr/diffusion.yaml", ("a", "b", "c")
    base: Any = build(CXRDiffusion, CXRHead(), cxr)
    one: Any = build(CXRAdapter, CXRHead(), cxr, characteristic="a", adapter=AdapterConfig())
    several: Any = build(
        CXRComposition,
        CXRHead(),
        cxr,
        adapters=dict.fromkeys(names),
        adapter=AdapterConfig(),
        orthogonality=OrthogonalityConfig(),
    )
    for model in (one, several):
        model.configure_model()
    batch = make_batch(base, options.batch_size, 2 * options.roi_size)
    pair = training_step(one, batch), bare_step(base, batch, frozen=True)
    ratio("adapter step / frozen network step", *pair, rounds, 1.3)
    with several.using(dict.fromkeys(names, 1.0)):
        pair = synthesis(several, batch), synthesis(base, batch)
        ratio("three fused adapters / base, synthesis", *pair, rounds, 1.05)


if __name__ == "__main__":
    main()
