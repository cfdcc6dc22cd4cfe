"""Pictures in the stores of the loggers that a run has."""

from pathlib import Path

import numpy as np
from lightning import Trainer
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image


def log_picture(trainer: Trainer, path: Path) -> None:
    """Give a picture that was written to every logger that takes pictures.

    To be called on one process alone.

    Args:
        trainer: with the loggers.
        path: of the picture, a PNG; its name without ending is what it is called there.
    """
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            logger.experiment.add_image(path.stem, pixels, trainer.global_step, dataformats="HWC")
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_artifact(logger.run_id, str(path))
        elif isinstance(logger, WandbLogger):
            logger.log_image(path.stem, [str(path)])
