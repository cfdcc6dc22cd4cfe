"""TensorBoard's event files, without the name of the machine that writes them."""

from typing import Any
from unittest import mock

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.summary.writer import event_file_writer


class EventLogger(TensorBoardLogger):
    """Writes event files whose names say `host` where TensorBoard puts the machine's name."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """TensorBoard's writer, which takes the name from the system and lets nobody choose it."""
        with mock.patch.object(event_file_writer.socket, "gethostname", return_value="host"):
            return super().experiment
