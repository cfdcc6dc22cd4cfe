"""Training on two processes (gloo, CPU), started as a user would."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

ROOT = Path(__file__).parents[1]
CODEC = {"channels": [8, 8], "num_res_blocks": 1, "norm_num_groups": 8}
UNET = {"channels": [8, 16], "head_channels": 8, "token_dim": 8, "embedding_dim": 8}


TRAINER = {
    "accelerator": "cpu",
    "precision": 32,
    "max_steps": 2,
    "log_every_n_steps": 1,
    "enable_progress_bar": False,
}


def fit(stages: list[str], overlay: dict[str, Any], run: Path, processes: int) -> Path:
    """Train with configs and what is laid over them; return the checkpoint."""
    path = run.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({"trainer": TRAINER, **overlay}))
    command = [sys.executable, "-m", "lightning_modules.cli", "fit"]
    for config in [*[ROOT / f"configs/{stage}.yaml" for stage in stages], path]:
        command += ["--config", str(config)]
    command += ["--trainer.default_root_dir", str(run), "--trainer.devices", str(processes)]
    command += ["--trainer.strategy", "ddp" if processes > 1 else "auto"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PL_TORCH_DISTRIBUTED_BACKEND": "gloo"}
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    checkpoint = run / "checkpoints/last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 2
    return checkpoint


def test_two_processes_train_both_stages(tmp_path: Path, store: Path) -> None:
    """No parameter is unused, the cache is built by both, and one checkpoint is left."""
    data = {"root": str(store), "select": None, "roi_size": 16, "batch_size": 2}
    data |= {"cache_dir": str(tmp_path / "cache")}
    overlay: dict[str, Any] = {"data": {"init_args": data}}
    codec = {"model": {"init_args": {"codec": CODEC}}}
    last = fit(["ct/autoencoder"], overlay | codec, tmp_path / "autoencoder", 2)
    model = {"codec": CODEC, "autoencoder": str(last), "unet": UNET | {"attention": [False, True]}}
    overlay |= {"model": {"init_args": model}}
    fit(["ct/diffusion"], overlay, tmp_path / "diffusion", 2)
    assert pd.read_csv(tmp_path / "diffusion/metrics.csv")["step"].max() == 1
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_two_processes_train_adapters(tmp_path: Path, store: Path, films: Path) -> None:
    """One adapter, then two together, each from its own nodules, on a frozen base."""
    common = {"roi_size": 32, "batch_size": 1, "cache_dir": None, "fractions": [0.5, 0.25, 0.25]}
    hosts = {"class_path": "ChestXray14DataModule", "init_args": {"root": str(films)}}
    nodules = common | {"root": str(store), "select": None, "hosts": hosts, "films_per_nodule": 1}
    codec = CODEC | {"spatial_dims": 2}
    overlay: dict[str, Any] = {"data": {"init_args": common | {"root": str(films)}}}
    model: dict[str, Any] = {"codec": codec}
    overlay["model"] = {"init_args": model}
    last = fit(["cxr/autoencoder"], overlay, tmp_path / "autoencoder", 1)
    model |= {"init_from": None, "autoencoder": str(last)}
    model |= {"unet": UNET | {"attention": [False, True]}}
    overlay["data"]["init_args"] = nodules
    base = fit(["cxr/diffusion"], overlay, tmp_path / "diffusion", 1)
    model |= {"init_from": str(base)}
    fit(["cxr/diffusion", "cxr/adapter"], overlay, tmp_path / "calcified", 2)
    model |= {"adapters": {"calcified": None, "irregular": None}}
    parts = {name: {"class_path": "SuperimposedDataModule"} for name in model["adapters"]}
    parts = {
        name: part | {"init_args": nodules | {"only": {name: 1}}} for name, part in parts.items()
    }
    overlay["data"] = {"init_args": {"parts": parts}}
    last = fit(["cxr/diffusion", "cxr/composition"], overlay, tmp_path / "composition", 2)
    weights = torch.load(last, weights_only=True)["state_dict"]
    updated = [name for name, value in weights.items() if "lora_B" in name and value.any()]
    assert {name.split(".")[-2] for name in updated} == {"calcified", "irregular"}
