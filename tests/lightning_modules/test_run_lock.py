"""Two processes and one folder."""

import fcntl
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import pytest

from lightning_modules.run_lock import run_locked


def _hold(folder: Path, command: str, pipe: Connection) -> None:
    with run_locked(folder, command):
        pipe.send("held")
        pipe.poll(60)


@contextmanager
def other_process(folder: Path, command: str) -> Iterator[tuple[Any, Callable[[], None]]]:
    """A process that runs a command in a folder, and how it is told to end."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(folder, command, theirs))
    process.start()
    assert ours.poll(60)

    def end() -> None:
        ours.send("enough")
        process.join(60)

    yield process, end
    end()


def test_the_second_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    run = tmp_path / "new/run"
    with other_process(run, "fit") as (process, end):
        for _ in range(2):  # and the refused one leaves all as it was
            with (
                pytest.raises(ValueError, match="is written by another lightning fit") as refused,
                run_locked(run, "fit"),
            ):
                pass
        assert f"(process {process.pid} on {socket.gethostname()}, since 20" in str(refused.value)
        assert "give another trainer.default_root_dir." in str(refused.value)
        end()
        with run_locked(run, "fit") as others:
            assert not others
    # nothing of the machine stays
    assert [(path.name, path.stat().st_size) for path in run.iterdir()] == [(".fit.lock", 0)]


def test_testing_beside_training_is_allowed_and_known(tmp_path: Path) -> None:
    with other_process(tmp_path, "fit"), run_locked(tmp_path, "test") as others:
        assert others
    with run_locked(tmp_path, "test") as others:
        assert not others


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    with other_process(tmp_path, "fit") as (process, _):
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        assert (tmp_path / ".fit.lock").read_text().startswith(f"process {process.pid} on ")
        with run_locked(tmp_path, "fit"):
            pass


def test_forked_processes_do_not_hold_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    with run_locked(tmp_path, "fit"):
        loader = context.Process(target=theirs.poll, args=(60,))
        loader.start()
    with other_process(tmp_path, "fit"):
        assert loader.is_alive()
    ours.send("enough")
    loader.join(60)


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any) -> NoReturn:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "lockf", none)
    with (
        pytest.warns(UserWarning, match="has no locks .*no second lightning fit writes there"),
        run_locked(tmp_path, "fit"),
    ):
        pass
