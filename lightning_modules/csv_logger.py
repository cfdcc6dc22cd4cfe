"""What a run logs, in one table that goes on where the run goes on."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from datamodules.io.whole_files import written_whole


class ResumableCSVLogger(Logger):
    """Writes metrics to a CSV file, one logging step a row.

    A run that resumes goes on in the same file: what an earlier process logged after the checkpoint
    is replaced by what is logged now.

    Args:
        path: the file.
        every_n_rows: after how many rows it is written.
    """

    def __init__(self, path: Path, every_n_rows: int = 20) -> None:
        super().__init__()
        self.path, self.every_n_rows = Path(path), every_n_rows
        self.rows: list[dict[str, Any]] = []
        self._begun = False

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def version(self) -> str:
        """None: there is one file."""
        return ""

    @property
    def save_dir(self) -> str:
        """The file's folder."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Nothing: the run's config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add a row."""
        self.rows.append({"step": step, **{name: float(v) for name, v in metrics.items()}})
        if len(self.rows) >= self.every_n_rows:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Write what is new."""
        if not self.rows:
            return
        import pandas as pd

        table = pd.DataFrame(self.rows)
        if self.path.is_file():
            before = pd.read_csv(self.path, low_memory=False)
            if not self._begun:
                before = before[before["step"] < table["step"].iloc[0]]
            table = pd.concat([before, table], ignore_index=True)
        with written_whole(self.path) as temporary:
            table.to_csv(temporary, index=False)
        self.rows, self._begun = [], True

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()
