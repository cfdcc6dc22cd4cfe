"""Shipped configs made small enough for a test."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from codec_files import write_maisi
from overlays import CONFIGS, arguments, over

from lightning_modules.cli import main

# what makes a config small enough for a test, and nothing else
SHRUNKEN = {
    "trainer": {
        "max_steps": 1,
        "accelerator": "cpu",
        "devices": 1,
        "enable_progress_bar": False,
        "log_every_n_steps": 1,
    },
    "data": {"init_args": {"select": None, "batch_size": 2, "num_workers": 0}},
}
SMALL_ROI = {"size": 16, "spacing_mm": 1.0}
SMALL_CODEC: dict[str, Any] = {"channels": [8, 8], "num_res_blocks": 1, "norm_num_groups": 8}
SMALL_RADIOGRAPHS = {
    "codec": dict(SMALL_CODEC, spatial_dims=2),
    "roi": {"size": 32, "spacing_mm": 0.75},
}
SMALL_UNET = {
    "channels": [8, 16],
    "attention": [False, True],
    "head_channels": 8,
    "norm_num_groups": 8,
    "token_dim": 8,
    "embedding_dim": 8,
}
SMALL_TRANSFORMER = {"width": 24, "depth": 1, "heads": 2, "token_dim": 8, "embedding_dim": 8}


STAGE_1 = "ct/autoencoder.yaml"
MAISI = "ct/maisi.yaml"


def is_stage2(name: str) -> bool:
    """Whether a CT config trains a diffusion model."""
    return STAGE_1 not in (name, *over(CONFIGS / name))


def shrunken(name: str, tmp_path: Path, store: Path) -> list[str]:
    """Arguments of a small run of a CT config; stage 2's comes after a fit of stage 1."""
    stage2 = is_stage2(name)
    overlay = copy.deepcopy(SHRUNKEN)
    overlay["model"] = {"init_args": {"codec": dict(SMALL_CODEC), "roi": SMALL_ROI}}
    overlay["data"]["init_args"] |= {"root": str(store), "cache_dir": str(tmp_path / "cache")}
    if stage2:
        network = (
            {"transformer": SMALL_TRANSFORMER} if "transformer" in name else {"unet": SMALL_UNET}
        )
        overlay["model"]["init_args"] |= {"autoencoder": None, **network}
        overlay["data"]["init_args"]["predict_csv"] = None
    own_codec = name != MAISI
    if not own_codec:
        weights = tmp_path / "maisi.pt"
        write_maisi(weights, SMALL_CODEC["channels"], SMALL_CODEC["norm_num_groups"])
        overlay["model"]["init_args"]["codec"] |= {"weights": str(weights), "error_limit": None}
    small = tmp_path / "small.yaml"
    small.write_text(yaml.safe_dump(overlay))
    config = [*arguments(name), "--config", str(small)]
    if stage2 and own_codec:
        stage1 = [*arguments(STAGE_1), "--config", str(small_autoencoder(small, overlay))]
        main(["fit", *stage1, "--trainer.default_root_dir", str(tmp_path / "stage1")])
        path = tmp_path / "stage1/checkpoints/last.ckpt"
        config += ["--model.init_args.autoencoder", str(path)]
    return config


def small_autoencoder(small: Path, overlay: dict[str, Any]) -> Path:
    """The overlay without what only stage 2 has."""
    overlay = copy.deepcopy(overlay)
    of_both = ("codec", "roi")
    overlay["model"]["init_args"] = {k: overlay["model"]["init_args"][k] for k in of_both}
    path = small.with_name("small-autoencoder.yaml")
    path.write_text(yaml.safe_dump(overlay))
    return path


def shrink(root: Path, data: dict[str, Any], **model: Any) -> list[str]:
    """Arguments that make a radiograph config small, write to a folder of its own."""
    common = {"batch_size": 2, "cache_dir": str(root.parent / "cache")}
    overlay: dict[str, Any] = {
        "model": {"init_args": {**SMALL_RADIOGRAPHS, **model}},
        "data": {"init_args": data | common},
        "trainer": {**SHRUNKEN["trainer"], "default_root_dir": str(root)},
    }
    if "classifier" in root.name:
        overlay["model"]["init_args"] = {**model, "width": 8, "roi": SMALL_RADIOGRAPHS["roi"]}
    elif "autoencoder" not in root.name:
        overlay["model"]["init_args"]["unet"] = SMALL_UNET
    root.parent.mkdir(parents=True, exist_ok=True)
    file = root.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(overlay))
    return ["--config", str(file)]


def write_jsrt(root: Path) -> None:
    """Two radiographs with a nodule and two without, as JSRT is shipped; for testing alone."""
    lines = [f"JPCLN00{k}.IMG\t{k}\t20\t53\tMale\t{700 + k}\t900\tbenign\tx\ty" for k in (1, 2)]
    root.mkdir()
    (root / "CLNDAT_EN.txt").write_bytes("\r\n".join(lines).encode("latin-1"))
    for name in ("JPCLN001", "JPCLN002", "JPCNN001", "JPCNN002"):
        density = np.random.default_rng(0).integers(1500, 3000, (2048, 2048)).astype(">u2")
        density.tofile(root / f"{name}.IMG")
