"""Every radiograph config takes a shrunken step, and one leads to the next."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from overlays import CONFIGS, arguments
from PIL import Image
from small_configs import SMALL_RADIOGRAPHS, SMALL_UNET, shrink

from lightning_modules.cli import main

pytestmark = pytest.mark.slow  # every test here trains


def insert_into_a_radiograph(radiographs: Path, base: str, tmp_path: Path) -> None:
    """Run configs/cxr/insert.yaml on a radiograph, with a small base."""
    radiograph = next(radiographs.rglob("*.png"))
    row = {"study": radiograph, "spacing_mm": 0.2, "y": 400, "x": 300, "diameter_mm": 9}
    pd.DataFrame([row]).to_csv(tmp_path / "requests.csv", index=False)
    small = {
        "model": {"init_args": {**SMALL_RADIOGRAPHS, "unet": SMALL_UNET}},
        "data": {"init_args": {"requests": str(tmp_path / "requests.csv")}},
        "trainer": {"default_root_dir": str(tmp_path / "inserted"), "accelerator": "cpu"},
        "ckpt_path": base,
    }
    (tmp_path / "insert.yaml").write_text(yaml.safe_dump(small))
    config = [*arguments("cxr/insert.yaml"), "--config", str(tmp_path / "insert.yaml")]
    main(["predict", *config])
    table = pd.read_csv(tmp_path / "inserted/nodules.csv")
    assert table["status"].tolist() == ["inserted"]
    written = np.asarray(Image.open(tmp_path / "inserted" / table["image"][0]))
    assert 0 < (written != np.asarray(Image.open(radiograph).convert("L"))).mean() < 0.05


@pytest.mark.parametrize("scale", ["", "_large"])
def test_radiograph_configs_follow_on_each_other(
    scale: str, tmp_path: Path, store: Path, radiographs: Path
) -> None:
    """Autoencoder, patches without nodules, nodules, two adapters, their composition.

    On the CPU's scale also ZipLoRA, labels, and what a classifier says of it all.
    """
    fractions = [0.5, 0.25, 0.25]
    normal = {
        "root": str(radiographs),
        "points_per_radiograph": 1,
        "fractions": fractions,
    }
    nodules = {
        "root": str(store),
        "select": None,
        "radiographs_per_nodule": 1,
        "fractions": fractions,
        "background_radiographs": {
            "class_path": "ChestXray14Collection",
            "init_args": {"root": str(radiographs)},
        },
    }
    if scale:
        normal["num_workers"] = nodules["num_workers"] = 0

    def run(stage: str, data: dict[str, Any], **model: Any) -> Path:
        """Fit, and on the CPU's scale go on for a step and predict where there is something to."""
        root = tmp_path / "runs" / stage
        name = "adapter" if stage in ("calcified", "irregular") else stage
        config = [*arguments(f"cxr/{name}{scale}.yaml"), *shrink(root, data, **model)]
        main(["fit", *config])
        checkpoint = root / "checkpoints/last.ckpt"
        if scale:
            return checkpoint
        main(["fit", *config, "--trainer.max_steps", "2"])
        assert torch.load(checkpoint, weights_only=True)["global_step"] == 2
        if stage != "autoencoder":
            main(["predict", *config])
            assert (root / "synthetic.png").stat().st_size > 5_000
        return checkpoint

    codec = str(run("autoencoder", normal))
    first = str(run("pretrain", normal, autoencoder=codec))
    base = str(run("diffusion", nodules, init_from=first))
    if not scale:
        insert_into_a_radiograph(radiographs, base, tmp_path)
    chosen = {"calcified": {"calcified": 1}, "irregular": {"irregular": 1}}
    for name, only in chosen.items():
        run(name, {**nodules, "only": only}, init_from=base, characteristic=name)
        folder = tmp_path / f"runs/{name}/adapters/{name}"
        assert (folder / "adapter_config.json").is_file()
        saved = torch.load(tmp_path / f"runs/{name}/checkpoints/last.ckpt", weights_only=True)
        seen = json.loads((folder / "patients.json").read_text())
        assert seen == saved["noduleforge"]["training_patients"]
        before = torch.load(codec, weights_only=True)["noduleforge"]["training_patients"]
        assert {*before} <= {*seen}  # the radiographs' patients, by way of the base
    parts = {**nodules, "parts": chosen}
    adapters = {name: str(tmp_path / f"runs/{name}/adapters/{name}") for name in chosen}
    run("composition", parts, init_from=base, adapters=adapters)
    assert (tmp_path / "runs/composition/adapters/irregular/adapter_model.safetensors").is_file()
    if scale:
        return
    run("zip", parts, init_from=base, adapters=adapters)
    run("labels", nodules, autoencoder=codec)

    root = tmp_path / "runs/classifier"
    judge = shrink(root, nodules | {"radiographs_per_nodule": 2}, characteristics=[*chosen])
    config = [*arguments("downstream/cxr_characteristics.yaml"), *judge]
    main(["fit", *config])
    main(["test", *config])
    judged = set(pd.read_csv(root / "accuracy.csv")["characteristic"])
    assert judged <= {*chosen, "macro", "minority"}
    overlay = tmp_path / "judge.yaml"
    callback = yaml.safe_load((CONFIGS / "cxr/fidelity.yaml").read_text())["trainer"]["callbacks"]
    callback[0]["init_args"] = {
        "classifier": str(root / "checkpoints/last.ckpt"),
        "combinations": {"base": {}, "both": dict.fromkeys(chosen, 1.0)},
    }
    for stage in ("fidelity", "labels"):
        model = {"init_from": base, "adapters": adapters} if stage == "fidelity" else {}
        if stage == "fidelity":
            ways = {"sum": {"class_path": "Weighted"}, "turns": {"class_path": "Switch"}}
            callback[0]["init_args"]["mergings"] = ways
        else:
            ways = {"default": {}}
            del callback[0]["init_args"]["mergings"]
        overlay.write_text(yaml.safe_dump({"trainer": {"callbacks": callback}}))
        root = tmp_path / "runs" / stage
        config = [*arguments(f"cxr/{stage}.yaml"), *shrink(root, nodules, **model)]
        main(["predict", *config, "--config", str(overlay)])
        table = pd.read_csv(root / "fidelity.csv")
        assert set(table["merging"]) == set(ways)
        asked = table.groupby("combination")["asked"].mean()
        assert dict(asked) == {"base": 0, "both": 1}
        assert table["probability"].between(0, 1).all()


