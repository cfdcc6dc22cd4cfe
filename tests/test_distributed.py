"""Training on two processes (gloo, CPU), started as a user would."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import torch
import yaml

ROOT = Path(__file__).parents[1]
CODEC = {"channels": [8, 8], "num_res_blocks": 1, "norm_num_groups": 8}
UNET = {"channels": [8, 16], "head_channels": 8, "token_dim": 8, "embedding_dim": 8}


def fit(stage: str, overlay: dict[str, dict[str, object]], run: Path, processes: int) -> None:
    path = run.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(overlay))
    command = [sys.executable, "-m", "lightning_modules.cli", "fit"]
    command += ["--config", str(ROOT / f"configs/ct/{stage}.yaml"), "--config", str(path)]
    command += ["--trainer.default_root_dir", str(run), "--trainer.devices", str(processes)]
    command += ["--trainer.strategy", "ddp" if processes > 1 else "auto"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PL_TORCH_DISTRIBUTED_BACKEND": "gloo"}
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_two_processes_train_both_stages(tmp_path: Path, store: Path) -> None:
    """No parameter is unused, the cache is built by both, and one checkpoint is left."""
    trainer = {"accelerator": "cpu", "precision": 32, "max_steps": 2, "log_every_n_steps": 1}
    trainer |= {"enable_progress_bar": False}
    data = {"root": str(store), "select": None, "roi_size": 16, "batch_size": 2}
    data |= {"cache_dir": str(tmp_path / "cache")}
    overlay = {"trainer": trainer, "data": {"init_args": data}}
    fit("autoencoder", overlay | {"model": {"init_args": {"codec": CODEC}}}, tmp_path / "ae", 2)
    last = tmp_path / "ae/checkpoints/last.ckpt"
    model = {"codec": CODEC, "autoencoder": str(last), "unet": UNET | {"attention": [False, True]}}
    fit("diffusion", overlay | {"model": {"init_args": model}}, tmp_path / "diffusion", 2)
    checkpoint = torch.load(tmp_path / "diffusion/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    assert pd.read_csv(tmp_path / "diffusion/metrics.csv")["step"].max() == 1
    assert len(list((tmp_path / "cache").iterdir())) == 2
