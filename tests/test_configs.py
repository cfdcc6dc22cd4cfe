"""Every shipped config parses and takes a shrunken step; the command answers mistakes well."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
import yaml
from PIL import Image
from scipy import ndimage

from datamodules import SUBTYPES, LIDCDataModule
from datamodules.batch import Roi
from datamodules.io.volumes import Volume, read_volume, write_volume
from datamodules.patients import patient_key
from lightning_modules.cli import main
from noduleforge.cli import main as noduleforge

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
# an overlay states only its differences: what it is laid over
BASE = {
    "quickstart/autoencoder.yaml": ["ct/autoencoder.yaml"],
    "quickstart/diffusion.yaml": ["ct/diffusion.yaml"],
    "ct/autoencoder_gpu.yaml": ["ct/autoencoder.yaml"],
    "ct/diffusion_gpu.yaml": ["ct/diffusion.yaml"],
    "ct/insert.yaml": ["ct/diffusion.yaml"],
    "cxr/adapter.yaml": ["cxr/diffusion.yaml"],
    "cxr/composition.yaml": ["cxr/diffusion.yaml"],
    "cxr/zip.yaml": ["cxr/diffusion.yaml", "cxr/composition.yaml"],
    "cxr/labels.yaml": ["cxr/diffusion.yaml"],
    "cxr/fidelity.yaml": ["cxr/diffusion.yaml"],
    "cxr/insert.yaml": ["cxr/diffusion.yaml"],
    "cxr/mergings.yaml": ["cxr/diffusion.yaml", "cxr/fidelity.yaml"],
    "cxr/autoencoder_gpu.yaml": ["cxr/autoencoder.yaml"],
    "cxr/pretrain_gpu.yaml": ["cxr/pretrain.yaml"],
    "cxr/diffusion_gpu.yaml": ["cxr/diffusion.yaml"],
    **{
        f"cxr/{stage}_gpu.yaml": [
            "cxr/diffusion.yaml",
            "cxr/diffusion_gpu.yaml",
            f"cxr/{stage}.yaml",
        ]
        for stage in ("adapter", "composition")
    },
    "quickstart/cxr_autoencoder.yaml": ["cxr/autoencoder.yaml"],
    "downstream/ct_synthetic.yaml": ["ct/diffusion.yaml"],
    "downstream/ct_malignancy.yaml": ["downstream/ct_classification.yaml"],
    "downstream/cxr_detection_jsrt.yaml": ["downstream/cxr_detection.yaml"],
    "downstream/cxr_detection_chestxray14.yaml": ["downstream/cxr_detection.yaml"],
}
ARMS = sorted(path.name for path in (CONFIGS / "downstream/augmentation").iterdir())
BASE |= {f"downstream/augmentation/{arm}": ["downstream/ct_classification.yaml"] for arm in ARMS}
RADIOGRAPH_ARMS = [arm for arm in ARMS if arm.startswith("cxr_")]
BASE |= {
    f"downstream/augmentation/{arm}": ["downstream/cxr_detection.yaml"] for arm in RADIOGRAPH_ARMS
}
for arm in ("half", "2", "4", "only"):
    ratio = f"downstream/augmentation/cxr_synthetic_{arm}.yaml"
    BASE[ratio] = [*BASE[ratio], "downstream/augmentation/cxr_synthetic.yaml"]
BASE |= {
    f"ablations/ct/{path.name}": ["ct/diffusion.yaml"]
    for path in (CONFIGS / "ablations/ct").iterdir()
}
BASE |= {
    f"ablations/cxr/{path.name}": ["cxr/diffusion.yaml", "cxr/composition.yaml"]
    for path in (CONFIGS / "ablations/cxr").iterdir()
}
RADIOGRAPHS = ["cxr/diffusion.yaml", "quickstart/cxr_diffusion.yaml"]
BASE |= {
    "quickstart/cxr_diffusion.yaml": RADIOGRAPHS[:1],
    "quickstart/cxr_subtlety.yaml": [*RADIOGRAPHS, "cxr/adapter.yaml"],
    "quickstart/cxr_irregular.yaml": [*RADIOGRAPHS, "cxr/adapter.yaml"],
    "quickstart/cxr_composition.yaml": [*RADIOGRAPHS, "cxr/composition.yaml"],
    "quickstart/cxr_picture.yaml": RADIOGRAPHS,
}


def shipped() -> list[str]:
    return sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml"))


def arguments(name: str) -> list[str]:
    files = [*BASE.get(name, []), name]
    return [part for file in files for part in ("--config", str(CONFIGS / file))]


@pytest.mark.parametrize("name", shipped())
def test_config_parses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", *arguments(name), "--print_config"])
    assert ended.value.code == 0
    resolved = yaml.safe_load(capsys.readouterr().out)
    assert resolved["model"]["class_path"].startswith("lightning_modules.")
    assert resolved["trainer"]["default_root_dir"].startswith("runs/")
    of_folders = ("quickstart/cxr_picture.yaml", "cxr/fidelity.yaml", "cxr/mergings.yaml")
    begins = {
        f"{kind}/insert.yaml": f"runs/{kind}/diffusion/checkpoints/last.ckpt"
        for kind in ("ct", "cxr")
    }
    begins["downstream/ct_synthetic.yaml"] = begins["ct/insert.yaml"]
    begins |= dict.fromkeys((*of_folders, "downstream/ct_copy_paste.yaml"))
    assert resolved["ckpt_path"] == begins.get(name, "last")


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        (["--model.init_args.learning_ratee", "3"], "learning_ratee"),
        (["--trainer.max_stepz", "3"], "max_stepz"),
        (["--data.init_args.batch_size", "many"], "batch_size"),
        (["--config", "absent.yaml"], "absent.yaml"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(
    mistake: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", *arguments("ct/diffusion.yaml"), *mistake])
    assert ended.value.code == 2
    answer = capsys.readouterr().err.strip()
    assert len(answer.splitlines()) == 1
    assert named in answer


def test_what_a_user_can_mend_is_one_line_without_a_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = ["--config", str(CONFIGS / "ct/diffusion.yaml"), "--trainer.accelerator", "cpu"]
    config += ["--data.init_args.root", str(tmp_path), "--trainer.default_root_dir", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *config])
    assert ended.value.code == 2
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "nodules.csv" in last


def test_what_a_class_refuses_is_one_line_without_a_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """jsonargparse wraps such errors in its own, which lists types and all values."""
    for mistake, sentence in (
        (["--model.init_args.encoder", "resnet_99"], "timm has no network 'resnet_99'"),
        (["--data.init_args.per_real", "-1"], "per_real is -1.0"),
    ):
        words = [*arguments("downstream/cxr_detection.yaml"), *mistake]
        with pytest.raises(SystemExit) as ended:
            main(["fit", *words, "--trainer.default_root_dir", str(tmp_path)])
        assert ended.value.code == 2
        told = capfd.readouterr().err.strip().splitlines()
        assert told[-1].startswith(f"error: {sentence}")
        assert not any("Traceback" in line for line in told)


def test_nodes_and_tasks_that_do_not_match_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = {"NTASKS": 4, "NTASKS_PER_NODE": 4, "NNODES": 1, "JOB_NAME": "x"}
    for name, value in {**settings, "NODEID": 0, "PROCID": 0, "LOCALID": 0}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    config = ["--config", str(CONFIGS / "ct/diffusion.yaml"), "--trainer.accelerator", "cpu"]
    config += ["--trainer.default_root_dir", str(tmp_path), "--trainer.devices", "2"]
    with pytest.raises(ValueError, match=r"`devices=2` .* `--ntasks-per-node=4` does not match"):
        main(["fit", *config])


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_strategies_parse(strategy: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*arguments("ct/diffusion.yaml"), "--trainer.strategy", strategy, "--print_config"]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *words])
    assert ended.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["strategy"] == strategy


def test_help_lists_the_subcommands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    listed = capsys.readouterr().out
    assert all(command in listed for command in ("fit", "validate", "test", "predict"))


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
SMALL_CODEC = {"channels": [8, 8], "num_res_blocks": 1, "norm_num_groups": 8}
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


def shrunken(name: str, tmp_path: Path, store: Path) -> list[str]:
    """Arguments of a small run of a CT config; stage 2's comes after a fit of stage 1."""
    stage2 = "autoencoder" not in name
    overlay = copy.deepcopy(SHRUNKEN)
    overlay["model"] = {"init_args": {"codec": dict(SMALL_CODEC), "roi": SMALL_ROI}}
    overlay["data"]["init_args"] |= {"root": str(store), "cache_dir": str(tmp_path / "cache")}
    if stage2:
        overlay["model"]["init_args"] |= {"autoencoder": None, "unet": SMALL_UNET}
        overlay["data"]["init_args"]["predict_csv"] = None
    small = tmp_path / "small.yaml"
    small.write_text(yaml.safe_dump(overlay))
    config = [*arguments(name), "--config", str(small)]
    if stage2:
        stage1 = [*arguments(BASE_AUTOENCODER), "--config", str(small_autoencoder(small, overlay))]
        main(["fit", *stage1, "--trainer.default_root_dir", str(tmp_path / "stage1")])
        path = tmp_path / "stage1/checkpoints/last.ckpt"
        config += ["--model.init_args.autoencoder", str(path)]
    return config


