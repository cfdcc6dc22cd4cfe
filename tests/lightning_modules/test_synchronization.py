"""A training step reads nothing back from the device, which would have to be waited for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from callbacks.finite_losses import FiniteLosses
from lightning_modules.csv_logger import ResumableCSVLogger
from lightning_modules.diffusion import NoduleDiffusion

Make = Callable[..., Any]
READING = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2"}
"""Operators whose result, or its shape, a GPU has to hand to the host."""

LOGGED_EVERY = 3


class Reads(TorchDispatchMode):
    """Collects what reads values of tensors, with the number of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.batch, self.found = 0, list[tuple[int, str]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name.startswith("index") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool
            for index in (args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ())
        )
        if name in READING or masks:
            self.found.append((self.batch, name))
        return func(*args, **(kwargs or {}))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """As a context also of what PyTorch does not dispatch."""
        names = ("tolist", "cpu", "numpy")
        with self, mock.patch.multiple(Tensor, **{name: self._noted(name) for name in names}):
            yield

    def _noted(self, name: str) -> Any:
        method = getattr(Tensor, name)

        def noted(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.found.append((self.batch, name))
            return method(tensor, *args, **kwargs)

        return noted


class Watch(Callback):
    """Watches from the first batch on."""

    def __init__(self, reads: Reads) -> None:
        self.reads, self.watching = reads, reads.watching()

    def on_train_start(self, *_: Any) -> None:
        self.watching.__enter__()

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, number: int) -> None:
        self.reads.batch = number

    def on_train_epoch_end(self, *_: Any) -> None:
        self.watching.__exit__(None, None, None)


def read_in(make_trainer: Make, tmp_path: Path, model: Any, data: Any) -> dict[int, set[str]]:
    """Train seven steps as a run does; what each reads."""
    reads = Reads()
    make_trainer(
        7,
        callbacks=[Watch(reads), FiniteLosses()],
        gradient_clip_val=1.0,
        precision="bf16-mixed",
        logger=ResumableCSVLogger(tmp_path / "metrics.csv"),
        log_every_n_steps=LOGGED_EVERY,
    ).fit(model, data)
    return {n: {name for k, name in reads.found if k == n} for n in range(7)}


def test_reading_is_noticed() -> None:
    """Each of the ways in which code reads a value."""
    value = torch.tensor([1.0])
    ways: list[Callable[[], Any]] = [
        lambda: value.item(),
        lambda: value.tolist(),
        lambda: value.cpu(),
        lambda: value.numpy(),
        lambda: value.nonzero(),
        lambda: float(value),
        lambda: bool(value > 0),
        lambda: value[value > 0],
    ]
    for way in ways:
        reads = Reads()
        with reads.watching():
            way()
        assert reads.found, way
    with (reads := Reads()).watching():
        torch.where(value > 0, value, 2 * value).sum().clamp(min=1)
    assert reads.found == []


def test_a_diffusion_step_reads_nothing_but_what_is_logged(
    make_data: Make, make_diffusion: Make, make_trainer: Make, stage1: Make, tmp_path: Path
) -> None:
    model = make_diffusion(3, autoencoder=stage1(3))
    found = read_in(make_trainer, tmp_path, model, make_data(3, batches_per_epoch=100))
    logged = {LOGGED_EVERY - 1, 2 * LOGGED_EVERY - 1}
    assert all(found[n] for n in logged)
    assert not any(found[n] for n in range(6) if n not in logged), found


def test_an_autoencoder_step_reads_nothing_but_what_is_logged(
    make_data: Make, make_autoencoder: Make, make_trainer: Make, tmp_path: Path
) -> None:
    model = make_autoencoder(3, adversarial_weight=0.1, adversarial_start=2)
    data = make_data(3, batches_per_epoch=100, cache_dir=None)
    found = read_in(make_trainer, tmp_path, model, data)
    logged = {LOGGED_EVERY - 1, 2 * LOGGED_EVERY - 1}
    assert not any(found[n] for n in range(6) if n not in logged), found


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_step_on_a_gpu_waits_for_nothing(make_diffusion: Make, make_batch: Make) -> None:
    """PyTorch raises at whatever waits for the device."""
    model: NoduleDiffusion = make_diffusion(3)
    model.codec.scale_factor.fill_(1), model.codec.shift.fill_(0)
    latents = dict.fromkeys(("latent_mean", "latent_logvar", "context"), torch.zeros(4, 2, 8, 8, 8))
    batch = {**make_batch(3, size=4, side=16), **latents, "draw": torch.arange(4)}
    model.cuda()
    on_gpu: Any = torch.utils._pytree.tree_map_only(Tensor, Tensor.cuda, batch)
    weights = [p for p in model.denoiser.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, fused=True)
    model.log_dict = lambda *_: None  # type: ignore[method-assign,assignment]
    for step in range(3):
        if step:  # the first step builds what it needs
            torch.cuda.set_sync_debug_mode("error")
        try:
            with torch.autocast("cuda", torch.bfloat16):
                loss = model.training_step(on_gpu, step)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            model.ema.update(model.denoiser)
            optimizer.zero_grad()
        finally:
            torch.cuda.set_sync_debug_mode("default")
