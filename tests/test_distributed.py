"""Training on two processes (gloo, CPU), started as a user would."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from datamodules.splits import split_of
from lightning_modules.cli import main

pytestmark = pytest.mark.slow  # every test here trains in processes of its own

ROOT = Path(__file__).parents[1]
CODEC = {"channels": [8, 8], "num_res_blocks": 1, "norm_num_groups": 8}
ROI, FLAT_ROI = {"size": 16, "spacing_mm": 1.0}, {"size": 32, "spacing_mm": 0.75}
UNET = {"channels": [8, 16], "head_channels": 8, "token_dim": 8, "embedding_dim": 8}


TRAINER = {
    "accelerator": "cpu",
    "precision": 32,
    "max_steps": 2,
    "log_every_n_steps": 1,
    "enable_progress_bar": False,
}


def run(
    subcommand: str, stages: list[str], overlay: dict[str, Any], root: Path, processes: int
) -> None:
    """Run a command with configs and what is laid over them."""
    path = root.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({**overlay, "trainer": TRAINER | overlay.get("trainer", {})}))
    words = [subcommand]
    for config in [*[ROOT / f"configs/{stage}.yaml" for stage in stages], path]:
        words += ["--config", str(config)]
    words += ["--trainer.default_root_dir", str(root)]
    if processes == 1:
        main([*words, "--trainer.devices", "1"])
        return
    command = [sys.executable, "-m", "lightning_modules.cli", *words]
    command += ["--trainer.devices", str(processes), "--trainer.strategy", "ddp"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PL_TORCH_DISTRIBUTED_BACKEND": "gloo"}
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]


def fit(stages: list[str], overlay: dict[str, Any], root: Path, processes: int) -> Path:
    """Train; return the checkpoint."""
    run("fit", stages, overlay, root, processes)
    checkpoint = root / "checkpoints/last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 2
    return checkpoint


def test_two_processes_train_both_stages(tmp_path: Path, store: Path) -> None:
    """No parameter is unused, the cache is built by both, and one checkpoint is left."""
    data = {"root": str(store), "select": None, "batch_size": 2}
    data |= {"cache_dir": str(tmp_path / "cache")}
    overlay: dict[str, Any] = {"data": {"init_args": data}}
    codec = {"model": {"init_args": {"codec": CODEC, "roi": ROI}}}
    last = fit(["ct/autoencoder"], overlay | codec, tmp_path / "autoencoder", 2)
    # one process goes on behind the nodules of both, with batches of another size
    data["batch_size"] = 5
    on = {"trainer": {"max_steps": 4}, "ckpt_path": "last"}
    run("fit", ["ct/autoencoder"], overlay | codec | on, tmp_path / "autoencoder", 1)
    found = torch.load(last, weights_only=True)
    assert (found["global_step"], found["LIDCDataModule"]["consumed"]) == (4, 2 * 2 * 2 + 2 * 5)
    data["batch_size"] = 2
    model = {
        "codec": CODEC,
        "roi": ROI,
        "autoencoder": str(last),
        "unet": UNET | {"attention": [False, True]},
    }
    overlay |= {"model": {"init_args": model}}
    fit(["ct/diffusion"], overlay, tmp_path / "diffusion", 2)
    assert pd.read_csv(tmp_path / "diffusion/metrics.csv")["step"].max() == 1
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_two_processes_train_adapters(tmp_path: Path, store: Path, radiographs: Path) -> None:
    """One adapter, then two together, each from its own nodules, on a frozen base."""
    common = {"batch_size": 1, "cache_dir": None, "fractions": [0.5, 0.25, 0.25]}
    background_radiographs = {
        "class_path": "ChestXray14Collection",
        "init_args": {"root": str(radiographs)},
    }
    nodules = common | {
        "root": str(store),
        "select": None,
        "background_radiographs": background_radiographs,
        "radiographs_per_nodule": 1,
    }
    codec = CODEC | {"spatial_dims": 2}
    overlay: dict[str, Any] = {"data": {"init_args": common | {"root": str(radiographs)}}}
    model: dict[str, Any] = {"codec": codec, "roi": FLAT_ROI}
    overlay["model"] = {"init_args": model}
    last = fit(["cxr/autoencoder"], overlay, tmp_path / "autoencoder", 1)
    model |= {"init_from": None, "autoencoder": str(last)}
    model |= {"unet": UNET | {"attention": [False, True]}}
    overlay["data"]["init_args"] = nodules
    base = fit(["cxr/diffusion"], overlay, tmp_path / "diffusion", 1)
    model |= {"init_from": str(base)}
    fit(["cxr/diffusion", "cxr/adapter"], overlay, tmp_path / "calcified", 2)
    model |= {"adapters": {"calcified": None, "irregular": None}}
    parts = {name: {name: 1} for name in model["adapters"]}
    overlay["data"] = {"init_args": nodules | {"parts": parts}}
    last = fit(["cxr/diffusion", "cxr/composition"], overlay, tmp_path / "composition", 2)
    weights = torch.load(last, weights_only=True)["state_dict"]
    updated = [name for name, value in weights.items() if "lora_B" in name and value.any()]
    assert {name.split(".")[-2] for name in updated} == {"calcified", "irregular"}


def test_two_processes_train_what_one_does_on_the_same_global_batch(
    tmp_path: Path, store: Path, radiographs: Path
) -> None:
    """The diffusion model with dropout of conditions, and two adapters side by side."""
    fractions = [0.5, 0.25, 0.25]
    data: dict[str, Any] = {"root": str(store), "select": None, "cache_dir": None}
    data |= {"fractions": fractions}
    model: dict[str, Any] = {"codec": CODEC, "roi": ROI}
    overlay: dict[str, Any] = {"model": {"init_args": model}, "trainer": {"callbacks": None}}
    # the regularizer is a mean over the nodules that are large enough, of each process by itself
    plain = ["ct/diffusion", "ablations/ct/conditioning_only"]

    def both(stages: list[str], data: dict[str, Any], name: str) -> Path:
        checkpoints = []
        for processes in (1, 2):
            data["batch_size"] = 4 // processes
            checkpoints.append(fit(stages, overlay, tmp_path / f"{name}{processes}", processes))
        weights = [torch.load(path, weights_only=True)["state_dict"] for path in checkpoints]
        moved = 0
        for key, value in weights[0].items():
            if not torch.is_tensor(value):
                continue
            torch.testing.assert_close(weights[1][key], value, atol=2e-5, rtol=1e-4, equal_nan=True)
            moved += int(not torch.equal(weights[1][key], value))
        assert moved > 0  # they are two computations, not one file
        return checkpoints[0]

    overlay["data"] = {"init_args": data}
    codec = both(["ct/autoencoder"], data, "autoencoder")
    model |= {"autoencoder": str(codec), "unet": UNET | {"attention": [False, True]}}
    both(plain, data, "diffusion")

    flat = CODEC | {"spatial_dims": 2}
    normal = {"root": str(radiographs), "cache_dir": None, "fractions": fractions}
    radiographs_of = {
        "class_path": "ChestXray14Collection",
        "init_args": {"root": str(radiographs)},
    }
    nodules = data | {
        "background_radiographs": radiographs_of,
        "radiographs_per_nodule": 2,
    }
    overlay["data"]["init_args"] = normal | {"batch_size": 2}
    model = overlay["model"]["init_args"] = {"codec": flat, "roi": FLAT_ROI}
    codec = fit(["cxr/autoencoder"], overlay, tmp_path / "flat", 1)
    model |= {"autoencoder": str(codec), "init_from": None}
    model |= {"unet": UNET | {"attention": [False, True]}}
    overlay["data"]["init_args"] = nodules | {"batch_size": 2}
    base = fit(["cxr/diffusion"], overlay, tmp_path / "base", 1)
    model |= {"init_from": str(base), "adapters": {"calcified": None, "irregular": None}}
    nodules["parts"] = {name: {name: 1} for name in ("calcified", "irregular")}
    overlay["data"]["init_args"] = nodules
    both(["cxr/diffusion", "cxr/composition"], nodules, "composition")


def test_figures_are_the_same_on_one_process_and_several(tmp_path: Path, store: Path) -> None:
    """An odd number of nodules, batches of another size, and a process without any nodule."""
    metrics = {
        "fid": ("FeatureDistances", {"extractor": {"class_path": "RandomFeatures"}, "limit": 4}),
        "histogram": ("HistogramFidelity", {}),
        "diversity": ("StructuralDiversity", {"extractor": {"class_path": "RandomFeatures"}}),
    }
    chosen = {
        name: {"class_path": path, "init_args": settings}
        for name, (path, settings) in metrics.items()
    }
    callback = {"class_path": "GenerationMetrics", "init_args": {"metrics": chosen}}
    fractions = (0.7, 0.0, 0.3)
    patients = {n: split_of(f"P{n // 2}", 0, fractions) for n in range(30)}
    training = [n for n, split in patients.items() if split == "train"]
    tested = [n for n, split in patients.items() if split == "test"]
    data = {"root": str(store), "cache_dir": None, "fractions": list(fractions)}
    model: dict[str, Any] = {"codec": CODEC, "roi": ROI}
    overlay: dict[str, Any] = {"data": {"init_args": data}, "model": {"init_args": model}}

    def choose(nodules: list[int], batch_size: int) -> None:
        data["select"] = f"nodule_id in {[f'n{n}' for n in nodules]}"
        data["batch_size"] = batch_size

    choose(training + tested[:5], 2)
    model["autoencoder"] = str(fit(["ct/autoencoder"], overlay, tmp_path / "autoencoder", 1))
    model["unet"] = UNET | {"attention": [False, True]}
    root = tmp_path / "run"
    fit(["ct/diffusion"], overlay, root, 1)
    overlay["trainer"] = {"callbacks": [callback]}
    # float32 convolutions round otherwise in batches of another size
    cases = {5: ((1, 1, 0.0), (2, 1, 1e-6), (2, 3, 1e-5)), 2: ((1, 1, 0.0), (3, 1, 1e-6))}
    for nodules, settings in cases.items():
        expected = pd.Series(dtype=float)
        for processes, batch_size, tolerance in settings:
            choose(training + tested[:nodules], batch_size)
            run("test", ["ct/diffusion"], overlay, root, processes)
            table = pd.read_csv(root / "generation.csv")
            (root / "generation.csv").unlink()
            assert len(pd.read_csv(root / "nodules.csv")) == nodules
            assert set(table["metric"]) == set(metrics)
            values = table.set_index(["metric", "figure"])["value"]
            if expected.empty:
                expected = values
            assert values.index.equals(expected.index)
            error = (values - expected).abs() / expected.abs().clip(lower=1)
            assert error.max() <= tolerance, error[error > tolerance]


def test_downstream_figures_are_the_same_on_one_process_and_two(
    tmp_path: Path, store: Path, radiographs: Path
) -> None:
    """An odd number of cases, of which Lightning gives one to both processes."""
    fractions = [0.6, 0.2, 0.2]
    nodules = {"class_path": "LIDCCollection", "init_args": {"root": str(store), "select": None}}
    ct = {"real": nodules, "fractions": fractions, "batch_size": 2, "cache_dir": None}
    background_radiographs = {
        "class_path": "ChestXray14Collection",
        "init_args": {"root": str(radiographs)},
    }
    put = {
        "root": str(store),
        "select": None,
        "background_radiographs": background_radiographs,
        "radiographs_per_nodule": 1,
    }
    put |= {"min_diameter_mm": 0, "subtlety": "drawn"}
    sources = {
        "nodules": {"collection": {"class_path": "SuperimposedCollection", "init_args": put}},
        "normal": {"collection": background_radiographs, "content": "normal"},
    }
    cxr = {"sources": sources, "fractions": fractions, "split_seed": 0}
    cxr |= {"radiograph_size": 64, "radiograph_spacing_mm": 6.4}
    cases: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
        "ct_classification": (ct, ("classification.csv", "accuracy.csv")),
        "ct_segmentation": (ct, ("segmentation.csv", "dice.csv")),
        "cxr_detection": (
            cxr | {"batch_size": 2, "cache_dir": None},
            ("detection.csv", "candidates.csv", "detection_figures.csv"),
        ),
    }
    odd = 0
    for name, (settings, tables) in cases.items():
        overlay: dict[str, Any] = {"data": {"init_args": settings}, "ckpt_path": None}
        if name.startswith("ct"):
            overlay["model"] = {"init_args": {"roi": ROI}}
        written = []
        for processes in (1, 2):
            root = tmp_path / f"{name}-{processes}"
            run("test", [f"downstream/{name}"], overlay, root, processes)
            written.append([pd.read_csv(root / table) for table in tables])
        for one, two in zip(*written, strict=True):
            assert len(one)
            pd.testing.assert_frame_equal(one, two, rtol=1e-4, atol=1e-6)
        odd += len(written[0][0]) % 2
    assert odd
