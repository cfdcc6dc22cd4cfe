"""Installed from its wheel into an environment of its own, it works without the repository."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from overlays import CONFIGS, ROOT, laid, shipped
from small_configs import SHRUNKEN, SMALL_CODEC, SMALL_ROI

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, in which only the libraries are those of the tests."""
    root = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(root / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (root / "dist").glob("*.whl")
    own = root / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(own)], check=True)
    python = str(own / "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--quiet", str(wheel)], check=True, capture_output=True)
    # a line of a .pth file is a folder alone: the repository that the tests' own names is not read
    (packages,) = own.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return own


def called(environment: Path, cwd: Path, *words: str) -> str:
    """What a command of the environment prints, away from the repository."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(environment / "bin" / words[0]), *words[1:]]
    ended = subprocess.run(
        command, cwd=cwd, env=variables, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_what_is_in_the_wheel_is_enough(environment: Path, tmp_path: Path, store: Path) -> None:
    told = called(environment, tmp_path, "noduleforge", "doctor").splitlines()
    assert len(told) == 10
    assert f"{environment}" in next(line for line in told if line.split()[0] == "configs")
    called(environment, tmp_path, "noduleforge", "configs", "--copy", "configs")
    copied = {str(p.relative_to(tmp_path / "configs")) for p in tmp_path.rglob("*.yaml")}
    assert copied == {*shipped()}
    assert (tmp_path / "configs/slurm/requeue.sh").read_text() == (
        CONFIGS / "slurm/requeue.sh"
    ).read_text()
    small = {
        "model": {"init_args": {"codec": SMALL_CODEC, "roi": SMALL_ROI}},
        "data": {"init_args": {"root": str(store), "batch_size": 2}},
        "trainer": SHRUNKEN["trainer"],
    }
    files = ("configs/ct/autoencoder.yaml", "configs/quickstart/autoencoder.yaml")
    words = [word for file in files for word in ("--config", file)]
    words += laid(tmp_path / "small.yaml", small)
    called(environment, tmp_path, "lightning", "fit", *words)
    assert (tmp_path / "runs/quickstart/autoencoder/checkpoints/last.ckpt").is_file()
