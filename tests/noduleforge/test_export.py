"""Models that travel: what is exported makes the same nodules, and what is not whole is refused."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from overlays import arguments
from safetensors import safe_open
from small_configs import shrunken

from datamodules.io.volumes import Volume, read_volume, write_volume
from datamodules.lidc import LIDCDataModule
from lightning_modules.cli import main as lightning
from lightning_modules.core.checkpoint_files import read_checkpoint
from lightning_modules.core.synthesizer import Synthesizer
from noduleforge.cli import main
from noduleforge.export.bundle import insertion_config
from noduleforge.export.card import model_card

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, write_store: Make) -> Path:
    """A run of one step, tested, whose nodules were told from real ones."""
    root = tmp_path_factory.mktemp("export")
    words = shrunken("ct/diffusion.yaml", root, write_store(root / "store", 3))
    words += ["--trainer.default_root_dir", str(root / "run")]
    lightning(["fit", *words])
    shutil.copytree(root / "run/checkpoints", root / "before/checkpoints")
    figures = {
        "split": ["val", "test", "test", "test"],
        "metric": "fid",
        "figure": ["fid", "fid", "floor/fid", "count/all"],
        "value": [99.0, 12.5, 3.25, float("nan")],
        "step": 1,
        "samples": 8,
        "provenance": "features: random",
    }
    pd.DataFrame(figures).to_csv(root / "run/generation.csv", index=False)
    (root / "run/realism").mkdir()
    told = "group,real,synthetic,auc,low,high\nall,40,38,0.912,0.85,0.951\n"
    (root / "run/realism/realism.csv").write_text(told)
    return root / "run"


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    out = run.parent / "model"
    main(["export", str(run), "--out", str(out)])
    return out


@pytest.fixture
def model(exported: Path, tmp_path: Path) -> Path:
    """A model whose files may be changed."""
    return shutil.copytree(exported, tmp_path / "copied")


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says when it ends with status 2."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_what_is_exported_makes_the_same_nodules(run: Path, exported: Path) -> None:
    ours, theirs = (Synthesizer.load(p) for p in (run / "checkpoints/last.ckpt", exported))
    data = LIDCDataModule(run.parent / "store", roi=theirs.roi, cache_dir=None)
    data.setup("predict")
    batch = next(iter(data.predict_dataloader()))
    one, other = (s(s.with_histograms(batch)) for s in (ours, theirs))
    assert torch.equal(one.image, other.image)
    assert torch.equal(one.requested_histogram, other.requested_histogram)
    assert ours.facts == theirs.facts
    assert other.provenance.checkpoint == "model"
    assert other.provenance.training_patients == one.provenance.training_patients


def test_a_folder_holds_no_pickle_and_nobodys_name(run: Path, exported: Path) -> None:
    names = {str(p.relative_to(exported)) for p in exported.rglob("*") if p.is_file()}
    configs = {f"configs/{name}" for name in ("insert.yaml", "inference.json", "metadata.json")}
    weights = {"model.safetensors", "histogram_bank.safetensors"}
    assert names == {"README.md", "LICENSE", "SHA256SUMS", "config.json", *configs, *weights}
    for name in names - weights:
        assert str(run.parent) not in (exported / name).read_text()
    with safe_open(exported / "model.safetensors", "pt") as file:
        assert {key.split(".")[0] for key in file.keys()} == {"codec", "denoiser"}  # noqa: SIM118
    summed = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    assert subprocess.run(summed, cwd=exported, check=False, capture_output=True).returncode == 0


def test_the_card_is_filled_in(exported: Path, run: Path) -> None:
    card = ModelCard.load(exported / "README.md")
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "noduleforge")
    assert [(r.metric_type, r.metric_value) for r in card.data.eval_results] == [("fid/fid", 12.5)]
    told = card.content
    stored = read_checkpoint(run / "checkpoints/last.ckpt")
    said = stored["noduleforge"]
    assert "| fid | fid | 12.5 | 3.25 |" in told
    assert "| all | 40 | 38 | 0.912 (0.850 to 0.951) |" in told
    assert f"| nodules | {said['training_data']['train']} |" in told
    assert re.match(r"20 nodules of 10 patients \(6 solid", said["training_data"]["train"])
    assert f"included | {len(said['training_patients'])} |" in told
    assert said["data_fingerprint"] in told
    assert not any(key in told for key in said["training_patients"])
    none = model_card("m", run.parent, stored, run.parent, None)
    assert "Not measured: `lightning test`" in none
    assert "Not measured: `noduleforge realism`" in none


def test_training_begins_from_it_and_resuming_does_not(
    run: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", str(run / "config.yaml"), "--model.init_args.autoencoder", "null"]
    words += ["--trainer.default_root_dir", str(tmp_path / "on")]
    lightning(["fit", *words, "--model.init_args.init_from", str(exported)])
    stored = read_checkpoint(tmp_path / "on/checkpoints/last.ckpt")
    theirs = read_checkpoint(run / "checkpoints/last.ckpt")
    scale = "codec.scale_factor"
    assert torch.equal(stored["state_dict"][scale], theirs["state_dict"][scale])
    with pytest.raises(SystemExit):
        lightning(["predict", *words, "--ckpt_path", str(exported)])
    assert "is a folder, expected the file of a checkpoint" in capsys.readouterr().err


def flipped(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "histogram_bank.safetensors"])
def test_what_is_altered_or_missing_is_refused(name: str, model: Path) -> None:
    flipped(model / name)
    with pytest.raises(ValueError, match=rf"{name} (is missing or differs from its|is no JSON)"):
        Synthesizer.load(model)
    (model / name).unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=rf"{name}.*export"):
        Synthesizer.load(model)


def test_a_list_that_is_cut_short_or_gone_is_refused(model: Path) -> None:
    lines = (model / "SHA256SUMS").read_text().splitlines(keepends=True)
    (model / "SHA256SUMS").write_text("".join(lines[:-1]))
    with pytest.raises(FileNotFoundError, match=r"lacks model\.safetensors, or SHA256SUMS does"):
        Synthesizer.load(model)
    (model / "SHA256SUMS").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks config\.json, or SHA256SUMS does not"):
        Synthesizer.load(model)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"layout": 2, "version": "9.1", "files": []},
            r"layout 2, written by noduleforge 9\.1, but",
        ),
        ({"files": []}, "does not describe a model of noduleforge"),
        ([], "does not describe a model of noduleforge"),
    ],
)
def test_another_layout_is_refused(content: Any, said: str, model: Path) -> None:
    (model / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=said):
        Synthesizer.load(model)


def test_what_cannot_be_exported_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    (tmp_path / "there").touch()
    there = ["--out", str(tmp_path / "there")]
    assert "there exists already: give another folder" in refused(
        ["export", str(run), *there], capsys
    )
    stage1 = str(run.parent / "stage1")
    assert "give a run of stage 2" in refused(["export", stage1, *out], capsys)
    nothing = ["--realism", str(tmp_path)]
    assert "holds no realism.csv" in refused(["export", str(run), *nothing, *out], capsys)
    other = ["--checkpoint", "best.ckpt"]
    assert "best.ckpt is not a file" in refused(["export", str(run), *other, *out], capsys)
    before = str(run.parent / "before")
    assert "config.yaml is missing" in refused(["export", before, *out], capsys)
    assert {p.name for p in tmp_path.iterdir()} == {"there"}


@pytest.mark.parametrize(
    ("name", "spatial_dims"),
    [("ct/diffusion.yaml", 3), ("cxr/diffusion.yaml", 2), ("cxr/labels.yaml", 2)],
)
def test_the_config_of_insertion_stands_alone(
    name: str, spatial_dims: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def resolved(words: list[str]) -> dict[str, Any]:
        with pytest.raises(SystemExit) as ended:
            lightning([*words, "--print_config"])
        assert ended.value.code == 0
        config: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
        return config

    trained = resolved(["fit", *arguments(name), "--model.init_args.autoencoder", "/home/x/a.ckpt"])
    path = tmp_path / "insert.yaml"
    path.write_text(yaml.safe_dump(insertion_config(trained, {}, spatial_dims)))
    assert "/home" not in path.read_text()
    config = resolved(["predict", "--config", str(path)])
    assert config["model"]["class_path"] == trained["model"]["class_path"]
    assert config["data"]["class_path"].endswith("InsertionDataModule")
    settings = config["model"]["init_args"]
    assert settings["autoencoder"] is settings["init_from"] is config["ckpt_path"] is None
    for part in ("head", "codec", "unet", "process", "roi"):
        assert settings[part] == trained["model"]["init_args"][part]


@pytest.mark.slow
def test_monai_inserts_a_nodule(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command of the card, from where it says that the model lies."""
    array = np.random.default_rng(0).integers(-950, -700, (40, 48, 48)).astype(np.int16)
    write_volume(tmp_path / "a.nii.gz", Volume(array, (1.0, 0.8, 0.8), (0.0,) * 3, np.eye(3)))
    rows = "study,z,y,x,diameter_mm,subtype\na.nii.gz,20,24,24,6,ground-glass\n"
    (tmp_path / "requests.csv").write_text(rows)
    (line,) = re.findall(
        r"^python -m monai.bundle (.*?)\n```", (exported / "README.md").read_text(), re.M | re.S
    )
    words = line.replace("\\\n", " ").split()
    words = [str(tmp_path / word) if word in ("requests.csv", "OUT") else word for word in words]
    monkeypatch.setattr(sys, "argv", ["monai.bundle", *words, "--accelerator", "cpu"])
    monkeypatch.chdir(exported.parent)
    runpy.run_module("monai.bundle", run_name="__main__")
    (row,) = pd.read_csv(tmp_path / "OUT/nodules.csv").to_dict("records")
    assert (row["status"], row["checkpoint"]) == ("inserted", "model")
    written = read_volume(tmp_path / "OUT" / row["image"]).array
    assert 0 < (written != array).mean() < 0.05
    settings = yaml.safe_load((exported / "configs/insert.yaml").read_text())["model"]["init_args"]
    assert settings["sampling"]["histogram"] == "final"
