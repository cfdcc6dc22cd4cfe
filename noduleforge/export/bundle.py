"""What makes an exported model a MONAI bundle: its configs."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from noduleforge.shipped_configs import configs_folder

OVERLAYS = {2: "cxr/insert.yaml", 3: "ct/insert.yaml"}
"""The shipped config by which nodules are inserted, by the number of an image's axes."""

WEIGHTS_FROM = ("autoencoder", "init_from")
"""Where a run's config names weights that the exported model has itself."""

INFERENCE = {
    "imports": ["$from lightning_modules.cli import main as lightning"],
    "bundle_root": ".",
    "requests": "requests.csv",
    "output_dir": "$@bundle_root + '/eval'",
    "accelerator": "auto",
    "options": {
        "--config": "$@bundle_root + '/configs/insert.yaml'",
        "--model.init_args.init_from": "@bundle_root",
        "--data.init_args.requests": "@requests",
        "--trainer.default_root_dir": "@output_dir",
        "--trainer.accelerator": "@accelerator",
    },
    "run": ["$lightning(['predict', *(word for option in @options.items() for word in option)])"],
}
"""Inserts nodules as `lightning predict` does."""


def write_bundle(folder: Path, run: Path, said: Mapping[str, Any]) -> None:
    """Write `configs` of a bundle.

    `insert.yaml` is the config of `lightning predict` that puts nodules into whole studies,
    `inference.json` calls it, and `metadata.json` says what goes in and comes out.

    Args:
        folder: the exported model's.
        run: the run's folder, whose `config.yaml` says what the model is.
        said: what the checkpoint says of the model.

    Raises:
        FileNotFoundError: If the run has no `config.yaml`.
    """
    path = run / "config.yaml"
    if not path.is_file():
        message = f"{path} is missing: export the folder of a run of `lightning fit`."
        raise FileNotFoundError(message)
    (folder / "configs").mkdir()
    trained = yaml.safe_load(path.read_text("utf-8"))
    config = insertion_config(trained, said["synthesizer"]["codec"], len(said["roi_size"]))
    (folder / "configs/insert.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    for name, content in (("inference", INFERENCE), ("metadata", metadata(said))):
        (folder / f"configs/{name}.json").write_text(json.dumps(content, indent=4) + "\n")


def insertion_config(
    trained: Mapping[str, Any], codec: Mapping[str, Any], spatial_dims: int
) -> dict[str, Any]:
    """The config that inserts nodules with the model of another config.

    Args:
        trained: the config of the training.
        codec: class and settings, which need no file of the training's machine.
        spatial_dims: 2 or 3.
    """
    overlay = yaml.safe_load((configs_folder() / OVERLAYS[spatial_dims]).read_text("utf-8"))
    settings = _without_folders(trained["model"]["init_args"])
    sampling = {**(settings["sampling"] or {}), **overlay["model"]["init_args"].get("sampling", {})}
    settings |= {**dict.fromkeys(WEIGHTS_FROM), "sampling": sampling or None}
    if "class_name" in codec:  # not in models that were trained before there were several
        settings["codec"] = {"class_path": codec["class_name"], "init_args": codec["settings"]}
    settings.pop("seed", None)  # that of seed_everything
    return {
        "seed_everything": trained["seed_everything"],
        "model": {"class_path": trained["model"]["class_path"], "init_args": settings},
        "data": overlay["data"],
        "trainer": {"callbacks": overlay["trainer"]["callbacks"]},
    }


def _without_folders(value: Any) -> Any:
    """Settings in which files of this machine are named without their folders."""
    if isinstance(value, dict):
        return {name: _without_folders(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_folders(part) for part in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def metadata(said: Mapping[str, Any]) -> dict[str, Any]:
    """What MONAI's schema of bundles asks for.

    Args:
        said: what the checkpoint says of the model.
    """
    modality, spatial_dims = ("CT", 3) if len(said["roi_size"]) == 3 else ("CR", 2)
    image = {
        "type": "image",
        "format": "hounsfield" if modality == "CT" else "magnitude",
        "modality": modality,
        "num_channels": 1,
        "spatial_shape": ["*"] * spatial_dims,
        "dtype": "float32",
        "value_range": list(said["window"]),
        "is_patch_data": False,
        "channel_def": {"0": "image"},
    }
    return {
        "version": "0.1.0",
        "changelog": {"0.1.0": "exported"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"noduleforge": version("noduleforge")},
        "task": "Synthetic lung nodules in images of patients",
        "description": "Latent diffusion that puts a requested lung nodule into a study.",
        "authors": "see README.md",
        "copyright": "see LICENSE",
        "intended_use": "Research alone; not for diagnosis",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"image": image}},
    }
