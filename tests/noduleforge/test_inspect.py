import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.io.volumes import Volume, read_volume, write_volume
from noduleforge.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from dicom import write_series


def test_a_store_is_counted_and_drawn(store: Path, capsys: pytest.CaptureFixture) -> None:
    main(["inspect", str(store)])
    told = capsys.readouterr().out
    assert "30 rows, 30 nodules of 15 patients can be read (2.0 a patient, at most 2)" in told
    assert "| solid | 10 | 10 |" in told
    assert "0 fault(s)" in told
    found = pd.read_csv(store / "inspect/inspected.csv", index_col="nodule_id")
    table = pd.read_csv(store / "nodules.csv", index_col="nodule_id")
    assert (found["subtype"] == table["subtype"]).all()
    for name in ("n0", "n17"):
        image, mask = (read_volume(store / table.loc[name, kind]) for kind in ("image", "mask"))
        inside = image.array[mask.array > 0]
        assert found.loc[name, "mean_hu"] == pytest.approx(inside.mean())
        assert found.loc[name, "diameter_mm"] == pytest.approx((6 * inside.size / np.pi) ** (1 / 3))
    for picture in ("overview.png", "contact_sheet.png"):
        assert (store / "inspect" / picture).stat().st_size > 10_000


def test_rows_that_are_left_out_are_counted(store: Path) -> None:
    words = ["inspect", str(store), "--select", "subtlety > 4"]
    done = subprocess.run(
        [sys.executable, "-m", "noduleforge.cli", *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert "'subtlety > 4' leaves out 24 of 30 rows" in done.stderr


def test_everything_that_is_wrong_is_listed(store: Path, tmp_path: Path) -> None:
    def change(kind: str, name: str, array: np.ndarray, shift: float = 0.0) -> None:
        path = store / f"{kind}s/{name}.mha"
        old = read_volume(path)
        origin = (old.origin_mm[0] + shift, *old.origin_mm[1:])
        write_volume(path, Volume(array, old.spacing_mm, origin, old.direction))

    def read(kind: str, name: str) -> np.ndarray:
        return read_volume(store / f"{kind}s/{name}.mha").array

    change("mask", "n0", np.zeros_like(read("mask", "n0")))
    change("mask", "n1", read("mask", "n1"), shift=3.0)
    change("image", "n2", (read("image", "n2") - read("image", "n2").min()).astype(np.int16))
    (store / "images/n3.mha").unlink()
    (store / "images/n4.mha").write_bytes((store / "images/n4.mha").read_bytes()[:400])
    two = read("mask", "n5")
    two[0, 0, 0] = 2
    change("mask", "n5", two)
    edge = np.zeros_like(two)
    edge[0, :3, :3] = 1
    change("mask", "n6", edge)
    change("image", "n10", read("image", "n9"))  # of another patient
    main(["inspect", str(store), "--out", str(tmp_path / "seen")])
    faults = pd.read_csv(tmp_path / "seen/faults.csv").groupby("nodule_id")["fault"].agg(" ".join)
    for name, what in {
        "n0": "is empty",
        "n1": "lies on another grid",
        "n2": "expected Hounsfield units",
        "n3": "does not exist",
        "n4": "cut short",
        "n5": "several labels",
        "n6": "touches the edge of its image",
        "n9": "has the same image as a nodule of another patient (n9, n10)",
    }.items():
        assert what in faults[name]
    assert "is as dark as lung" in faults["n6"]
    assert set(faults.index) == {f"n{k}" for k in (0, 1, 2, 3, 4, 5, 6, 9)}


def test_series_in_folders_are_read(store: Path, tmp_path: Path) -> None:
    table = pd.read_csv(store / "nodules.csv", dtype=str)
    for row in table[:2].itertuples():
        write_series(store / f"dicom/{row.nodule_id}", read_volume(store / row.image), "p", "1.2")
    table.loc[:1, "image"] = [f"dicom/{name}" for name in table["nodule_id"][:2]]
    main(["inspect", str(store), "--out", str(tmp_path / "before")])
    table.to_csv(store / "nodules.csv", index=False)
    main(["inspect", str(store), "--out", str(tmp_path / "after")])
    before, after = (
        (tmp_path / name / "inspected.csv").read_text() for name in ("before", "after")
    )
    assert before == after


def test_nothing_readable_is_one_line(store: Path, capsys: pytest.CaptureFixture) -> None:
    for path in (store / "images").iterdir():
        path.unlink()
    with pytest.raises(SystemExit):
        main(["inspect", str(store)])
    assert "Not one nodule of" in capsys.readouterr().err.splitlines()[-1]
