"""What README and documents name is there, and their commands are commands."""

import importlib
import re
from pathlib import Path

import pytest
import torch
import yaml
from overlays import ROOT, arguments

from datamodules.batch import Roi
from datamodules.lidc import LIDCDataModule
from lightning_modules.cli import main

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(path.read_text() for path in DOCUMENTS).replace("\\\n", " ")
TASKS = ("training", "radiographs", "ablations", "judging")
"""Documents whose commands are parsed whole; of the others the configs are looked at alone."""


def test_every_config_that_is_named_exists() -> None:
    named = set(re.findall(r"configs/[\w/*]+\.yaml", TEXT))
    assert named
    assert [path for path in named if not list(ROOT.glob(path))] == []


def test_every_link_leads_somewhere() -> None:
    for document in DOCUMENTS:
        links = re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", document.read_text())
        assert [link for link in links if not (document.parent / link).exists()] == []


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", TEXT, re.MULTILINE)) <= targets


COMMANDS = sorted(
    {
        command
        for task in TASKS
        for command in re.findall(
            r"^lightning (fit|test|predict) +(--config .*)$",
            (ROOT / f"docs/{task}.md").read_text().replace("\\\n", " "),
            re.MULTILINE,
        )
    }
)


def snippet(mark: str) -> str:
    """The YAML of the documents that contains a mark."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    (found,) = [block for block in blocks if mark in block]
    return str(found)


@pytest.mark.parametrize(("subcommand", "rest"), COMMANDS)
def test_command_parses(
    subcommand: str,
    rest: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(snippet("# site.yaml"))
    monkeypatch.chdir(ROOT)
    words = rest.replace(" site.yaml", f" {site}").split()
    with pytest.raises(SystemExit) as ended:
        main([subcommand, *words, "--print_config"])
    assert ended.value.code == 0
    roots = {"root": "/datasets/lidc"} if str(site) in words else {}
    settings = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]
    assert roots.items() <= settings.items()


def test_the_condition_of_ones_own_is_trained_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(# upper.py.*?)```", TEXT, re.DOTALL)
    (tmp_path / "upper.py").write_text(code)
    (tmp_path / "upper.yaml").write_text(snippet("# upper.yaml"))
    monkeypatch.syspath_prepend(tmp_path)
    words = [*arguments("ct/diffusion.yaml"), "--config", str(tmp_path / "upper.yaml")]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *words, "--print_config"])
    assert ended.value.code == 0
    head = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["head"]
    assert set(head["init_args"]["conditioners"]) == {"mask", "background", "upper"}
    upper = importlib.import_module("upper").UpperConditioner(("embedding",))
    origin = torch.tensor([[0.0, 0.0, 5.0], [0.0, 0.0, -5.0]])
    assert upper.vector({"origin_mm": origin}).tolist() == [[1.0], [-1.0]]


@pytest.mark.parametrize("config", ["downstream/ct_classification", "downstream/cxr_detection"])
def test_a_site_that_does_not_fit_the_class_is_refused(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "site.yaml").write_text(snippet("# site.yaml"))
    words = [*arguments(f"{config}.yaml"), "--config", str(tmp_path / "site.yaml")]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *words, "--print_config"])
    assert ended.value.code == 2
    assert "root" in capsys.readouterr().err


def test_a_composition_takes_a_site_and_options_as_its_base_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "site.yaml").write_text(snippet("# site.yaml"))
    words = [*arguments("cxr/composition.yaml"), "--config", str(tmp_path / "site.yaml")]
    films = "data.init_args.background_radiographs.init_args.root"
    with pytest.raises(SystemExit) as ended:
        main(["fit", *words, f"--{films}", "/datasets/films", "--print_config"])
    assert ended.value.code == 0
    data = yaml.safe_load(capsys.readouterr().out)["data"]
    assert data["class_path"].endswith("SuperimposedDataModule")
    settings = data["init_args"]
    assert settings["root"] == "/datasets/lidc"
    assert settings["background_radiographs"]["init_args"]["root"] == "/datasets/films"
    assert set(settings["parts"]) == {"calcified", "irregular", "inhomogeneous"}


def test_a_later_config_overrides_an_option_before_it(capsys: pytest.CaptureFixture[str]) -> None:
    """As the documents say, so that nobody is surprised."""
    option = ["--trainer.default_root_dir", "runs/mine"]
    overlay = ["--config", str(ROOT / "configs/ct/diffusion_large.yaml")]
    base = arguments("ct/diffusion.yaml")
    for words, root in (
        ([*base, *option, *overlay], "runs/ct-large/diffusion"),
        ([*base, *overlay, *option], "runs/mine"),
    ):
        with pytest.raises(SystemExit):
            main(["fit", *words, "--print_config"])
        assert yaml.safe_load(capsys.readouterr().out)["trainer"]["default_root_dir"] == root


def test_yaml_of_the_section_on_extending_is_valid(tmp_path: Path) -> None:
    lines = snippet("hu: {class_path").splitlines()
    head = "".join(f"        {line}\n" for line in lines)
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(f"model:\n  init_args:\n    head:\n      init_args:\n{head}")
    base = ["--config", str(ROOT / "configs/ct/diffusion.yaml"), "--config", str(overlay)]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *base, "--print_config"])
    assert ended.value.code == 0


def test_columns_that_are_named_are_enough(store: Path) -> None:
    data = LIDCDataModule(store, roi=Roi(16), cache_dir=None)
    data.setup("fit")
    assert sum(len(d.subtypes) for s, d in data.datasets.items() if s != "predict") == 30
