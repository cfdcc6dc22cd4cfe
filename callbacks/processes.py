"""What a run on several processes of a machine does when one of them refuses something."""

import os
import threading
import time
from subprocess import Popen

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

REFUSED = 2
"""Exit status of a process that has told what is to be mended."""

POLL_S, WAIT_S = 0.2, 3.0
"""How often other processes are looked at, and how long one waits to hear why they have gone."""


class EndsTogether(Callback):
    """Ends the command with status 2 when a process that it has started has ended so.

    That process has told why. Left to itself, the command would show the traceback of a connection
    that was closed (gloo), or wait until Lightning kills it (NCCL).
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin to watch the processes that the command has started, if there are any."""
        started: list[Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
        if started:
            threading.Thread(target=_watch, args=(started,), daemon=True).start()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """End if an error may come of another process' end, and that one has told why.

        Raises:
            SystemExit: If so.
        """
        if not isinstance(exception, RuntimeError):  # what torch.distributed raises
            return
        started: list[Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
        parent = os.getppid()
        until = time.monotonic() + (WAIT_S if trainer.world_size > 1 else 0)
        while time.monotonic() < until:
            if any(one.poll() == REFUSED for one in started) or os.getppid() != parent:
                raise SystemExit(REFUSED) from exception
            time.sleep(POLL_S)


def _watch(started: list[Popen[bytes]]) -> None:
    while not any(one.poll() == REFUSED for one in started):
        if all(one.poll() is not None for one in started):
            return
        time.sleep(POLL_S)
    time.sleep(WAIT_S)  # for the command to end by itself
    for one in started:
        one.kill()
    os._exit(REFUSED)