def test_the_radiograph_quickstart_ends_in_a_picture(tmp_path: Path, store: Path) -> None:
    radiographs = tmp_path / "radiographs"
    rows = []
    for number in range(4):
        pixels = np.random.default_rng(number).integers(60, 200, (300, 200)).astype(np.uint8)
        for folder in ("radiographs", "lungs"):
            (radiographs / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(radiographs / folder / f"f{number}.png")
        split = "train" if number < 2 else "test"
        row = {"image": f"radiographs/f{number}.png", "patient_id": f"P{number}", "spacing_mm": 0.7}
        rows.append({**row, "split": split})
    pd.DataFrame(rows).to_csv(radiographs / "radiographs.csv", index=False)
    normal = {"root": str(radiographs), "lungs": str(radiographs / "lungs")}
    background_radiographs = {
        "class_path": "FolderCollection",
        "init_args": {"root": str(radiographs)},
    }
    nodules = normal | {"root": str(store), "background_radiographs": background_radiographs}

    def config(stage: str, data: dict[str, Any], run: str | None = None, **model: Any) -> list[str]:
        root = tmp_path / "runs" / (run or stage)
        return [*arguments(f"quickstart/cxr_{stage}.yaml"), *shrink(root, data, **model)]

    def checkpoint(stage: str) -> str:
        return str(tmp_path / f"runs/{stage}/checkpoints/last.ckpt")

    main(["fit", *config("autoencoder", normal)])
    main(["fit", *config("diffusion", nodules, autoencoder=checkpoint("autoencoder"))])
    base = checkpoint("diffusion")
    for name in ("subtlety", "irregular"):
        main(["fit", *config(name, nodules, init_from=base)])
    folder = {
        run: {
            name: str(tmp_path / f"runs/{run or name}/adapters/{name}")
            for name in ("subtlety", "irregular")
        }
        for run in ("", "apart", "orthogonal")
    }
    for run, weight in (("apart", 0.0), ("orthogonal", 0.5)):
        model = {"init_from": base, "adapters": folder[""], "orthogonality": {"weight": weight}}
        main(["fit", *config("composition", nodules, run, **model)])
    adapters = {
        f"{name}_{run}" if run else name: path
        for run, of_run in folder.items()
        for name, path in of_run.items()
    }
    # the folders alone make the picture, without training or a checkpoint
    main(["predict", *config("picture", nodules, init_from=base, adapters=adapters)])
    assert (tmp_path / "runs/picture/adapters.png").stat().st_size > 20_000