OTHER = ("cxr", "insert", "downstream")


@pytest.mark.parametrize(
    "name", [name for name in shipped() if not any(other in name for other in OTHER)]
)
def test_config_takes_a_shrunken_step(name: str, tmp_path: Path, store: Path) -> None:
    """Fit, resume, test and predict with everything that the config chooses but its size."""
    root = tmp_path / "run"
    stage2 = "autoencoder" not in name
    config = [*shrunken(name, tmp_path, store), "--trainer.default_root_dir", str(root)]
    main(["fit", *config])
    assert {"config.yaml", "metrics.csv", "checkpoints"} <= {p.name for p in root.iterdir()}
    main(["fit", *config, "--trainer.max_steps", "2"])
    assert torch.load(root / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
    main(["test", *config])
    assert (root / "test.csv").is_file()
    # the second command went on with the first one's log
    assert (
        pd.read_csv(root / "metrics.csv")["train/" + ("diffusion" if stage2 else "l1")].count() == 2
    )
    if stage2:
        main(["predict", *config])
        check_synthesis(root)


def test_nodules_are_inserted_into_a_study(tmp_path: Path, store: Path) -> None:
    config = shrunken("ct/diffusion.yaml", tmp_path, store)
    main(["fit", *config, "--trainer.default_root_dir", str(tmp_path / "run")])
    array = np.random.default_rng(0).integers(-950, -700, (40, 48, 48)).astype(np.int16)
    write_volume(tmp_path / "a.nii.gz", Volume(array, (1.0, 0.8, 0.8), (0.0,) * 3, np.eye(3)))
    rows = ["study,z,y,x,diameter_mm,subtype", "a.nii.gz,20,24,24,6,ground-glass"]
    (tmp_path / "requests.csv").write_text("\n".join(rows))
    small = {
        "data": {"init_args": {"requests": str(tmp_path / "requests.csv")}},
        "trainer": {"default_root_dir": str(tmp_path / "inserted"), "accelerator": "cpu"},
        "ckpt_path": str(tmp_path / "run/checkpoints/last.ckpt"),
    }
    (tmp_path / "insert.yaml").write_text(yaml.safe_dump(small))
    overlays = [str(CONFIGS / "ct/insert.yaml"), str(tmp_path / "insert.yaml")]
    main(["predict", *config, *[word for path in overlays for word in ("--config", path)]])
    table = pd.read_csv(tmp_path / "inserted/nodules.csv")
    assert table["status"].tolist() == ["inserted"]
    written = read_volume(tmp_path / "inserted" / table["image"][0]).array
    assert 0 < (written != array).mean() < 0.05


def test_synthetic_nodules_join_the_training_of_a_classifier(tmp_path: Path, store: Path) -> None:
    """Synthesized from training patients, used in every arm, refused in another split."""
    config = shrunken("ct/diffusion.yaml", tmp_path, store)
    main(["fit", *config, "--trainer.default_root_dir", str(tmp_path / "run")])
    made = tmp_path / "made"
    begin = ["--ckpt_path", str(tmp_path / "run/checkpoints/last.ckpt")]
    synthesize = ["--config", str(CONFIGS / "downstream/ct_synthetic.yaml"), *begin]
    synthesize += ["--trainer.default_root_dir", str(made), "--data.init_args.batch_size", "8"]
    main(["predict", *config, *synthesize, "--data.init_args.predict_every_subtype", "true"])
    table = pd.read_csv(made / "synthetic/nodules.csv")
    patients = set(pd.read_csv(store / "nodules.csv")["patient_id"])
    trained = json.loads((made / "synthetic/generator.json").read_text())["training_patients"]
    known = {patient_key(patient): patient for patient in patients}
    assert {known[key] for key in trained} == set(table["patient_id"])
    assert len(table) == 3 * 4 * 2 * len(trained)
    assert set(table["subtype"]) == set(SUBTYPES)

    small = {
        "trainer": SHRUNKEN["trainer"],
        "data": {
            "init_args": {
                "batch_size": 4,
                "cache_dir": str(tmp_path / "cache"),
                "real": {"init_args": {"root": str(store), "select": None}},
            }
        },
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    of_arm = ["--data.init_args.synthetic.init_args.root", str(made / "synthetic")]
    for arm in ("synthetic_1", "equal_subtypes", "weighted_synthetic", "weighted"):
        words = arguments(f"downstream/augmentation/{arm}.yaml")
        words += ["--config", str(tmp_path / "small.yaml"), *(of_arm if arm != "weighted" else [])]
        words += ["--trainer.default_root_dir", str(tmp_path / f"arms/{arm}-0")]
        main(["fit", *words])
        main(["test", *words])
    runs = [str(path) for path in (tmp_path / "arms").iterdir()]
    compared = ["compare", *runs, "--reference", "weighted", "--out", str(tmp_path / "comparison")]
    noduleforge(compared)
    assert "auroc/minority" in (tmp_path / "comparison/comparison.md").read_text()

    synthetic = ["--config", str(CONFIGS / "downstream/augmentation/synthetic_1.yaml")]
    words = [*arguments("downstream/ct_segmentation.yaml"), *synthetic]
    words += ["--config", str(tmp_path / "small.yaml"), *of_arm]
    words += ["--trainer.default_root_dir", str(tmp_path / "segmented-0")]
    main(["fit", *words])
    main(["test", *words])
    assert pd.read_csv(tmp_path / "segmented-0/segmentation.csv")["dice"].between(0, 1).all()

    words = arguments("downstream/augmentation/synthetic_1.yaml")
    words += ["--config", str(tmp_path / "small.yaml"), *of_arm]
    with pytest.raises(SystemExit):
        main(["fit", *words, "--data.init_args.real.init_args.seed", "1"])


def test_a_checkpoint_changes_no_setting_of_another_arm(tmp_path: Path, store: Path) -> None:
    full = shrunken("ct/diffusion.yaml", tmp_path, store)
    main(["fit", *full, "--trainer.default_root_dir", str(tmp_path / "full")])
    overlay = ["--config", str(CONFIGS / "ablations/ct/conditioning_only.yaml")]
    arm = [*full, *overlay, "--trainer.default_root_dir", str(tmp_path / "arm")]
    checkpoint = str(tmp_path / "full/checkpoints/last.ckpt")
    main(["fit", *arm, "--trainer.max_steps", "2", "--ckpt_path", checkpoint])
    logged = {run: set(pd.read_csv(tmp_path / run / "metrics.csv")) for run in ("full", "arm")}
    assert logged["full"] - logged["arm"] == {"train/histogram"}


def shrink(root: Path, data: dict[str, Any], **model: Any) -> list[str]:
    """Arguments that make a radiograph config small, write to a folder of its own."""
    common = {"batch_size": 2, "cache_dir": str(root.parent / "cache")}
    if "parts" in data:
        parts = {name: part | common for name, part in data["parts"].items()}
        data = {"parts": {name: _part(settings) for name, settings in parts.items()}}
    else:
        data = data | common
    overlay: dict[str, Any] = {
        "model": {"init_args": {**SMALL_RADIOGRAPHS, **model}},
        "data": {"init_args": data},
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


@pytest.mark.parametrize("scale", ["", "_gpu"])
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
            "class_path": "ChestXray14DataModule",
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
    parts = {name: {**nodules, "only": only} for name, only in chosen.items()}
    adapters = {name: str(tmp_path / f"runs/{name}/adapters/{name}") for name in chosen}
    run("composition", {"parts": parts}, init_from=base, adapters=adapters)
    assert (tmp_path / "runs/composition/adapters/irregular/adapter_model.safetensors").is_file()
    if scale:
        return
    run("zip", {"parts": parts}, init_from=base, adapters=adapters)
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


def test_synthetic_radiographs_join_the_training_of_a_detector(
    tmp_path: Path,
    store: Path,
    radiographs: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Inserted into radiographs of training patients, used in the arms, refused in another
    split."""
    split = {"fractions": [0.5, 0.2, 0.3], "seed": 4}
    background_radiographs = {
        "class_path": "ChestXray14DataModule",
        "init_args": {"root": str(radiographs)},
    }
    normal = {"root": str(radiographs), "content": "normal", "points_per_radiograph": 1, **split}
    nodules = {
        "root": str(store),
        "select": None,
        "background_radiographs": background_radiographs,
        "radiographs_per_nodule": 1,
        **split,
    }
    codec = tmp_path / "runs/autoencoder"
    trained = shrink(codec, normal)
    main(["fit", *arguments("cxr/autoencoder.yaml"), *trained])
    begin = {"init_from": None, "autoencoder": str(codec / "checkpoints/last.ckpt")}
    base = shrink(tmp_path / "runs/base", nodules, **begin)
    main(["fit", *arguments("cxr/diffusion.yaml"), *base])

    words = [
        "place-radiographs",
        "--background_radiographs",
        "ChestXray14DataModule",
        "--background_radiographs.root",
        str(radiographs),
    ]
    words += [
        "--background_radiographs.seed",
        "4",
        "--background_radiographs.fractions",
        "[0.5, 0.2, 0.3]",
        "--split",
        "train",
    ]
    words += ["--diameter_mm", "[4, 10]", "--copies", "3", "--shapes", str(store)]
    noduleforge([*words, "--out", str(tmp_path / "requests")])
    requests = {"requests": str(tmp_path / "requests/requests.csv")}
    small = {
        "model": {"init_args": {**SMALL_RADIOGRAPHS, "unet": SMALL_UNET}},
        "data": {"init_args": requests},
        "trainer": {"default_root_dir": str(tmp_path / "inserted"), "accelerator": "cpu"},
        "ckpt_path": str(tmp_path / "runs/base/checkpoints/last.ckpt"),
    }
    (tmp_path / "insert.yaml").write_text(yaml.safe_dump(small))
    main(["predict", *arguments("cxr/insert.yaml"), "--config", str(tmp_path / "insert.yaml")])
    inserted = pd.read_csv(tmp_path / "inserted/nodules.csv")
    assert (inserted["status"] == "inserted").all()
    assert inserted["image"].is_unique  # copies of a radiograph are radiographs of their own

    def source(class_path: str, **settings: Any) -> dict[str, Any]:
        return {"class_path": class_path, "init_args": settings}

    data: dict[str, Any] = {"radiograph_size": 64, "radiograph_spacing_mm": 6.4, "batch_size": 4}
    data |= {"augmented_copies": 1, "cache_dir": str(tmp_path / "cache")}
    data["sources"] = {
        "nodules": source("SuperimposedDataModule", **nodules, min_diameter_mm=0),
        "normal": source("ChestXray14DataModule", **normal),
    }
    made = {"root": str(tmp_path / "inserted"), "content": "nodules"}
    given = {"made": source("FolderDataModule", **made)}
    with_nodule = {}
    for arm in ("none", "copy_paste", "synthetic_half", "synthetic_only"):
        name = f"downstream/augmentation/cxr_{arm}.yaml"
        words = arguments("downstream/cxr_detection.yaml" if arm == "none" else name)
        overlay = {"data": {"init_args": dict(data)}, "trainer": SHRUNKEN["trainer"]}
        if arm.startswith("synthetic"):
            overlay["data"]["init_args"]["synthetic"] = given
        (tmp_path / "small.yaml").write_text(yaml.safe_dump(overlay))
        words += ["--config", str(tmp_path / "small.yaml")]
        if arm == "synthetic_only":
            words += ["--data.init_args.per_real", "1"]
        words += ["--trainer.default_root_dir", str(tmp_path / f"arms/{arm}-0")]
        main(["fit", *words])
        main(["test", *words])
        counted = re.findall(r"train: \d+ images, (\d+) with", caplog.text)
        with_nodule[arm] = int(counted[-1])
    real = with_nodule["none"]
    assert with_nodule == {
        **{"none": real, "copy_paste": 2 * real},
        **{"synthetic_half": real + round(real / 2), "synthetic_only": real},
    }
    tested = {arm: pd.read_csv(tmp_path / f"arms/{arm}-0/detection.csv") for arm in with_nodule}
    assert all(table["name"].equals(tested["none"]["name"]) for table in tested.values())
    runs = [str(path) for path in (tmp_path / "arms").iterdir()]
    noduleforge(["compare", *runs, "--reference", "none", "--out", str(tmp_path / "comparison")])
    assert "froc_1" in (tmp_path / "comparison/comparison.md").read_text()

    # with another split the generator has seen patients that are held out
    overlay["data"]["init_args"] |= {"sources": copy.deepcopy(data["sources"])}
    for of_source in overlay["data"]["init_args"]["sources"].values():
        of_source["init_args"]["seed"] = 0
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(overlay))
    with pytest.raises(SystemExit):
        main(["fit", *words, "--trainer.default_root_dir", str(tmp_path / "refused")])
    assert "in train of made: give it one patient_id" in capfd.readouterr().err


def write_jsrt(root: Path) -> None:
    """Two radiographs with a nodule and two without, as JSRT is shipped; for testing alone."""
    lines = [f"JPCLN00{k}.IMG\t{k}\t20\t53\tMale\t{700 + k}\t900\tbenign\tx\ty" for k in (1, 2)]
    root.mkdir()
    (root / "CLNDAT_EN.txt").write_bytes("\r\n".join(lines).encode("latin-1"))
    for name in ("JPCLN001", "JPCLN002", "JPCNN001", "JPCNN002"):
        density = np.random.default_rng(0).integers(1500, 3000, (2048, 2048)).astype(">u2")
        density.tofile(root / f"{name}.IMG")


@pytest.mark.parametrize("collection", ["jsrt", "chestxray14"])
def test_a_detector_is_tested_on_a_collection_of_radiographs(
    collection: str, tmp_path: Path, store: Path, radiographs: Path
) -> None:
    """Overlays say where nodules and radiographs come from; nodules of JSRT never join training."""
    boxed = [f"{number:08}_000.png" for number in range(10)]
    entries = radiographs / "Data_Entry_2017_v2020.csv"
    text = entries.read_text()
    for name in boxed:
        text = text.replace(f"{name},No Finding", f"{name},Nodule")
    entries.write_text(text)
    lines = [f"{name},Nodule,300,400,80,70" for name in boxed]
    header = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    (radiographs / "BBox_List_2017.csv").write_text("\n".join([header, *lines]) + "\n")
    write_jsrt(tmp_path / "jsrt")
    config = arguments(f"downstream/cxr_detection_{collection}.yaml")
    overlay = yaml.safe_load((CONFIGS / f"downstream/cxr_detection_{collection}.yaml").read_text())
    sources = overlay["data"]["init_args"]["sources"]
    for source in sources.values():
        settings = source["init_args"]
        settings["root"] = str(tmp_path / "jsrt" if "JSRT" in source["class_path"] else radiographs)
        settings.setdefault("fractions", [0.5, 0.2, 0.3])
        if "Superimposed" in source["class_path"]:
            background_radiographs = {
                "class_path": "ChestXray14DataModule",
                "init_args": {"root": str(radiographs)},
            }
            settings |= {
                "root": str(store),
                "select": None,
                "min_diameter_mm": 0,
                "background_radiographs": background_radiographs,
            }
    data = {
        "sources": sources,
        "radiograph_size": 64,
        "radiograph_spacing_mm": 6.4,
        "batch_size": 2,
    }
    data |= {"augmented_copies": 1, "cache_dir": None}
    trainer = SHRUNKEN["trainer"] | {"default_root_dir": str(tmp_path / "run")}
    (tmp_path / "small.yaml").write_text(
        yaml.safe_dump({"data": {"init_args": data}, "trainer": trainer})
    )
    words = [*config, "--config", str(tmp_path / "small.yaml")]
    main(["fit", *words])
    main(["test", *words])
    tested = pd.read_csv(tmp_path / "run/detection.csv")
    assert set(tested["label"]) == {0, 1}
    if collection == "jsrt":
        assert sorted(tested["name"].str.extract(r"(JPC\w+)")[0]) == [
            *("JPCLN001", "JPCLN002", "JPCNN001", "JPCNN002")
        ]
        subtlety = tested.set_index("name")["subtlety"]
        assert sorted(subtlety.dropna()) == [1, 2]


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
        "class_path": "FolderDataModule",
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
    settings = nodules | {
        "radiographs_per_nodule": 5,
        "subtlety": "drawn",
        "fractions": [0.8, 0, 0.2],
    }
    settings |= {"select": None}
    only: dict[str, dict[str, float]] = {"subtlety": {"subtlety": 5}, "irregular": {"irregular": 1}}
    parts = {name: settings | {"only": having} for name, having in only.items()}
    for run, weight in (("apart", 0.0), ("orthogonal", 0.5)):
        model = {"init_from": base, "adapters": folder[""], "orthogonality": {"weight": weight}}
        main(["fit", *config("composition", {"parts": parts}, run, **model)])
    adapters = {
        f"{name}_{run}" if run else name: path
        for run, of_run in folder.items()
        for name, path in of_run.items()
    }
    # the folders alone make the picture, without training or a checkpoint
    main(["predict", *config("picture", nodules, init_from=base, adapters=adapters)])
    assert (tmp_path / "runs/picture/adapters.png").stat().st_size > 20_000


def _part(settings: dict[str, Any]) -> dict[str, Any]:
    return {"class_path": "SuperimposedDataModule", "init_args": settings}


BASE_AUTOENCODER = "ct/autoencoder.yaml"


def small_autoencoder(small: Path, overlay: dict[str, Any]) -> Path:
    """The overlay without what only stage 2 has."""
    overlay = copy.deepcopy(overlay)
    of_both = ("codec", "roi")
    overlay["model"]["init_args"] = {k: overlay["model"]["init_args"][k] for k in of_both}
    path = small.with_name("small-autoencoder.yaml")
    path.write_text(yaml.safe_dump(overlay))
    return path


def check_synthesis(root: Path) -> None:
    """The volumes are the sources outside the margin, lie where they lie, and are a data set."""
    figures = pd.read_csv(root / "generation.csv")
    assert set(figures["metric"]) == {"histogram", "diversity"}
    assert (root / "synthetic.png").stat().st_size > 10_000
    table = pd.read_csv(root / "synthetic/nodules.csv", index_col="nodule_id")
    assert table["synthetic"].all()
    config = yaml.safe_load((root / "config.yaml").read_text())
    settings = config["data"]["init_args"] | {"roi": Roi(**config["model"]["init_args"]["roi"])}
    source = LIDCDataModule(**settings)
    source.setup("predict")
    assert len(table) == len(source.datasets["predict"])
    for item in source.datasets["predict"]:
        row = table.loc[f"synthetic-{item['name']}"]
        assert row["patient_id"] == item["patient_id"]
        image = read_volume(root / "synthetic" / row["image"])
        mask = read_volume(root / "synthetic" / row["mask"])
        header = sitk.ReadImage(root / "synthetic" / row["image"])
        assert "synthetic" in header.GetMetaData("descrip")
        assert image.array.dtype == np.int16
        assert image.grid.matches(mask.grid)
        np.testing.assert_allclose(image.origin_mm, item["origin_mm"], atol=1e-3)
        np.testing.assert_allclose(image.spacing_mm, item["spacing_mm"], atol=1e-5)
        np.testing.assert_array_equal(mask.array, item["mask"][0])
        margin = ndimage.binary_dilation(mask.array, np.ones((7, 7, 7)))
        np.testing.assert_array_equal(image.array[~margin], item["image"][0].numpy()[~margin])
    data = LIDCDataModule(root / "synthetic", roi=Roi(16), fractions=(0, 0, 1), cache_dir=None)
    data.setup("test")
    assert len(data.datasets["test"]) == len(table)
