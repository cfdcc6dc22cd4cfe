"""Training: `lightning fit` as users run it, against its network alone."""

import csv
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from datamodules.batch import SUBTYPES, Roi
from datamodules.io.volumes import Volume, write_volume
from lightning_modules.ct import CTDiffusion
from timing.clock import Machine, Row, flops_of, milliseconds, ratio
from timing.models import CONFIGS, Bare, parameters_m, sizes_of


class UntrainedCTDiffusion(CTDiffusion):
    """Begins with random weights in the place of an autoencoder's."""

    def load_weights(self) -> None:
        """Leave the weights as they are."""


class StepTimer(Callback):
    """Times a run's steps in turn with those of its network alone, and ends the run.

    In turn come steps of `fit` (the time from step to step, with loader, logs, checks and clipping,
    and nothing that waits for the device), single steps (from the batch on the device to the moving
    average), and steps of a copy of the UNet alone.

    Args:
        device: of `Machine`.
        sizes: of `Machine`.
        until: of `Machine`.
        block: steps of each kind in a round.
        ahead: steps that loaders may have prepared meanwhile, which do not count.
        rounds: after which the run ends, if there is time.
    """

    found: Row

    def __init__(
        self, device: str, sizes: str, until: float, block: int, ahead: int, rounds: int
    ) -> None:
        self.machine = Machine(device, sizes, until)
        self.block, self.ahead, self.rounds = block, ahead, rounds
        self.times: dict[str, list[float]] = {"fit": [], "step": [], "bare": []}
        self.place = -2  # two steps that do not count

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the network."""
        model: Any = pl_module
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.bare = Bare(model, data.batch_size, self.machine)
        self.bare.step()
        StepTimer.found = {"parameters_m": parameters_m(model.denoiser)}

    def on_train_batch_start(self, *_: Any) -> None:
        """Begin a single step."""
        if self.place >= self.ahead + self.block:
            self.begin = self.machine.now()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """End a step of either kind; after all of a round, time the bare network."""
        self.place += 1
        if self.place == self.ahead:
            self.begin, self.steps = self.machine.now(), []
        elif self.place == self.ahead + self.block:
            self.times["fit"].append((self.machine.now() - self.begin) / self.block)
        elif self.place > self.ahead + self.block:
            self.steps.append(self.machine.now() - self.begin)
            if len(self.steps) == self.block:
                self.end_round(trainer)

    def end_round(self, trainer: Trainer) -> None:
        """Time the bare network, and see whether there is time for another round."""
        self.times["step"].append(sum(self.steps) / self.block)
        spent = [self.machine.seconds(self.bare.step) for _ in range(self.block)]
        self.times["bare"].append(sum(spent) / self.block)
        times = {name: values[-1] for name, values in self.times.items()}
        a_round = self.block * sum(times.values()) + self.ahead * times["fit"]
        if len(self.times["bare"]) == self.rounds or self.machine.left < a_round:
            self.report()
            trainer.should_stop = True
        self.place = 0
        if not self.ahead:
            self.begin, self.steps = self.machine.now(), []

    def report(self) -> None:
        """Put the figures where `training` finds them."""
        fit, step, bare = self.times.values()
        with torch.enable_grad():
            forward = flops_of(self.bare.forward)
        StepTimer.found |= {
            "bare_ms": milliseconds(bare),
            "step_ms": milliseconds(step),
            "fit_ms": milliseconds(fit),
            "step_to_bare": ratio(step, bare),
            "fit_to_bare": ratio(fit, bare),
            # backward computes twice what forward does; what is recomputed does not count
            **self.machine.computing(3 * forward, sorted(fit)[len(fit) // 2]),
        }


def write_store(root: Path, nodules: int, side: int) -> None:
    """Balls in noise on a grid of 1 mm, in the form of LIDCDataModule."""
    rng = np.random.default_rng(0)
    distance = np.sqrt(((np.indices((side,) * 3) - side / 2) ** 2).sum(0))
    rows = []
    for number in range(nodules):
        mask = distance < 3 + number % 3
        image = np.where(mask, 20, rng.normal(-850, 30, mask.shape)).astype(np.int16)
        files = {kind: f"{kind}s/n{number}.mha" for kind in ("image", "mask")}
        for kind, array in (("image", image), ("mask", mask.astype(np.uint8))):
            volume = Volume(array, (1.0,) * 3, (0.0,) * 3, np.eye(3))
            write_volume(root / files[kind], volume)
        who = {"nodule_id": f"n{number}", "patient_id": f"P{number}"}
        rows.append({**who, **files, "subtype": list(SUBTYPES)[number % 3]})
    with (root / "nodules.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def fit(configs: tuple[str, ...], overlay: Mapping[str, Any], folder: Path) -> None:
    """Run `lightning fit` in this process."""
    from lightning_modules.cli import main

    laid = folder / "benchmark.yaml"
    laid.write_text(yaml.safe_dump(dict(overlay)))
    words = [word for name in configs for word in ("--config", str(CONFIGS / name))]
    main(["fit", *words, "--config", str(laid)])


def training(
    machine: Machine, configs: tuple[str, ...], batch: int, changes: dict[str, Any], what: str
) -> list[Row]:
    """A model of these configs in training.

    Args:
        machine: where, and until when.
        configs: laid over each other.
        batch: nodules of a step.
        changes: laid over the model's arguments.
        what: names the row.
    """
    on_gpu = machine.device == "cuda"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        workers = 8 if on_gpu else 0
        timer = {"device": machine.device, "sizes": machine.sizes, "until": machine.until}
        timer |= {
            "block": 10 if on_gpu else 1,
            "ahead": 2 * workers + 2,
            "rounds": 3 if machine.sizes == "tiny" else 15,
        }
        roi = Roi(**sizes_of(configs, changes)["roi"])
        # 70 % of them are trained with
        write_store(folder / "store", 30 + 2 * batch, int(roi.shape(3)[0] * roi.spacing_mm) + 8)
        overlay = {
            "model": {
                "class_path": "timing.training.UntrainedCTDiffusion",
                "init_args": {"autoencoder": None, **changes},
            },
            "data": {
                "init_args": {
                    "root": str(folder / "store"),
                    "cache_dir": str(folder / "latents"),
                    "select": None,
                    "batch_size": batch,
                    "num_workers": workers,
                    "augmented_copies": 1,
                }
            },
            "trainer": {
                "default_root_dir": str(folder / "run"),
                "accelerator": "gpu" if on_gpu else "cpu",
                "devices": 1,
                "max_steps": -1,
                "max_epochs": -1,
                "limit_val_batches": 0,
                "enable_progress_bar": False,
                "callbacks": [{"class_path": "timing.training.StepTimer", "init_args": timer}],
            },
        }
        begin = time.monotonic()
        fit(configs, overlay, folder)
        seconds = round(time.monotonic() - begin, 1)
    found = {"what": what, "batch": batch, **StepTimer.found}
    return [{**found, "memory_mib": round(machine.memory_mib()), "run_s": seconds}]
