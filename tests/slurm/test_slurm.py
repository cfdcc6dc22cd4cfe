"""The job scripts on a real SLURM: what takes a job's nodes changes nothing of what it trains."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from same import same
from slurm_cluster import CPUS, PACKAGES, Cluster, missing

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[2]
STEPS = {"autoencoder": 40, "arm": 8}
"""Two tasks agree every 10 steps whether to stop: what they are asked at step 5 they do at 10."""

CODEC = {"channels": [8, 8], "num_res_blocks": 1, "norm_num_groups": 8}
UNET = {"channels": [8, 16], "attention": [False, True], "head_channels": 8, "norm_num_groups": 8}
UNET |= {"num_res_blocks": 1, "token_dim": 8, "embedding_dim": 8, "checkpointing": False}
DATA = {"select": None, "batch_size": 2, "num_workers": 0, "augmented_copies": 1, "cache_dir": None}
TRAINER = {
    "accelerator": "cpu",
    "precision": 32,
    "log_every_n_steps": 1,
    "callbacks": [{"class_path": "held.Held"}],
}
ENDED = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
AUTOENCODER = Path("runs/ct-large/autoencoder")


class Site(Cluster):
    """A cluster, and a folder on it with the configs, data and runs of small models."""

    def __init__(self, folder: Path, write_store: Callable[..., Path]) -> None:
        super().__init__(folder)
        self.home = folder / "home"
        self.home.mkdir()
        (self.home / "configs").symlink_to(ROOT / "configs")
        write_store(self.home / "data/lidc", 3)
        small = {"codec": CODEC, "roi": {"size": 16, "spacing_mm": 1.0}}
        for name, model in {"autoencoder": small, "arm": small | {"unet": UNET}}.items():
            overlay = {
                "model": {"init_args": model},
                "data": {"init_args": DATA},
                "trainer": TRAINER | {"max_steps": STEPS[name]},
                "checkpoint": {"every_n_train_steps": 2},
            }
            (self.home / f"{name}.yaml").write_text(yaml.safe_dump(overlay))
        self.environment |= {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), self.environment["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests/support")]),
            "OMP_NUM_THREADS": "1",
        }

    def submit(self, *words: str, tasks: int = 2) -> str:
        """Submit a job of so many tasks; its number."""
        size = [f"--ntasks-per-node={tasks}", f"--gpus-per-node={tasks}", "--cpus-per-task=1"]
        return self.call("sbatch", "--parsable", *size, *words, cwd=self.home).strip()

    def train(self, run: Path, hold: int | None = None) -> str:
        """Submit an autoencoder on two tasks, to be trained in the folder `run`."""
        if hold is not None:
            self.hold(run, hold)
        words = ["--config", "autoencoder.yaml", "--trainer.default_root_dir", str(run)]
        return self.submit("configs/slurm/autoencoder.sbatch", *words)

    def hold(self, run: Path, step: int) -> None:
        """Let a run wait after a step."""
        (self.home / run).mkdir(parents=True, exist_ok=True)
        (self.home / run / f"hold-{step}").touch()

    def held(self, run: Path, step: int, tasks: int = 2) -> None:
        """Wait until all tasks of a run wait."""
        waits = [self.home / run / f"waits-{step}-{rank}" for rank in range(tasks)]
        self.wait_for(lambda: all(path.exists() for path in waits), f"{run} waits after {step}")

    def ends(self, job: str, state: str) -> None:
        """Wait until a job has ended, and see that it has in this state."""
        ended = lambda: self.field(job, "JobState") in ENDED  # noqa: E731
        self.wait_for(ended, f"job {job} has ended")
        assert self.field(job, "JobState") == state, self.output(job)

    def comes_back(self, job: str, restarts: int) -> None:
        """Wait until a job has been put back into the queue so many times."""
        again = lambda: self.field(job, "Restarts") == str(restarts)  # noqa: E731
        self.wait_for(again, f"{job} has come back {restarts} times")

    def preempt(self) -> None:
        """Take all CPUs for a moment, for what comes before."""
        self.call("srun", "--partition=urgent", f"--ntasks={CPUS}", "true")

    def weights(self, run: Path) -> dict[str, Any]:
        """What a run that has ended has come to."""
        path = self.home / run / "checkpoints/last.ckpt"
        checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
        parts = ("global_step", "state_dict", "optimizer_states", "lr_schedulers", "noduleforge")
        return {part: checkpoint[part] for part in parts}

    def output(self, job: str) -> str:
        """What a job has written."""
        return (self.home / f"slurm-{job}.out").read_text()


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, write_store: Callable[..., Path]
) -> Iterator[Site]:
    if absent := missing():
        pytest.fail(f"There is no {', '.join(absent)}. On Debian: apt-get install {PACKAGES}")
    site = Site.__new__(Site)
    try:
        site.__init__(tmp_path_factory.mktemp("slurm"), write_store)  # type: ignore[misc]
        yield site
    finally:
        site.stop()


@pytest.fixture(scope="module")
def straight(site: Site) -> dict[str, Any]:
    """The autoencoder on two tasks, never stopped."""
    site.ends(site.train(AUTOENCODER), "COMPLETED")
    weights = site.weights(AUTOENCODER)
    assert weights["global_step"] == STEPS["autoencoder"]
    return weights


@pytest.fixture(autouse=True)
def nothing_is_left(site: Site) -> Iterator[None]:
    """A test that fails does not keep the next from its CPUs."""
    yield
    site.cancel_all()


def test_a_job_comes_back_from_what_takes_its_nodes(site: Site, straight: dict[str, Any]) -> None:
    """The time limit, a requeue by hand, preemption, a node that goes down: one after another.

    What waits for its end goes on waiting.
    """
    run = Path("runs/stopped")

    def time_limit() -> None:
        # the signal is sent two minutes before: at once
        hours, minutes, _ = map(int, site.field(job, "RunTime").split(":"))
        limit = 60 * hours + minutes + 2
        site.call("scontrol", "update", f"JobId={job}", f"TimeLimit={limit}")
        site.comes_back(job, 1)
        site.call("scontrol", "update", f"JobId={job}", "TimeLimit=60")

    def requeue() -> None:
        site.call("scontrol", "requeue", job)

    def node_down() -> None:
        site.lose_node(job)
        site.comes_back(job, len(events))
        site.return_node()

    events = [time_limit, requeue, site.preempt, node_down]
    steps = [5, 15, 25, 35]
    for step in steps:
        site.hold(run, step)
    job = site.train(run)
    next_job = site.submit(f"--dependency=afterok:{job}", "--wrap=true", tasks=1)
    for restarts, (step, event) in enumerate(zip(steps, events, strict=True), start=1):
        site.held(run, step)
        event()
        site.comes_back(job, restarts)
        (site.home / run / f"hold-{step}").unlink()
        assert site.field(next_job, "JobState") == "PENDING"
    site.ends(job, "COMPLETED")
    site.ends(next_job, "COMPLETED")
    assert same(straight, site.weights(run)) == []


def test_what_is_cancelled_or_fails_stays_so_and_goes_on_when_submitted_again(
    site: Site, straight: dict[str, Any]
) -> None:
    run = Path("runs/ended")
    job = site.train(run, hold=5)
    site.held(run, 5)
    site.call("scancel", job)
    site.ends(job, "CANCELLED")
    (site.home / run / "hold-5").unlink()
    job = site.train(run, hold=25)
    site.held(run, 25)
    (killed,) = [int(words[0]) for words in site.processes(f"{job}.0") if words[-1] == "1"]
    os.kill(killed, signal.SIGKILL)
    site.ends(job, "FAILED")
    (site.home / run / "hold-25").unlink()
    site.ends(site.train(run), "COMPLETED")
    assert same(straight, site.weights(run)) == []
    assert site.call("squeue", "-ho", "%A").split() == []  # nothing has come back


def test_an_array_of_two_arms_that_is_preempted_with_a_grace_time(
    site: Site, straight: dict[str, Any]
) -> None:
    """The jobs, of one task each, run side by side; one arm is also trained by hand."""
    arms = {0: Path("runs/ablations/full-0"), 3: Path("runs/ablations/neither-0")}
    for run in arms.values():
        site.hold(run, 3)
    words = ["configs/slurm/ablations.sbatch", "--config", "arm.yaml"]
    array = site.submit("--partition=graceful", "--array=0,3", *words, tasks=1)
    for run in arms.values():
        site.held(run, 3, tasks=1)
    site.preempt()
    for number, run in arms.items():
        site.comes_back(f"{array}_{number}", 1)
        (site.home / run / "hold-3").unlink()
    configs = ["ct/diffusion", "ct/diffusion_large", "ablations/ct/neither", "trainer/slurm"]
    paths = [*(f"configs/{name}.yaml" for name in configs), "arm.yaml"]
    by_hand = f"srun lightning fit {' '.join(f'--config {path}' for path in paths)}"
    by_hand += f" --model.init_args.autoencoder {AUTOENCODER}/checkpoints/last.ckpt"
    by_hand += " --trainer.devices 1 --trainer.default_root_dir runs/by-hand"
    job = site.submit(f"--wrap={by_hand}", tasks=1)
    for ended in (job, *(f"{array}_{number}" for number in arms)):
        site.ends(ended, "COMPLETED")
    full, neither = (site.weights(run) for run in arms.values())
    assert same(site.weights(Path("runs/by-hand")), neither) == []
    assert set(full["state_dict"]) != set(neither["state_dict"])  # one has no histogram
    for run in arms.values():
        assert (site.home / run / "test.csv").exists()


def test_what_cannot_go_together_is_told_once(site: Site) -> None:
    """By all tasks together, which end with status 2."""
    fit = "lightning fit --config configs/ct/autoencoder.yaml --config autoencoder.yaml"
    fit += " --trainer.default_root_dir runs/refused"
    told = {
        fit: "The job has 2 tasks, but this command was started once, without srun",
        f"srun {fit}": "srun has started 2 task(s) on 1 node(s), but trainer.devices is 1",
        f"srun {fit} --trainer.devices 2 --trainer.default_root_dir data/lidc/nodules.csv/run": (
            "data/lidc/nodules.csv/run has a file in its path"
        ),
        "bash configs/slurm/ablations.sbatch": "does not exist: train it first",
    }
    trained = site.home / AUTOENCODER
    if trained.exists():  # by a test before
        trained.rename(site.home / "trained")
    jobs = {command: site.submit(f"--wrap={command}") for command in told}
    for command, job in jobs.items():
        site.ends(job, "FAILED")
        assert site.field(job, "ExitCode") == "2:0", command
        output = site.output(job)
        errors = [line for line in output.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, output
        assert told[command] in errors[0]
        assert "Traceback" not in output
