"""What a run says from its start to its end, to whom it gives way, and how it is stopped."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

pytestmark = pytest.mark.slow  # the test here runs the command several times

ROOT = Path(__file__).parents[1]
STEPS = 6

# the command, with a line of progress for each step, which waits after the third for a file
WAITING = """
import pathlib, sys, time
from lightning.pytorch.callbacks import Callback
from datamodules import progress
import lightning_modules.cli as cli

folder = pathlib.Path(sys.argv.pop(1))
progress.LINE_EVERY_S = 1e-6
make = cli.NoduleForgeCLI.instantiate_trainer
class Wait(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 3:
            (folder / "waits").touch()
            while not (folder / "go").exists():
                time.sleep(0.1)
def instantiate(self, **kwargs):
    trainer = make(self, **kwargs)
    trainer.callbacks.insert(0, Wait())
    return trainer
cli.NoduleForgeCLI.instantiate_trainer = instantiate
cli.main()
"""

NOISE = ("warn", "deprecated", "available:", "hint", "traceback", "srun", "seed set", "restor")


class Run:
    """A small `lightning fit`, and what it has said."""

    def __init__(self, folder: Path, store: Path) -> None:
        self.folder = folder
        model: dict[str, Any] = {"roi": {"size": 16, "spacing_mm": 1.0}}
        model["codec"] = {"channels": [8, 8], "num_res_blocks": 1, "norm_num_groups": 8}
        data = {
            "root": str(store),
            "select": None,
            "cache_dir": None,
            "fractions": [0.5, 0.25, 0.25],
        }
        overlay = {
            "model": {"init_args": model},
            "data": {"init_args": data | {"cache_dir": None}},
            "trainer": {
                "max_steps": STEPS,
                "accelerator": "cpu",
                "precision": 32,
                "log_every_n_steps": 1,
                "default_root_dir": str(folder / "run"),
            },
        }
        (folder / "small.yaml").write_text(yaml.safe_dump(overlay))
        (folder / "waiting.py").write_text(WAITING)

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Run the command; what it says goes to one place, as in a job's log."""
        configs = (ROOT / "configs/ct/autoencoder.yaml", self.folder / "small.yaml")
        words = [word for path in configs for word in ("--config", str(path))]
        return subprocess.Popen(
            [sys.executable, self.folder / "waiting.py", self.folder, "fit", *words, *options],
            cwd=ROOT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def finish(self, *options: str) -> tuple[int, str]:
        """Status and words of the command."""
        with self.start(*options) as process:
            said, _ = process.communicate(timeout=300)
        return process.returncode, said


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that does not outlive a test that fails."""
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_one_run(tmp_path: Path, store: Path) -> None:
    """It is met by another, interrupted, taken up with another rate, and not with another seed."""
    run = Run(tmp_path, store)
    with ended(run.start()) as first:
        until = time.monotonic() + 200
        while not (tmp_path / "waits").exists():
            assert first.poll() is None
            assert time.monotonic() < until
            time.sleep(0.2)
        status, said = run.finish()
        assert status == 2
        (line,) = said.splitlines()
        assert line.startswith(f"error: {tmp_path / 'run'} is written by another lightning fit")
        assert f"(process {first.pid} on " in line

        first.send_signal(signal.SIGINT)
        (tmp_path / "go").touch()
        said, _ = first.communicate(timeout=200)
    assert first.returncode == 128 + signal.SIGINT
    lines = said.splitlines()
    data, model, steps, folder, start, losses, memory, *_ = lines
    assert data.startswith("Data:   train ")
    assert "nodules of" in data
    assert model.startswith("Model:  Autoencoder, 0.02 M parameters trained of 0.02 M, on 1 x cpu")
    assert steps.startswith("Steps:  6, of 4 nodules each; seed 0; learning rate up to 0.0015 in")
    assert folder.startswith("Folder: ")
    assert folder.endswith("/run, with a checkpoint every 250 steps or 5 minutes")
    assert start == "Start:  new"
    assert losses.startswith("Losses that are off: perceptual")
    assert memory.startswith("Memory: ")
    assert lines[-1].startswith("Stopped at step 3; step 3 is saved: run the same command again")
    progress = [line for line in lines if line.startswith("training: ")]
    assert [line.split(", ")[0] for line in progress] == [
        f"training: {step} of 6 steps" for step in (1, 2, 3)
    ]
    assert all(", loss 0." in line and line.endswith(" left") for line in progress)
    assert not [word for word in NOISE if word in said.lower()], said

    status, again = run.finish("--model.init_args.learning_rate", "0.002")
    assert status == 0, again
    last = tmp_path / "run/checkpoints/last.ckpt"
    assert f"Start:  resumed at step 3 of {last}" in again
    assert again.splitlines()[-1] == f"Trained to step 6: {last}"
    assert not [word for word in NOISE if word in again.replace("Start:  resumed", "").lower()], (
        again
    )
    checkpoint = torch.load(last, weights_only=True)
    (schedule,), (optimizer,) = checkpoint["lr_schedulers"], checkpoint["optimizer_states"]
    assert (schedule["base_lrs"], schedule["last_epoch"]) == ([0.002], 6)
    assert [group["lr"] for group in optimizer["param_groups"]] == schedule["_last_lr"]
    assert (tmp_path / "run/.fit.lock").read_text() == ""

    status, refused = run.finish("--seed_everything", "1")
    assert status == 2
    assert "error: The run was begun with the seed 0, and the config says 1" in refused
