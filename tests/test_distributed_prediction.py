"""Synthesis on two processes (gloo, CPU), started as a user would, is that of one bit for bit."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from overlays import ROOT, arguments, laid
from small_configs import shrunken

from datamodules.io.volumes import Volume, write_volume
from lightning_modules.cli import main

pytestmark = pytest.mark.slow  # processes of their own


def on_two_processes(words: list[str]) -> None:
    """Run a command on two processes."""
    command = [sys.executable, "-m", "lightning_modules.cli", *words, "--trainer.devices", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PL_TORCH_DISTRIBUTED_BACKEND": "gloo"}
    ended = subprocess.run(
        [*command, "--trainer.strategy", "ddp"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]


def written(root: Path) -> dict[str, bytes]:
    """Contents of what a run has written by path, but for its settings and logs."""
    kept = ("config.yaml", "predict.csv", "tensorboard")
    paths = [path for path in root.rglob("*") if path.is_file()]
    named = {str(path.relative_to(root)): path for path in paths}
    return {name: path.read_bytes() for name, path in named.items() if not name.startswith(kept)}


def times(root: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (root / "studies").iterdir()}


def ask(folder: Path) -> Path:
    """Requests for studies with one nodule and with more than a batch; some cannot be fulfilled."""
    rng = np.random.default_rng(0)
    for name in "abcde":
        array = rng.integers(-950, -700, (32, 60, 60)).astype(np.int16)
        write_volume(folder / f"{name}.mha", Volume(array, (1.0, 0.8, 0.8), (0.0,) * 3, np.eye(3)))
    asked: list[tuple[str, int, int]] = [
        ("a", 20, 20), ("b", 30, 30), ("c", 20, 20), ("c", 20, 40), ("c", 40, 20),
        ("d", 20, 20), ("d", 900, 20), ("lost", 20, 20), ("e", 25, 25),
    ]  # fmt: skip
    rows: list[dict[str, Any]] = [
        {"study": f"{study}.mha", "z": 16, "y": y, "x": x, "diameter_mm": 6, "subtype": "solid"}
        for study, y, x in asked
    ]
    pd.DataFrame(rows).to_csv(folder / "requests.csv", index=False)
    return folder / "requests.csv"


def test_synthesis_on_two_processes_is_that_of_one(tmp_path: Path, store: Path) -> None:
    """Whole, and in part on two and the rest on one: what is finished is not written again."""
    model = shrunken("ct/diffusion.yaml", tmp_path, store)
    main(["fit", *model, "--trainer.default_root_dir", str(tmp_path / "run")])
    fitted = ["--ckpt_path", str(tmp_path / "run/checkpoints/last.ckpt")]
    fitted += ["--model.init_args.sampling.evaluations", "2"]

    def folder(name: str) -> list[str]:
        return [*fitted, "--trainer.default_root_dir", str(tmp_path / name)]

    nodules = ["predict", *model, "--data.init_args.batch_size", "4"]
    main([*nodules, *folder("nodules1")])
    on_two_processes([*nodules, *folder("nodules2")])
    one = written(tmp_path / "nodules1")
    assert len(one) > 10
    assert {"synthetic.png", "synthetic/nodules.csv"} < one.keys()
    assert written(tmp_path / "nodules2") == one

    small = {"data": {"init_args": {"requests": str(ask(tmp_path)), "batch_size": 2}}}
    words = ["predict", *model, *arguments("ct/insert.yaml")[-2:]]
    words += laid(tmp_path / "insert.yaml", small)
    main([*words, *folder("one")])
    one = written(tmp_path / "one")
    table = pd.read_csv(tmp_path / "one/nodules.csv")
    assert table["status"].tolist() == [*["inserted"] * 6, "failed", "failed", "inserted"]
    on_two_processes([*words, *folder("two")])
    assert written(tmp_path / "two") == one

    on_two_processes([*words, *folder("parts"), "--trainer.limit_predict_batches", "1"])
    before = times(tmp_path / "parts")
    assert 2 <= len(before) < 5
    reasons = pd.read_csv(tmp_path / "parts/nodules.csv")["reason"].fillna("")
    assert reasons.str.contains("ended before its study was complete").any()
    main([*words, *folder("parts")])
    assert written(tmp_path / "parts") == one
    assert before.items() <= times(tmp_path / "parts").items()
