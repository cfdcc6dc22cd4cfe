from pathlib import Path

import pytest

from datamodules.io.paths import real_path
from noduleforge.known_nodules import nodules_there

HEADER = "study,x_mm,y_mm,z_mm,diameter_mm\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tables").mkdir()
    (tmp_path / "0001").mkdir()
    (tmp_path / "study.nii.gz").write_text("")
    (tmp_path / "tables/link").symlink_to(tmp_path / "0001")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "study"),
    [
        ("0001", "0001"),
        ("./0001/", "0001"),
        (" 0001\u00a0", "0001"),
        ("../0001", "0001"),
        ("link", "0001"),
        ("./study.nii.gz", "study.nii.gz"),
        ("{folder}/study.nii.gz", "study.nii.gz"),
    ],
)
def test_a_row_is_of_the_study_that_its_path_leads_to(
    text: str, study: str, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    path = folder / "tables/there.csv"
    path.write_text(HEADER + f"{text.format(folder=folder)},1,2,3,10\n")
    studies = [Path("0001"), folder / "study.nii.gz"]
    found = nodules_there(path, studies)
    assert [len(found[real_path(one)]) for one in studies] == [one.name == study for one in studies]
    ((point, radius),) = found[real_path(Path(study))]
    assert (point.tolist(), radius) == ([1, 2, 3], 5)
    assert not capsys.readouterr().out


def test_rows_of_no_study_are_reported(folder: Path, capsys: pytest.CaptureFixture) -> None:
    path = folder / "there.csv"
    path.write_text(HEADER + "1,1,2,3,10\n0001,1,2,3,10\n,1,2,3,10\nother,1,2,3,10\n")
    found = nodules_there(path, [Path("0001")])
    assert len(found[real_path(Path("0001"))]) == 1
    told = capsys.readouterr().out
    assert (
        "3 of 4 row(s) are of no study that is given, and were not avoided: 1, (empty), other"
        in told
    )


@pytest.mark.parametrize("cells", ["1,2,three,10", "1,2,,10", "1,2,3,0", "1,2,inf,10"])
def test_what_is_no_number_is_refused(cells: str, folder: Path) -> None:
    path = folder / "there.csv"
    path.write_text(HEADER + f"0001,1,2,3,4\n0001,{cells}\n")
    with pytest.raises(ValueError, match=r"there.csv: line 3 has x_mm 1.*: give numbers"):
        nodules_there(path, [Path("0001")])
