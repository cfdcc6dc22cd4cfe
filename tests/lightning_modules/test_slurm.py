"""What a run makes of SLURM's variables, and who tells what all tasks meet."""

import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment

from lightning_modules import slurm
from lightning_modules.slurm import SrunTasks, check_run_folder, slurm_environment, told_once

BATCH = {"JOB_ID": "7", "JOB_NAME": "train", "NTASKS": "4", "NNODES": "2", "PROCID": "0"}
STEP = {"STEP_ID": "0", "STEP_NUM_TASKS": "4", "STEP_NUM_NODES": "2", "LOCALID": "0"}
STEP |= {"STEP_TASKS_PER_NODE": "2(x2)", "NODEID": "0", "TASK_PID": "1"}
SHELL = {"JOB_NAME": "bash", "NTASKS": "1", "STEP_NUM_TASKS": "1", "STEP_TASKS_PER_NODE": "1"}


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that sets SLURM's variables, and those alone."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_")):
            monkeypatch.delenv(name)
    # Lightning's variable that is set by SrunTasks
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "")

    def set_variables(*settings: dict[str, str]) -> None:
        for variables in settings:
            for name, value in variables.items():
                monkeypatch.setenv(f"SLURM_{name}", value)

    return set_variables


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ([], type(None)),
        ([BATCH, STEP], SrunTasks),
        # srun --ntasks 4 within salloc, whose name it takes over
        ([BATCH, STEP, {"JOB_NAME": "interactive"}], SrunTasks),
        ([BATCH, {"JOB_NAME": "interactive"}], LightningEnvironment),
        ([BATCH, STEP, SHELL], LightningEnvironment),
        ([BATCH, {"NTASKS": "1"}], LightningEnvironment),
    ],
)
def test_processes_are_those_of_srun_or_of_lightning(
    job: Any, settings: list[dict[str, str]], kind: type
) -> None:
    job(*settings)
    environment = slurm_environment()
    assert type(environment) is kind
    if isinstance(environment, SrunTasks):
        assert environment.world_size() == 4
        assert not environment.auto_requeue


def test_torchrun_within_a_job_is_left_to_lightning(
    job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job(BATCH, STEP)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert slurm_environment() is None


def test_tasks_that_nobody_has_started_are_named(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job(BATCH)
    with pytest.raises(ValueError, match=r"^The job has 4 tasks, but .* without srun"):
        slurm_environment()
    job(STEP, {"STEP_TASKS_PER_NODE": "3,1"})
    with pytest.raises(ValueError, match=r"^srun has started 4 tasks on 2 nodes, expected"):
        slurm_environment()
    # typed in the first of four shells
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    with pytest.raises(ValueError, match=r"^This shell is one of 4 tasks"):
        slurm_environment()
    job({"TASK_PID": str(os.getpid()), "STEP_TASKS_PER_NODE": "2(x2)"})
    assert isinstance(slurm_environment(), SrunTasks)


def test_devices_and_nodes_are_those_of_srun(job: Any) -> None:
    job(BATCH, STEP)
    tasks = SrunTasks()
    tasks.validate_settings(num_devices=2, num_nodes=2)
    for devices, nodes in ((4, 1), (1, 2), (2, 1), (4, 2)):
        told = (
            rf"devices is {devices} and trainer.num_nodes {nodes}: .*_nodes 2 --trainer.devices 2"
        )
        with pytest.raises(ValueError, match=told):
            tasks.validate_settings(num_devices=devices, num_nodes=nodes)


def test_one_task_tells_and_all_end(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "WAIT_S", 0)
    monkeypatch.setattr(slurm.signal, "signal", lambda *_: None)
    for error in (ValueError("told"), OSError(errno.ENOSPC, "full", "runs/x")):
        with pytest.raises(type(error)), told_once("SLURM_PROCID"):  # outside SLURM
            raise error
        job({"PROCID": "3", "LOCALID": "0"})
        with pytest.raises(type(error)), told_once("SLURM_LOCALID"):
            raise error
        with pytest.raises(SystemExit) as ended, told_once("SLURM_PROCID"):
            raise error
        assert ended.value.code == 2
        monkeypatch.delenv("SLURM_PROCID")


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_run_folder(tmp_path / "runs/new")
    assert list((tmp_path / "runs/new").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as refused:
        check_run_folder(tmp_path / "file/run")
    assert refused.value.filename == str(tmp_path / "file/run")
    with Path("/dev/full").open("wb") as full:
        monkeypatch.setattr(slurm.tempfile, "TemporaryFile", lambda **_: full)
        with pytest.raises(OSError, match="No space left") as refused:
            check_run_folder(tmp_path)
    assert refused.value.filename == str(tmp_path)
