"""Checkpoints are whole, and nothing in them is run."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_modules.checkpoints import WholeCheckpointIO, read_checkpoint

FULL = """
import resource, signal, sys
from pathlib import Path
import torch
from lightning_modules.checkpoints import WholeCheckpointIO
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
WholeCheckpointIO().save_checkpoint({"state_dict": {}, "step": 1}, path)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # the disk is full
WholeCheckpointIO().save_checkpoint({"state_dict": {"a": torch.rand(1_000_000)}}, path)
"""


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints/last.ckpt"
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "could not be written" in ended.stderr.splitlines()[-1]
    assert "run the same command again" in ended.stderr.splitlines()[-1]
    assert read_checkpoint(path)["step"] == 1
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


def test_a_checkpoint_is_what_was_saved(tmp_path: Path) -> None:
    value = torch.rand(3, 4)
    for number in (1, 2):
        saved = {"state_dict": {"a": value * number}, "step": number}
        WholeCheckpointIO().save_checkpoint(saved, tmp_path / "last.ckpt")
    found = read_checkpoint(tmp_path / "last.ckpt")
    assert torch.equal(found["state_dict"]["a"], 2 * value)


class Harm:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "harm.ckpt", tmp_path / "trace"
    torch.save({"state_dict": {}, "harm": Harm(trace)}, path)
    with pytest.raises(ValueError, match=r"harm\.ckpt is no checkpoint or is cut short"):
        read_checkpoint(path)
    with pytest.raises(pickle.UnpicklingError):  # neither when a run resumes
        WholeCheckpointIO().load_checkpoint(path, weights_only=True)
    assert not trace.exists()
