"""The same command again, after a stop of any kind, is the run that was never stopped."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from same import same

from lightning_modules.cli import main

pytestmark = pytest.mark.slow  # every test here trains in processes of its own

ROOT = Path(__file__).parents[1]
CODEC = {"channels": [8, 8], "num_res_blocks": 1, "norm_num_groups": 8, "spatial_dims": 2}
UNET = {"channels": [8, 16], "attention": [False, True], "head_channels": 8, "norm_num_groups": 8}
STEPS = 6

# the command, which stops itself at a chosen moment; argv: when, which save or step, the command
STOPPING = """
import os, signal, sys
import torch
from lightning.pytorch.callbacks import Callback
import lightning_modules.cli as cli
from lightning_modules.checkpoints import WholeCheckpointIO

how, at = sys.argv[1], int(sys.argv[2])
if how == "kill-while-saving":
    saves, write = [], torch.save
    def save(checkpoint, file):
        saves.append(1)
        write(checkpoint, file)
        if len(saves) == at:
            file.truncate(file.tell() // 2)
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    torch.save = save
else:
    make = cli.NoduleForgeCLI.instantiate_trainer
    class Stop(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == at:
                if how == "stop":
                    trainer.should_stop = True
                else:
                    os.kill(os.getpid(), getattr(signal, how))
    def instantiate(self, **kwargs):
        trainer = make(self, **kwargs)
        trainer.callbacks.insert(0, Stop())
        return trainer
    cli.NoduleForgeCLI.instantiate_trainer = instantiate
cli.main(sys.argv[3:])
"""


class Runs:
    """Commands on a small data set, each run in a folder of its own."""

    def __init__(self, root: Path, store: Path, radiographs: Path) -> None:
        self.root = root
        fractions = [0.5, 0.25, 0.25]
        common: dict[str, Any] = {"batch_size": 2, "cache_dir": None, "batches_per_epoch": 4}
        common |= {"fractions": fractions, "root": str(store), "select": None}
        background_radiographs = {
            "class_path": "ChestXray14Collection",
            "init_args": {"root": str(radiographs)},
        }
        radiographs_of = {
            "background_radiographs": background_radiographs,
            "radiographs_per_nodule": 1,
            "augmented_copies": 2,
        }
        self.data: dict[str, dict[str, Any]] = {"ct": common, "cxr": common | radiographs_of}

    def command(self, stage: str, name: str, data: dict[str, Any], **model: Any) -> list[str]:
        """Arguments of a fit of `STEPS` steps with a checkpoint after every second."""
        overlays = {
            "adapter": ["diffusion", "adapter"],
            "composition": ["diffusion", "composition"],
        }
        modality, _, kind = stage.partition("/")
        spatial = {"spatial_dims": 2 if modality == "cxr" else 3}
        roi = {"size": 16, "spacing_mm": 1.0}
        settings: dict[str, Any] = {"codec": CODEC | spatial, "roi": roi, **model}
        if kind != "autoencoder":
            settings["unet"] = UNET | {"token_dim": 8, "embedding_dim": 8}
        overlay = {
            "model": {"init_args": settings},
            "data": {"init_args": data},
            "trainer": {
                "max_steps": STEPS,
                "accelerator": "cpu",
                "precision": 32,
                "log_every_n_steps": 1,
                "enable_progress_bar": False,
                "callbacks": None,
                "default_root_dir": str(self.root / name),
            },
            "checkpoint": {"every_n_train_steps": 2},
        }
        file = self.root / f"{name}.yaml"
        file.write_text(yaml.safe_dump(overlay))
        configs = [ROOT / f"configs/{modality}/{part}.yaml" for part in overlays.get(kind, [kind])]
        return ["fit", *[word for path in [*configs, file] for word in ("--config", str(path))]]

    def weights(self, name: str) -> dict[str, Any]:
        """The last checkpoint of a run."""
        path = self.root / name / "checkpoints/last.ckpt"
        checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
        return checkpoint


def run(words: list[str]) -> int:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, timeout=300, check=False
    )
    if ended.returncode > 0:
        sys.stderr.write(ended.stderr.decode()[-3000:])
    return ended.returncode


@pytest.fixture
def runs(tmp_path: Path, store: Path, radiographs: Path) -> Runs:
    return Runs(tmp_path / "runs", store, radiographs)


def prepare(runs: Runs, stage: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Data and model settings of a stage, after the stages that it needs."""
    runs.root.mkdir()
    modality, _, kind = stage.partition("/")
    data, model = runs.data[modality], {}
    if kind == "autoencoder":
        return data, model
    codec = runs.command(f"{modality}/autoencoder", "codec", data)
    if modality == "cxr":
        host = runs.data["cxr"]["background_radiographs"]["init_args"]["root"]
        normal = {"root": host, "batch_size": 2, "cache_dir": None}
        codec = runs.command("cxr/autoencoder", "codec", normal | {"points_per_radiograph": 1})
    main(codec)
    path = str(runs.root / "codec/checkpoints/last.ckpt")
    if kind == "diffusion":
        return data, {"autoencoder": path}
    main(runs.command("cxr/diffusion", "base", data, init_from=None, autoencoder=path))
    model = {"init_from": str(runs.root / "base/checkpoints/last.ckpt")}
    if kind == "adapter":
        return data | {"only": {"irregular": 1}}, model
    parts = {name: {name: 1} for name in ("calcified", "irregular")}
    return data | {"parts": parts}, model | {"adapters": dict.fromkeys(parts)}


@pytest.mark.parametrize(
    "stage", ["ct/autoencoder", "ct/diffusion", "cxr/adapter", "cxr/composition"]
)
def test_a_stopped_run_goes_on_bit_for_bit(stage: str, runs: Runs, tmp_path: Path) -> None:
    """After a normal stop, SIGTERM, SIGKILL, and SIGKILL in the middle of writing a checkpoint.

    Weights, moving average, optimizer, schedule and log are those of the run without a stop.
    """
    data, model = prepare(runs, stage)
    main(runs.command(stage, "straight", data, **model))
    expected = runs.weights("straight")
    log = pd.read_csv(runs.root / "straight/metrics.csv")
    losses = [column for column in log if column.startswith("train/")]
    log = log.dropna(subset=losses, how="all").reset_index(drop=True)
    script = tmp_path / "stopping.py"
    script.write_text(STOPPING)
    for how, (moment, status, saved) in {
        "stop": ("3", 0, 3),
        "SIGTERM": ("3", 128 + signal.SIGTERM, 3),
        "SIGKILL": ("5", -signal.SIGKILL, 4),
        "kill-while-saving": ("2", -signal.SIGKILL, 2),
    }.items():
        again = runs.command(stage, how, data, **model)
        assert run([str(script), how, moment, *again]) == status
        assert runs.weights(how)["global_step"] == saved
        main(again)
        found = runs.weights(how)
        parts = ("global_step", "state_dict", "optimizer_states", "lr_schedulers", "noduleforge")
        assert same({p: expected[p] for p in parts}, {p: found[p] for p in parts}) == []
        table = pd.read_csv(runs.root / how / "metrics.csv")
        # without validations: a normal stop ends with one
        table = table.dropna(subset=losses, how="all").reset_index(drop=True)
        assert list(table["step"]) == list(log["step"])
        pd.testing.assert_frame_equal(table[losses], log[losses], check_exact=True)
