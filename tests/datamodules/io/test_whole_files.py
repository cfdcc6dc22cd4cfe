"""Files are whole or not there, and what killed processes left is removed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.io.whole_files import remove_leftovers, written_whole


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep/table.csv"
    with written_whole(path) as temporary:
        temporary.write_text("old")

    def fail() -> None:
        with written_whole(path) as temporary:
            temporary.write_text("n")
            message = "full"
            raise OSError(message)

    with pytest.raises(OSError, match="full"):
        fail()
    assert path.read_text() == "old"
    assert [file.name for file in path.parent.iterdir()] == ["table.csv"]


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", "pass"])
    killed.wait()
    left = [f".{killed.pid}-last.ckpt", f"deep/.{killed.pid}-a.nii.gz", f".{os.getpid()}-b.csv"]
    kept = [f".{os.getppid()}-last.ckpt", ".hidden-file", "7-nodules.csv", ".9x-c"]
    for name in (*left, *kept):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    found = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert found == {*kept}
    remove_leftovers(tmp_path / "absent")
