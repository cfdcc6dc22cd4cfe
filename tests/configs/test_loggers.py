"""Loggers that people use get figures and pictures, in one run of theirs for each folder."""

import json
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from overlays import CONFIGS, arguments
from PIL import Image
from small_configs import shrunken
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.logged_pictures import log_picture
from lightning_modules import loggers_of_others
from lightning_modules.cli import main
from lightning_modules.event_logger import EventLogger


def overlay(name: str) -> list[str]:
    return ["--config", str(CONFIGS / f"logger/{name}.yaml")]


@pytest.fixture
def words(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A small run of CT, whose stores are where the test is."""
    monkeypatch.chdir(tmp_path)
    config = shrunken("ct/diffusion.yaml", tmp_path, store)
    return [*config, "--trainer.default_root_dir", "run"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")
def test_mlflow_has_figures_and_pictures_in_one_run(words: list[str], tmp_path: Path) -> None:
    from mlflow import MlflowClient

    for command in ("fit", "test", "predict"):
        main([command, *words, *overlay("mlflow")])
    client = MlflowClient("sqlite:///mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "noduleforge"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "run"
    assert {"train/diffusion", "test/histogram/w1/all", "test/diversity/patch"} <= {
        *run.data.metrics
    }
    assert [one.path for one in client.list_artifacts(run.info.run_id)] == ["synthetic.png"]
    # what other commands read is in the run's folder as ever
    there = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.yaml", "metrics.csv", "test.csv", "generation.csv", "loggers.json"} <= there
    assert json.loads((tmp_path / "run/loggers.json").read_text())["run_id"] == run.info.run_id


@pytest.mark.slow
@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_has_one_run(words: list[str], tmp_path: Path) -> None:
    import wandb

    off = ["--trainer.logger.init_args.offline", "true"]
    for command in ("fit", "predict"):
        main([command, *words, *overlay("wandb"), *off])
        wandb.finish()
    known = json.loads((tmp_path / "run/loggers.json").read_text())["wandb_id"]
    folders = [path.name for path in (tmp_path / "run/wandb").glob("offline-run-*")]
    assert len(folders) == 2
    assert {name.rsplit("-", 1)[1] for name in folders} == {known}
    assert [*(tmp_path / "run/wandb").rglob("media/images/synthetic*.png")]


def test_tensorboard_shows_pictures(tmp_path: Path) -> None:
    Image.new("L", (20, 10), 99).save(tmp_path / "synthetic.png")
    logger = EventLogger(tmp_path, name="tensorboard", version="")
    trainer: Any = SimpleNamespace(loggers=[logger], global_step=7)
    log_picture(trainer, tmp_path / "synthetic.png")
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (picture,) = events.Images("synthetic")
    assert (picture.step, picture.width, picture.height) == (7, 20, 10)


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_package_that_is_missing_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loggers_of_others, "find_spec", lambda _: None)
    words = [*arguments("ct/autoencoder.yaml"), "--trainer.default_root_dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *words, *overlay(name)])
    assert ended.value.code == 2
    assert f"Logger needs the package {name}: pip install {name}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_damaged_file_of_names_is_refused(tmp_path: Path) -> None:
    """A new run would be begun there without a word."""
    (tmp_path / loggers_of_others.KNOWN).write_text("[")
    with pytest.raises(ValueError, match=r"loggers\.json is no JSON"):
        loggers_of_others.remember_runs([], tmp_path)
