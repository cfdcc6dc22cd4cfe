"""Right inputs of `lightning`: configs made small, and models of one training step."""

import shlex
import shutil
from pathlib import Path
from typing import Any

import faulty_data as data
import numpy as np
import pandas as pd
import yaml
from overlays import CONFIGS, over
from PIL import Image
from small_configs import SMALL_CODEC, SMALL_UNET

from datamodules.io.checksums import write_json
from datamodules.io.volumes import Volume, write_volume
from datamodules.patients import GENERATOR, patient_key
from datamodules.splits import split_of

TRAINER = {
    "max_steps": 1,
    "accelerator": "cpu",
    "devices": 1,
    "precision": "32-true",
    "logger": False,
    "callbacks": [],
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 1,
    "default_root_dir": "out",
}
ROI = {"size": 16, "spacing_mm": 1.0}
FILM_ROI = {"size": 24, "spacing_mm": 0.75}
FILM_CODEC = dict(SMALL_CODEC, spatial_dims=2)
LAST = "checkpoints/last.ckpt"
ADAPTERS = ("calcified", "irregular")
FRACTIONS = (0.7, 0.1, 0.2)


def command(subcommand: str, *names: str) -> str:
    """Words that run a shipped config, made small by `in/small.yaml`."""
    files: list[str] = []
    for name in names:
        files += [n for n in (*over(CONFIGS / f"{name}.yaml"), f"{name}.yaml") if n not in files]
    words = [word for name in files for word in ("--config", str(CONFIGS / name))]
    return shlex.join(["lightning", subcommand, *words, "--config", "in/small.yaml"])


def lay(root: Path, model: dict[str, Any], of_data: dict[str, Any], **more: Any) -> None:
    """Write the overlay that makes a config small."""
    small = {
        "model": {"init_args": model},
        "data": of_data if "class_path" in of_data else {"init_args": of_data},
        "trainer": TRAINER,
        **more,
    }
    (root / "small.yaml").write_text(yaml.safe_dump(small))


def trained(to: str, *words: str) -> None:
    """Train for a step into a folder of `in`."""
    from lightning_modules.cli import main

    main([*words, "--trainer.default_root_dir", f"in/{to}"])


def ct_autoencoder(root: Path) -> None:
    """Stage 1 of CT."""
    data.store(root / "store", 12)
    of_data = {"root": "in/store", "select": None, "batch_size": 2, "cache_dir": None}
    lay(root, {"roi": ROI, "codec": SMALL_CODEC}, of_data)


def resumed(root: Path) -> None:
    """Stage 1 of CT that has taken two steps and is to take a third."""
    ct_autoencoder(root)
    words = shlex.split(command("fit", "ct/autoencoder"))[1:]
    for steps in "12":
        trained("run", *words, "--trainer.max_steps", steps)
    small = yaml.safe_load((root / "small.yaml").read_text())
    small["trainer"]["max_steps"] = 3
    small["trainer"]["logger"] = True
    small["ckpt_path"] = f"in/run/{LAST}"
    (root / "small.yaml").write_text(yaml.safe_dump(small))


def ct_diffusion(root: Path) -> None:
    """Stage 2 of CT after stage 1."""
    ct_autoencoder(root)
    trained("stage1", *shlex.split(command("fit", "ct/autoencoder"))[1:])
    of_data = {"root": "in/store", "select": None, "batch_size": 2, "augmented_copies": 1}
    model = {"roi": ROI, "codec": SMALL_CODEC, "unet": SMALL_UNET}
    model["autoencoder"] = f"in/stage1/{LAST}"
    lay(root, model, {**of_data, "cache_dir": None, "predict_csv": None})


def ct_insert(root: Path) -> None:
    """Requests for a CT study, and a model."""
    ct_diffusion(root)
    trained("run", *shlex.split(command("fit", "ct/diffusion"))[1:])
    shutil.rmtree(root / "store")
    shutil.rmtree(root / "stage1")
    hu = np.random.default_rng(0).integers(-950, -700, (24, 40, 40)).astype(np.int16)
    write_volume(root / "a.mha", Volume(hu, (1.0, 0.8, 0.8), data.NONE, np.eye(3)))
    row = {"study": "a.mha", "z": 12, "y": 20, "x": 20, "diameter_mm": 6, "subtype": "solid"}
    pd.DataFrame([row]).to_csv(root / "requests.csv", index=False)
    model = {"roi": ROI, "codec": SMALL_CODEC, "unet": SMALL_UNET}
    model["sampling"] = {"evaluations": 1}
    trainer = {**TRAINER, "callbacks": [{"class_path": "StudyWriter"}]}
    of_data = {"requests": "in/requests.csv"}
    lay(root, model, of_data, trainer=trainer, ckpt_path=f"in/run/{LAST}")


def film_autoencoder(root: Path) -> None:
    """Stage 1 of radiographs."""
    data.radiographs(root)
    of_data = {"root": "in", "lungs": "in/lungs", "batch_size": 2, "cache_dir": None}
    lay(root, {"roi": FILM_ROI, "codec": FILM_CODEC}, of_data)


