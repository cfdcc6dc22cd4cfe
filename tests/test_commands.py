"""The commands of documents, Makefile and scripts: configs in order, options after them."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from overlays import BENCHMARKS, CONFIGS, ROOT, over

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SUBCOMMANDS = ("fit", "validate", "test", "predict")
STUB = """#!/usr/bin/env bash
printf '%q ' "$(basename "$0")" "$@" >> "$CALLS"
echo >> "$CALLS"
"""


def check(words: list[str]) -> None:
    """Configs come first, whatever an overlay lies over before it, and all of them exist."""
    while words[0] not in SUBCOMMANDS:  # srun and torchrun have options too
        words = words[1:]
    kinds = [word for word in words if word.startswith("--")]
    configs = [words[at + 1] for at, word in enumerate(words) if word == "--config"]
    assert kinds[: len(configs)] == ["--config"] * len(configs), words
    for number, name in enumerate(configs):
        if name in ("CONFIG", "site.yaml", "upper.yaml"):
            continue
        bases = {f"configs/{base}" for base in over(ROOT / name)}
        if name.startswith("configs/trainer/"):  # over any config
            bases = set()
        assert bases <= {*configs[:number]}, (name, words)


def test_commands_of_documents() -> None:
    commands = []
    for document in DOCUMENTS:
        blocks = re.findall(r"^```\w*\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)
        lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
        commands += [shlex.split(line, comments=True) for line in lines if "--config " in line]
    assert len(commands) > 20
    for words in commands:
        check(words)


@pytest.fixture
def stubs(tmp_path: Path) -> dict[str, str]:
    """An environment whose commands only write down how they were called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("lightning", "noduleforge", "python"):
        (folder / name).write_text(STUB)
        (folder / name).chmod(0o755)
    srun = '#!/usr/bin/env bash\nwhile [ "$1" != lightning ]; do shift; done\nexec "$@"\n'
    (folder / "srun").write_text(srun)
    (folder / "srun").chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    slurm = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_NNODES": "1", "SLURM_NTASKS_PER_NODE": "4"}
    slurm["SLURM_CPUS_PER_TASK"] = "8"
    return {**os.environ, **slurm, "PATH": path, "CALLS": str(tmp_path / "calls")}


def called(command: list[str], stubs: dict[str, str], cwd: Path) -> list[list[str]]:
    """What a script calls, in order."""
    ended = subprocess.run(command, env=stubs, cwd=cwd, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return [shlex.split(line) for line in Path(stubs["CALLS"]).read_text().splitlines()]


SCRIPTS = [*sorted(BENCHMARKS.glob("*.sh")), *sorted((CONFIGS / "slurm").glob("*.sbatch"))]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_commands_of_scripts(script: Path, stubs: dict[str, str], tmp_path: Path) -> None:
    for folder in ("configs", "benchmarks"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    words = [str(tmp_path / "lidc")] if script.name == "regularizer.sh" else []
    autoencoder = tmp_path / "runs/ct-large/autoencoder/checkpoints/last.ckpt"
    autoencoder.parent.mkdir(parents=True)
    autoencoder.touch()
    calls = called(["bash", str(script), *words], stubs, tmp_path)
    trained = [words for words in calls if words[0] == "lightning"]
    assert len(trained) >= (1 if script.name == "autoencoder.sbatch" else 3)
    for words in trained:
        check(words)


@pytest.mark.parametrize("target", ["quickstart", "quickstart-cxr", "ablations"])
def test_commands_of_make(target: str, stubs: dict[str, str], tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    installed.touch()
    settings = [f"BIN={tmp_path / 'bin'}", f"INSTALLED={installed}"]
    for words in called(["make", *settings, target], stubs, ROOT):
        if words[0] == "lightning":
            check(words)
