"""Runs on SLURM: one task of `srun` for each device, and one sentence from all tasks together."""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from callbacks.processes import REFUSED

SHELLS = ("bash", "interactive")
"""Names of jobs in which somebody types commands, as `salloc` and `srun --pty bash` give them."""

WAIT_S = 10.0
"""How long tasks that tell nothing wait for the one that does: srun may end all with the first."""


class SrunTasks(SLURMEnvironment):
    """The tasks that one `srun` has started, as the processes of one run.

    Raises:
        ValueError: If there is not the same number of tasks on each node.
    """

    def __init__(self) -> None:
        self.nodes = int(os.environ["SLURM_STEP_NUM_NODES"])
        self.tasks = int(os.environ["SLURM_STEP_NUM_TASKS"])
        if self.tasks % self.nodes or "," in os.environ["SLURM_STEP_TASKS_PER_NODE"]:
            message = (
                f"srun has started {self.tasks} tasks on {self.nodes} nodes, expected the same "
                "number on each: give it --ntasks-per-node."
            )
            raise ValueError(message)
        # Lightning asks for it even where srun was told the number of all tasks
        os.environ["SLURM_NTASKS_PER_NODE"] = str(self.tasks // self.nodes)
        # Lightning's own way to requeue leaves a checkpoint that later runs would prefer
        super().__init__(auto_requeue=False)

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Check that the trainer is told what `srun` was told.

        Raises:
            ValueError: If not, as processes would wait for others that nobody has started.
        """
        on_each = self.tasks // self.nodes
        if (on_each, self.nodes) == (num_devices, num_nodes):
            return
        message = (
            f"srun has started {self.tasks} task(s) on {self.nodes} node(s), but trainer.devices "
            f"is {num_devices} and trainer.num_nodes {num_nodes}: give --trainer.num_nodes "
            f"{self.nodes} --trainer.devices {on_each}, or srun --nodes {num_nodes} "
            f"--ntasks-per-node {num_devices}."
        )
        raise ValueError(message)


def slurm_environment() -> ClusterEnvironment | None:
    """How the processes of this run come about in a job of SLURM.

    `srun` has started all of them, or none: then Lightning starts those of one machine, as it does
    without SLURM. In a job that bears a shell's name a single task is that shell.

    Returns:
        None outside SLURM, and under torchrun, which Lightning finds by itself.

    Raises:
        ValueError: If the other processes are not there, and this one would wait for them.
    """
    if "SLURM_JOB_ID" not in os.environ or TorchElasticEnvironment.detect():
        return None
    asked = int(os.environ.get("SLURM_NTASKS", "1"))
    shell = os.environ.get("SLURM_JOB_NAME") in SHELLS
    if "SLURM_STEP_ID" not in os.environ:
        if asked > 1 and not shell:
            message = (
                f"The job has {asked} tasks, but this command was started once, without srun: "
                "write srun before it, or give sbatch or salloc --ntasks 1."
            )
            raise ValueError(message)
        return LightningEnvironment()
    if asked == 1 and shell:
        return LightningEnvironment()
    if asked > 1 and sys.stdin.isatty() and os.environ.get("SLURM_TASK_PID") != str(os.getpid()):
        message = (
            f"This shell is one of {asked} tasks, and the command was started in it alone: start "
            "the shell with srun --ntasks 1 --pty."
        )
        raise ValueError(message)
    return SrunTasks()


def check_run_folder(folder: Path) -> None:
    """Check that a run can write into its folder, before its tasks wait for each other.

    A task that ended alone would leave the others waiting.

    Args:
        folder: the run's; it is created.

    Raises:
        OSError: If its disk is full, cannot be written or has a file where the folder is to be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:  # says nothing of the folder
        raise OSError(error.errno, error.strerror, str(folder)) from error


@contextmanager
def told_once(task: str) -> Iterator[None]:
    """Let a refusal that all tasks meet alike be told by one of them; all end with status 2.

    Args:
        task: the variable of SLURM that is 0 in the task that tells: SLURM_PROCID, or SLURM_LOCALID
            for what is each node's own.

    Raises:
        SystemExit: In the other tasks.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        if os.environ.get(task, "0") == "0":
            raise
        signal.signal(signal.SIGTERM, lambda *_: os._exit(REFUSED))
        time.sleep(WAIT_S)
        raise SystemExit(REFUSED) from error
