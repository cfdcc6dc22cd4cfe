"""What the README names is there, and its commands are commands."""

import re
from pathlib import Path

import pytest

from datamodules import LIDCDataModule
from datamodules.batch import Roi
from lightning_modules.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_every_config_that_is_named_exists() -> None:
    named = set(re.findall(r"configs/[\w/]+\.yaml", README))
    assert named
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README)) - {"no"} <= targets


COMMANDS = re.findall(r"^lightning (fit|test|predict) +(--config .*)$", README, re.MULTILINE)


@pytest.mark.parametrize(("subcommand", "rest"), COMMANDS)
def test_command_parses(
    subcommand: str, rest: str, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    monkeypatch.chdir(ROOT)
    words = rest.replace(" DIR", f" {store}").split()
    with pytest.raises(SystemExit) as ended:
        main([subcommand, *words, "--print_config"])
    assert ended.value.code == 0


def test_yaml_of_the_section_on_extending_is_valid(tmp_path: Path) -> None:
    snippet = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert snippet
    head = "".join(f"        {line}\n" for line in snippet[1].splitlines())
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
