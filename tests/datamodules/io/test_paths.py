import os
from pathlib import Path

import pytest

from datamodules.io.paths import name_of, path_from, real_path


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("1.3.6.1.4.1.100.mha", "1.3.6.1.4.1.100"),
        ("1.3.6.1.4.1.100", "1.3.6.1.4.1.100"),
        ("folder/case.001.nii.gz", "case.001"),
        ("CASE.NII.GZ", "CASE"),
        ("JPCLN001.IMG", "JPCLN001"),
        ("a.b", "a.b"),
    ],
)
def test_a_name_is_whole_but_for_an_ending(path: str, name: str) -> None:
    assert name_of(Path(path)) == name


def test_a_working_directory_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "1.2.3/inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "1.2.3")
    assert name_of(Path()) == name_of(Path("inner/..")) == "1.2.3"


def test_one_file_has_one_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0001").mkdir()
    (tmp_path / "link").symlink_to("0001")
    monkeypatch.chdir(tmp_path)
    spellings = ["0001", "./0001", "0001/", "link", "0001/../0001", str(tmp_path / "0001")]
    assert len({real_path(Path(one)) for one in spellings}) == 1
    assert real_path(Path("1")) != real_path(Path("0001"))


def test_paths_between_folders_hold_through_links(tmp_path: Path) -> None:
    """The folder lies deeper than its link, the file behind another link."""
    (tmp_path / "far/away/out").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "far/away/out")
    (tmp_path / "archive/deep").mkdir(parents=True)
    (tmp_path / "archive/deep/study.mha").write_text("this one")
    (tmp_path / "studies").symlink_to(tmp_path / "archive/deep")
    (tmp_path / "named.mha").symlink_to(tmp_path / "archive/deep/study.mha")
    for file in ("studies/study.mha", "named.mha", "studies/../deep/study.mha"):
        path = path_from(tmp_path / "out", tmp_path / file)
        assert (tmp_path / "out" / path).read_text() == "this one"
        assert Path(path).name == Path(file).name
    assert path_from(tmp_path / "out", tmp_path / "named.mha") == "../../../named.mha"
    # not made yet
    assert path_from(tmp_path / "new", tmp_path / "named.mha") == os.path.join("..", "named.mha")
