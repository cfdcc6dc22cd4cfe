"""The network as a reader: it sees noise, is fooled by copies, and is marked."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from reader_studies import synthetic_of

from datamodules.io.volumes import Volume, read_volume, write_volume
from noduleforge.cli import main
from noduleforge.readers.answers import MACHINE, Answers


def brighter(store: Path, root: Path) -> Path:
    """The same nodules with bright surroundings."""
    shutil.copytree(store, root)
    table = pd.read_csv(root / "nodules.csv", dtype=str)
    for name in table["image"]:
        image = read_volume(root / name)
        grid = (image.spacing_mm, image.origin_mm, image.direction)
        write_volume(root / name, Volume(image.array + 300, *grid))
    table["nodule_id"] = "synthetic-" + table["nodule_id"]
    table.to_csv(root / "nodules.csv", index=False)
    return root


@pytest.fixture
def flat_store(tmp_path: Path, write_store) -> Path:  # noqa: ANN001
    return write_store(tmp_path / "flat", 2)


def test_the_command(flat_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unlike = brighter(flat_store, tmp_path / "unlike")
    alike = synthetic_of(flat_store, tmp_path / "alike")
    sets = ["--real", str(flat_store), "--synthetic", str(unlike)]
    study = str(tmp_path / "study")
    main(["readers", "new", *sets, "--out", study, "--tasks", "[real, pairs]", "--cases", "6"])
    main(["readers", "machine", study, *sets, "--baselines", f"[{alike}]"])
    table = pd.read_csv(tmp_path / "study/machine.csv").set_index("set")
    assert table.loc["synthetic", "auc"] > 0.9
    assert table.loc["synthetic", "pairs"] == 30
    assert table.loc[str(alike), "auc"] < 0.8
    assert (tmp_path / "study/machine.png").stat().st_size > 5_000
    given = Answers(tmp_path / "study").all()
    assert {one.reader for one in given} == {MACHINE}
    assert len(given) == 12 + 2 + 6 + 2
    capsys.readouterr()
    main(["readers", "report", study])
    assert "machine (no person)" in capsys.readouterr().out
    figures = pd.read_csv(tmp_path / "study/report/figures.csv")
    assert figures.query("figure == 'AUC' and group == 'all'")["value"].iloc[0] > 0.9
    with pytest.raises(SystemExit):
        main(["readers", "machine", study, *sets, "--weights", str(tmp_path / "absent.pth")])
    assert "absent.pth are not a file" in capsys.readouterr().err
