"""A codec from a folder, without any training of ours: from fit to a model that travels."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from codec_files import write_diffusers
from overlays import arguments, laid
from PIL import Image
from small_configs import SHRUNKEN, SMALL_UNET

from lightning_modules.cli import main
from lightning_modules.core.checkpoint_files import read_checkpoint
from lightning_modules.core.synthesizer import Synthesizer
from noduleforge.cli import main as noduleforge


def small(tmp_path: Path, store: Path, radiographs: Path, **codec: Any) -> dict[str, Any]:
    """What makes cxr/stable_diffusion.yaml small."""
    backgrounds = {"class_path": "ChestXray14Collection", "init_args": {"root": str(radiographs)}}
    data = {
        "root": str(store),
        "select": None,
        "radiographs_per_nodule": 1,
        "fractions": [0.5, 0.25, 0.25],
        "background_radiographs": backgrounds,
        "batch_size": 2,
        "num_workers": 0,
        "cache_dir": str(tmp_path / "cache"),
    }
    model = {
        "codec": {"folder": str(tmp_path / "vae"), "config": None, **codec},
        "unet": SMALL_UNET,
        "roi": {"size": 32, "spacing_mm": 0.75},
    }
    return {
        "model": {"init_args": model},
        "data": {"init_args": data},
        "trainer": {**SHRUNKEN["trainer"], "default_root_dir": str(tmp_path / "run")},
    }


@pytest.mark.slow
def test_a_codec_from_a_folder_goes_all_the_way(
    tmp_path: Path, store: Path, radiographs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_diffusers(tmp_path / "vae")
    overlay = small(tmp_path, store, radiographs, error_limit=None)
    words = [*arguments("cxr/stable_diffusion.yaml"), *laid(tmp_path / "small.yaml", overlay)]
    main(["fit", *words])
    assert "Codec: reconstructions are off by" in caplog.text
    cached = {path.name for path in (tmp_path / "cache").iterdir()}
    assert cached
    checkpoint = tmp_path / "run/checkpoints/last.ckpt"
    before = read_checkpoint(checkpoint)["state_dict"]
    assert torch.equal(before["codec.scale_factor"], torch.full((4,), 0.18215))

    # resuming and synthesis take the checkpoint's weights, and the same cache
    (tmp_path / "vae/diffusion_pytorch_model.safetensors").unlink()
    main(["fit", *words, "--trainer.max_steps", "2"])
    after = read_checkpoint(checkpoint)["state_dict"]
    frozen = [name for name in before if name.startswith("codec.")]
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == cached
    main(["predict", *words])
    assert (tmp_path / "run/synthetic.png").is_file()

    # what is exported needs no folder at all
    noduleforge(["export", str(tmp_path / "run"), "--out", str(tmp_path / "model")])
    ours, theirs = (Synthesizer.load(path) for path in (checkpoint, tmp_path / "model"))
    assert ours.codec.fingerprint() == theirs.codec.fingerprint()
    assert "| compression | 2x, 4 channels |" in (tmp_path / "model/README.md").read_text()
    (tmp_path / "vae").rename(tmp_path / "gone")
    radiograph = next(radiographs.rglob("*.png"))
    row = {"study": radiograph, "spacing_mm": 0.2, "y": 400, "x": 300, "diameter_mm": 9}
    pd.DataFrame([row]).to_csv(tmp_path / "requests.csv", index=False)
    insert = ["--config", str(tmp_path / "model/configs/insert.yaml")]
    insert += ["--model.init_args.init_from", str(tmp_path / "model")]
    insert += ["--data.init_args.requests", str(tmp_path / "requests.csv")]
    insert += ["--trainer.default_root_dir", str(tmp_path / "out"), "--trainer.accelerator", "cpu"]
    main(["predict", *insert])
    (image,) = pd.read_csv(tmp_path / "out/nodules.csv")["image"]
    written = np.asarray(Image.open(tmp_path / "out" / image))
    assert 0 < (written != np.asarray(Image.open(radiograph).convert("L"))).mean() < 0.05


def test_a_codec_that_loses_too_much_is_refused(
    tmp_path: Path, store: Path, radiographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_diffusers(tmp_path / "vae")
    overlay = small(tmp_path, store, radiographs)
    words = [*arguments("cxr/stable_diffusion.yaml"), *laid(tmp_path / "small.yaml", overlay)]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *words])
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "inside the nodules (mean absolute error" in said
    assert "error_limit is 10: train the codec further" in said
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        (["--model.init_args.codec.foldr", "x"], "'foldr' is not accepted"),
        (["--model.init_args.codec.error_limit", "much"], "error_limit"),
    ],
)
def test_a_mistake_in_a_codec_is_one_line(
    mistake: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", *arguments("cxr/stable_diffusion.yaml"), *mistake])
    assert ended.value.code == 2
    answer = capsys.readouterr().err.strip()
    assert len(answer.splitlines()) == 1
    assert named in answer
    assert "subclass" not in answer


@pytest.mark.slow
def test_a_codec_from_a_folder_is_finetuned(tmp_path: Path, radiographs: Path) -> None:
    network = write_diffusers(tmp_path / "vae")
    normal = {"root": str(radiographs), "points_per_radiograph": 1, "batch_size": 2}
    normal |= {"fractions": [0.5, 0.25, 0.25], "num_workers": 0}
    folder = str(tmp_path / "vae")
    codec = {"class_path": "DiffusersCodec", "init_args": {"folder": folder}}
    overlay = {
        "model": {"init_args": {"codec": codec, "roi": {"size": 32, "spacing_mm": 0.75}}},
        "data": {"init_args": normal},
        "trainer": {**SHRUNKEN["trainer"], "default_root_dir": str(tmp_path / "run")},
    }
    words = [*arguments("cxr/autoencoder.yaml"), *laid(tmp_path / "small.yaml", overlay)]
    main(["fit", *words, "--model.init_args.learning_rate", "1e-6"])
    state = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(state["codec.scale_factor"], torch.full((4,), 0.18215))
    moved = 0.0
    for name, value in network.state_dict().items():
        tuned = state[f"codec.autoencoder.{name}"]
        torch.testing.assert_close(tuned, value, atol=1e-4, rtol=0)
        moved = max(moved, float((tuned - value).abs().max()))
    assert moved > 0
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())
