"""The log goes on where the run goes on."""

from pathlib import Path

import pandas as pd

from lightning_modules.csv_logger import ResumableCSVLogger


def test_rows_and_columns_are_kept_as_they_come(tmp_path: Path) -> None:
    logger = ResumableCSVLogger(tmp_path / "run/metrics.csv", every_n_rows=2)
    for step in range(5):
        logger.log_metrics({"loss": 1.0 / (step + 1), **({"val": 2.0} if step == 3 else {})}, step)
    assert len(pd.read_csv(logger.path)) == 4
    logger.finalize("success")
    table = pd.read_csv(logger.path)
    assert list(table["step"]) == [0, 1, 2, 3, 4]
    assert list(table["val"].dropna()) == [2.0]
    assert logger.save_dir == str(tmp_path / "run")


def test_a_resumed_run_replaces_what_it_logs_again(tmp_path: Path) -> None:
    """Killed at step 7 after a checkpoint at step 4: steps 4 to 6 are logged again."""
    path = tmp_path / "metrics.csv"
    first, second = ResumableCSVLogger(path, 1), ResumableCSVLogger(path, 1)
    for step in range(7):
        first.log_metrics({"loss": float(step)}, step)
    for step in range(4, 9):
        second.log_metrics({"loss": step + 100.0, "new": 1.0}, step)
    table = pd.read_csv(path)
    assert list(table["step"]) == list(range(9))
    assert list(table["loss"]) == [0, 1, 2, 3, 104, 105, 106, 107, 108]
    assert table["new"].count() == 5


def test_a_run_that_starts_anew_starts_the_log_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    for value in (1.0, 2.0):
        ResumableCSVLogger(path, 1).log_metrics({"loss": value}, 0)
    assert list(pd.read_csv(path)["loss"]) == [2.0]