def film_insert(root: Path) -> None:
    """Requests for a radiograph, a base, and two adapters."""
    film_autoencoder(root)
    trained("stage1", *shlex.split(command("fit", "quickstart/cxr_autoencoder"))[1:])
    of_data = {
        "class_path": "FolderDataModule",
        "init_args": {"root": "in", "lungs": "in/lungs", "content": "normal", "batch_size": 2},
    }
    model: dict[str, Any] = {"roi": FILM_ROI, "codec": FILM_CODEC, "unet": SMALL_UNET}
    pretraining = shlex.split(command("fit", "cxr/pretrain"))[1:]
    lay(root, {**model, "autoencoder": f"in/stage1/{LAST}"}, of_data)
    trained("base", *pretraining)
    model["init_from"] = f"in/base/{LAST}"
    for name in ADAPTERS:
        own = {**model, "characteristic": name, "adapter": {"rank": 2, "alpha": 2}}
        lay(root, own, of_data)
        small = yaml.safe_load((root / "small.yaml").read_text())
        small["model"]["class_path"] = "CXRAdapter"
        (root / "small.yaml").write_text(yaml.safe_dump(small))
        trained(name, *pretraining)
        shutil.move(root / name / "adapters" / name, root / "adapters" / name)
        shutil.rmtree(root / name)
    shutil.rmtree(root / "stage1")
    pixels = np.random.default_rng(0).integers(60, 200, (90, 80)).astype(np.uint8)
    Image.fromarray(pixels).save(root / "film.png")
    row = {"study": "film.png", "y": 45, "x": 40, "diameter_mm": 6, "spacing_mm": 0.75}
    pd.DataFrame([row]).to_csv(root / "requests.csv", index=False)
    model["adapters"] = {name: f"in/adapters/{name}" for name in ADAPTERS}
    model["sampling"] = {"evaluations": 1}
    trainer = {**TRAINER, "callbacks": [{"class_path": "StudyWriter"}]}
    lay(root, model, {"requests": "in/requests.csv"}, trainer=trainer, ckpt_path=None)


def joined(root: Path) -> dict[str, Any]:
    """Real nodules and synthetic ones of training patients; settings of the data."""
    data.two_stores(root)
    table = pd.read_csv(root / "synthetic/nodules.csv", dtype=str)
    real = pd.read_csv(root / "real/nodules.csv", dtype=str)["patient_id"]
    training = [patient for patient in real if split_of(patient, 0, FRACTIONS) == "train"]
    table["patient_id"] = training[: len(table)]
    table.to_csv(root / "synthetic/nodules.csv", index=False)
    facts = {"training_patients": [patient_key(patient) for patient in training]}
    write_json(root / "synthetic" / GENERATOR, {"checkpoint": "some.ckpt", **facts})
    collection = {"init_args": {"root": "in/real", "select": None}}
    return {"real": collection, "batch_size": 2, "cache_dir": None}


def classifier(root: Path) -> None:
    """A classifier of real nodules with synthetic ones beside them."""
    settings = joined(root)
    settings |= {"synthetic": {"init_args": {"root": "in/synthetic"}}, "per_real": 0.25}
    lay(root, {"roi": ROI, "width": 8}, settings)


def segmenter(root: Path) -> None:
    """A segmenter of real nodules."""
    lay(root, {"roi": ROI}, joined(root))


def detector(root: Path) -> None:
    """A detector of radiographs with nodules among those without."""
    data.radiographs(root / "normal", 12)
    (root / "normal/radiographs.csv").write_text(
        "\n".join(
            line.rpartition(",")[0]
            for line in (root / "normal/radiographs.csv").read_text().splitlines()
        )
        + "\n"
    )
    rows = []
    for number in range(12):
        pixels = np.random.default_rng(number).integers(60, 200, (64, 64)).astype(np.uint8)
        (root / "nodules/images").mkdir(exist_ok=True, parents=True)
        Image.fromarray(pixels).save(root / f"nodules/images/n{number}.png")
        mask = Volume(data.ball(64, 6.0, 2).astype(np.uint8), (0.75, 0.75), (0.0, 0.0), np.eye(2))
        write_volume(root / f"nodules/masks/n{number}.mha", mask)
        files = {"image": f"images/n{number}.png", "mask": f"masks/n{number}.mha"}
        rows.append({"nodule_id": f"n{number}", "patient_id": f"Q{number}", **files, "texture": 5})
    pd.DataFrame(rows).to_csv(root / "nodules/nodules.csv", index=False)
    sources = {
        name: {
            "collection": {
                "class_path": "FolderCollection",
                "init_args": {"root": f"in/{name}", "select": None},
            },
            "content": name,
        }
        for name in ("nodules", "normal")
    }
    size = {"radiograph_size": 64, "radiograph_spacing_mm": 0.75}
    settings = {"sources": sources, "batch_size": 2, "cache_dir": None, "augmented_copies": 1}
    lay(root, {}, {**settings, **size})
