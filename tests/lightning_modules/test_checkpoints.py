"""Checkpoints are whole, and nothing in them is run."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_modules.checkpoints import WholeCheckpointIO, read_checkpoint
from lightning_modules.cli import NoduleForgeCLI, main

FULL = """
import resource, signal, sys
from pathlib import Path
import torch
from lightning_modules.cli import NoduleForgeCLI, main
from lightning_modules.checkpoints import WholeCheckpointIO
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
WholeCheckpointIO().save_checkpoint({"state_dict": {}, "step": 1}, path)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # the disk is full
WholeCheckpointIO().save_checkpoint({"state_dict": {"a": torch.rand(1_000_000)}}, path)
"""


@pytest.mark.slow
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
    with pytest.raises(ValueError, match=r"harm\.ckpt is no checkpoint or is cut short"):
        WholeCheckpointIO().load_checkpoint(path)  # neither when a run resumes
    assert not trace.exists()


def two_checkpoints(folder: Path) -> Path:
    path = folder / "last.ckpt"
    for step in (1, 2):
        weights = {"a": torch.rand(400), "b": torch.arange(9)}
        WholeCheckpointIO().save_checkpoint({"state_dict": weights, "step": step}, path)
    return path


@pytest.mark.parametrize("links", [True, False])
def test_the_checkpoint_before_the_last_is_kept(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, target: Path) -> None:
        message = "Operation not permitted"
        raise OSError(message)

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    path = two_checkpoints(tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["last.ckpt", "previous-last.ckpt"]
    assert read_checkpoint(path)["step"] == 2
    assert read_checkpoint(tmp_path / "previous-last.ckpt")["step"] == 1


def randomized(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[: middle - 200] + bytes(range(200)) * 2 + content[middle + 200 :]


@pytest.mark.parametrize(
    "harm",
    [
        lambda content: b"",
        lambda content: content[:-300],
        lambda content: content[: len(content) // 2],
        randomized,
        lambda content: b"some text\n" * 99,
        lambda content: bytes(range(256)) * 9,
    ],
)
def test_a_damaged_checkpoint_names_the_one_before(
    harm: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = two_checkpoints(tmp_path)
    path.write_bytes(harm(path.read_bytes()))
    for read in (read_checkpoint, WholeCheckpointIO().load_checkpoint):
        with pytest.raises(
            ValueError, match=r"is cut short or damaged .*previous-last\.ckpt: move"
        ):
            read(path)
    (tmp_path / "previous-last.ckpt").rename(path)
    assert read_checkpoint(path)["step"] == 1


def test_what_is_no_checkpoint_is_said(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"state_dict": 3}, tmp_path / "number.pt")
    for name in ("list.pt", "number.pt"):
        with pytest.raises(ValueError, match="it has no state_dict"):
            read_checkpoint(tmp_path / name)


def same(one: Any, other: Any) -> bool:
    """Whether two checkpoints hold the same, weights bit for bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_harmless(place: float, bit: int, tmp_path: Path) -> None:
    path, damaged = tmp_path / "last.ckpt", tmp_path / "damaged.ckpt"
    if not path.exists():
        two_checkpoints(tmp_path)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    damaged.write_bytes(content)
    try:
        found = read_checkpoint(damaged)
    except ValueError as error:
        assert str(damaged) in str(error)  # noqa: PT017
    else:
        assert same(found, read_checkpoint(path))


@pytest.mark.parametrize("harm", [{"learning_rate": 55.0}, {"_class_path": "trap.Model"}])
def test_hyper_parameters_in_a_checkpoint_are_not_read(
    harm: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "crafted.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": harm}, path)
    (tmp_path / "trap.py").write_text("import pathlib; pathlib.Path('trace').touch()")
    monkeypatch.syspath_prepend(tmp_path)
    parsed: list[Any] = []

    def look(cli: NoduleForgeCLI) -> None:
        parsed.append(cli.config)
        raise SystemExit

    monkeypatch.setattr(NoduleForgeCLI, "instantiate_classes", look)
    monkeypatch.chdir(Path(__file__).parents[2])
    for options in (["--ckpt_path", str(path)], ["--ckpt_path", "last"]):
        with pytest.raises(SystemExit):
            main(["fit", "--config", "configs/ct/autoencoder.yaml", *options])
    crafted, plain = (one["fit"] for one in parsed)
    assert (str(crafted.pop("ckpt_path")), plain.pop("ckpt_path")) == (str(path), "last")
    assert crafted == plain
    assert not Path("trace").exists()
