"""A real SLURM of one node on loopback, with its files in one folder."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

DAEMONS = ("munged", "slurmctld", "slurmd")
NEEDED = (*DAEMONS, "sbatch", "srun", "scontrol")
PACKAGES = "slurmctld slurmd slurm-client munge"
CPUS = 4
"""Those that SLURM counts, however many there are."""

KILL_WAIT_S, GRACE_S = 20, 30
"""What SLURM gives tasks from TERM to KILL, and what a preempted job has before it is requeued."""

PATIENCE_S = 600.0
"""How long a machine that is busy with other things is waited for."""

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# a requeued job waits for as long as the first one's credential holds
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
ReturnToService=1
KillWait={kill_wait}
# how long what has ended can be asked for
MinJobAge=3600
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 Gres=gpu:{cpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES PriorityTier=1
PartitionName=graceful Nodes={host} PriorityTier=1 GraceTime={grace}
PartitionName=urgent Nodes={host} PriorityTier=10 PreemptMode=OFF
"""


def missing() -> list[str]:
    """The programs of SLURM that are not installed."""
    return [name for name in NEEDED if shutil.which(name, path=_path()) is None]


class Cluster:
    """Starts the daemons, which end with `stop`; GPUs are counted and not there.

    Args:
        folder: where its files and logs go; its path must be short, as it holds a socket.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.daemons = folder, list[subprocess.Popen[bytes]]()
        self.environment = {**os.environ, "PATH": _path(), "SLURM_CONF": str(folder / "slurm.conf")}
        for part in ("state", "spool"):
            (folder / part).mkdir()
        self.host = socket.gethostname().split(".")[0]
        settings = {"host": self.host, "user": getpass.getuser()}
        numbers = {"cpus": CPUS, "kill_wait": KILL_WAIT_S, "grace": GRACE_S, "ports": free_ports(2)}
        (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, **settings, **numbers))
        gpus = [folder / f"gpu{number}" for number in range(CPUS)]  # SLURM wants a file for each
        for gpu in gpus:
            gpu.touch()
        (folder / "gres.conf").write_text("".join(f"Name=gpu File={gpu}\n" for gpu in gpus))
        # limits of control groups are not to be had in containers
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        folder.chmod(0o755)
        names = {"key-file": key, "socket": folder / "munge.socket"}
        names |= {f"{kind}-file": folder / f"munge.{kind}" for kind in ("pid", "log", "seed")}
        words = [f"--{name}={path}" for name, path in names.items()]
        self._start("munged", "--foreground", "--force", *words)
        self.wait_for(lambda: (folder / "munge.socket").exists(), "munged is up")
        self._start("slurmctld", "-D", "-c")
        self._start("slurmd", "-D", "-c")
        self.wait_for(
            lambda: self.call("sinfo", "-ho", "%T").strip() == "idle", "a node is idle", 60
        )

    def _start(self, *words: str) -> None:
        with (self.folder / f"{words[0]}.log").open("ab") as log:
            # Control-C is for the tests, which end the daemons then
            own: dict[str, Any] = {"stdout": log, "stderr": log, "start_new_session": True}
            daemon = subprocess.Popen(words, env=self.environment, **own)
        self.daemons.append(daemon)

    def lose_node(self, job: str) -> None:
        """End a job's processes and slurmd as a power failure would; the node is down."""
        processes = {int(words[0]) for words in self.processes(job)}
        of_steps = {int(Path(f"/proc/{one}/stat").read_text().split()[3]) for one in processes}
        slurmd = self.daemons.pop()
        for process in (slurmd.pid, *of_steps, *processes):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        slurmd.wait()
        self._set_node("State=DOWN", "Reason=test")

    def return_node(self) -> None:
        """Bring the node back."""
        self._start("slurmd", "-D", "-c")
        self._set_node("State=RESUME")

    def _set_node(self, *words: str) -> None:
        self.call("scontrol", "update", f"NodeName={self.host}", *words)

    def cancel_all(self) -> None:
        """End all jobs."""
        if jobs := self.call("squeue", "-ho", "%A").split():
            self.call("scancel", *jobs)
            self.wait_for(lambda: not self.call("squeue", "-ho", "%A"), "jobs have ended", 60)

    def stop(self) -> None:
        """End all jobs, then the daemons."""
        try:
            self.cancel_all()
        finally:
            for daemon in reversed(self.daemons):
                daemon.send_signal(signal.SIGTERM)
                daemon.wait(60)

    def call(self, *words: str, **options: Any) -> str:
        """What a command of SLURM prints."""
        ended = subprocess.run(
            words,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            **options,
        )
        assert ended.returncode == 0 or words[0] == "sinfo", (words, ended.stderr)
        return ended.stdout

    def field(self, job: str, name: str) -> str:
        """A field of what `scontrol show job` says of a job."""
        said = f" {self.call('scontrol', '--oneliner', 'show', 'job', job)} "
        return said.split(f" {name}=")[1].split(" ")[0]

    def processes(self, job: str) -> list[list[str]]:
        """Those of a running job: number, job, step, local and global rank."""
        listed = self.call("scontrol", "listpids", job).splitlines()[1:]
        return [line.split() for line in listed]

    def wait_for(
        self, condition: Callable[[], Any], what: str, seconds: float = PATIENCE_S
    ) -> None:
        """Wait until a condition holds.

        Raises:
            TimeoutError: If it does not in time; with the ends of the logs.
        """
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until or any(daemon.poll() for daemon in self.daemons):
                logs = sorted(self.folder.glob("*.log"))
                ends = [f"{log.name}:\n{log.read_text()[-2000:]}" for log in logs]
                message = "\n".join([f"Not so after {seconds} s: {what}", *ends])
                raise TimeoutError(message)
            time.sleep(0.2)


def free_ports(number: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports: list[int] = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _path() -> str:
    """Where programs lie, those of administrators too."""
    return os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
