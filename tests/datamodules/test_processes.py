"""Processes beside a command answer to it alone, and end with it."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.loading import load_batches

# Control-C, as a terminal sends it, once while the processes start and once while they work
STOPPED = """
import os, signal, sys, time
from datamodules.failures import told_in_one_sentence
from datamodules.processes import processes

if __name__ == "__main__":
    # a test in the background inherits that Control-C is ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with told_in_one_sentence("error", []), processes(2) as pool:
        waiting = [pool.submit(time.sleep, 0.2) for _ in range(1000)]
        if sys.argv[1] == "working":
            waiting[2].result()
        os.killpg(0, signal.SIGINT)
        waiting[-1].result()
"""
KILLED = """
import os, signal, time
from datamodules.processes import processes

if __name__ == "__main__":
    with processes(2) as pool:
        list(pool.map(time.sleep, [0.1] * 4))
        print(*pool._processes, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""
# a run that leaves its loaders to the exit of Python, which sends SIGTERM to them and waits
LEFT = """
import sys, torch
from datamodules.loading import load_batches
sys.kept = iter(load_batches(torch.arange(8), 2, 2))
next(sys.kept)
"""


def run(program: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = folder / "program.py"
    path.write_text(textwrap.dedent(program))
    return subprocess.run(
        [sys.executable, path, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        start_new_session=True,
    )


@pytest.mark.parametrize("when", ["starting", "working"])
def test_control_c_ends_them_without_a_word(when: str, tmp_path: Path) -> None:
    ended = run(STOPPED, tmp_path, when)
    assert ended.returncode == 128 + signal.SIGINT
    assert ended.stderr == ""


def test_they_end_with_a_killed_command(tmp_path: Path) -> None:
    ended = run(KILLED, tmp_path)
    assert ended.returncode == -signal.SIGKILL
    left = {Path("/proc", number) for number in ended.stdout.split()}
    assert len(left) == 2
    end = time.monotonic() + 60
    while any(path.exists() for path in left) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(path.exists() for path in left)


def test_the_run_alone_ends_its_loaders() -> None:
    loader: Any = load_batches(torch.arange(64), 2, 2)  # type: ignore[arg-type]
    batches: Any = iter(loader)
    items = [next(batches)]
    workers = batches._workers
    for worker in workers:  # by another process, as a shell or SLURM would
        for name in ("TERM", "INT", "TERM"):
            subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    time.sleep(0.5)
    assert all(worker.is_alive() for worker in workers)
    items += list(batches)
    assert torch.equal(torch.cat(items), torch.arange(64))
    del batches

    batches = iter(loader)
    next(batches)
    for worker in batches._workers:
        os.kill(worker.pid, signal.SIGTERM)
        worker.join(20)
        assert worker.exitcode == 0


def test_a_run_that_leaves_its_loaders_to_its_exit_ends(tmp_path: Path) -> None:
    ended = run(LEFT, tmp_path)
    assert ended.returncode == 0
    assert ended.stderr == ""
