"""MLflow and Weights & Biases: a run's folder is one run there, which goes on when it does."""

import secrets
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import Logger, MLFlowLogger

from datamodules.io.checksums import read_json, write_json
from datamodules.io.whole_files import written_whole

KNOWN = "loggers.json"
"""Where a run's folder keeps what it is called in the stores of others."""

NEEDED = {"MLFlowLogger": "mlflow", "WandbLogger": "wandb"}
"""Classes of loggers, and the package that each needs."""


def name_runs(given: Any, root: Path) -> None:
    """Give the loggers of a config the name of the run's folder, and what they were called before.

    Args:
        given: `trainer.logger` of a config; its settings are changed.
        root: the run's folder.

    Raises:
        ValueError: If a logger's package is not installed, or the file of names is damaged.
    """
    for logger in given if isinstance(given, list) else [given]:
        kind = str(getattr(logger, "class_path", "")).rpartition(".")[2]
        if kind not in NEEDED:
            continue
        package = NEEDED[kind]
        if find_spec(package) is None:
            message = f"{kind} needs the package {package}: pip install {package}"
            raise ValueError(message)
        _name(logger.init_args, kind, root)


def _name(settings: Namespace, kind: str, root: Path) -> None:
    before = _known(root)
    if kind == "MLFlowLogger":
        settings.run_name = settings.run_name or str(root)
        if before.get("tracking_uri") == settings.tracking_uri:
            settings.run_id = settings.run_id or before.get("run_id")
        return
    settings.name = settings.name or str(root)
    settings.save_dir = str(root)
    settings.id = settings.id or before.get("wandb_id") or secrets.token_hex(4)


def remember_runs(loggers: Iterable[Logger], root: Path) -> None:
    """Keep what the run is called in the stores of others; to be called on one process alone.

    Args:
        loggers: of the trainer.
        root: the run's folder.
    """
    known = before = _known(root)
    for logger in loggers:
        if isinstance(logger, MLFlowLogger):
            uri = str(logger.experiment.tracking_uri)
            known = {**known, "tracking_uri": uri, "run_id": logger.run_id}
        elif type(logger).__name__ == "WandbLogger":
            known = {**known, "wandb_id": logger.version}
    if known != before:
        with written_whole(root / KNOWN) as path:
            write_json(path, known)


def _known(root: Path) -> dict[str, Any]:
    """What a run is called elsewhere; nothing where it has no file yet."""
    path = root / KNOWN
    return read_json(path) if path.is_file() else {}
