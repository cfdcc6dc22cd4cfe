from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from noduleforge.prepare.radiographs import prepare_chestxray14, prepare_jsrt

LINE = "{}.IMG\t4\t15\t60\tMale\t1024\t{}\tmalignant\tl.upper lobe\tlung cancer\n"


def test_jsrt_is_checked_and_indexed(tmp_path: Path) -> None:
    radiographs = tmp_path / "radiographs"
    radiographs.mkdir()
    rng = np.random.default_rng(0)
    density = rng.integers(0, 4096, (2048, 2048)).astype(">u2")
    for name in ("JPCLN001", "JPCLN002", "JPCNN001"):
        (radiographs / f"{name}.IMG").write_bytes(density.tobytes())
    (radiographs / "JPCNN002.IMG").write_bytes(density.tobytes()[:-2])
    (radiographs / "CLNDAT_EN.txt").write_text(
        LINE.format("JPCLN001", 800) + LINE.format("JPCLN154", 9)
    )
    prepare_jsrt(radiographs, tmp_path / "index", workers=1)
    index = pd.read_csv(tmp_path / "index/radiographs.csv", index_col="name")
    assert index["nodules"].to_dict() == {
        "JPCLN001": 1, "JPCLN002": 0, "JPCNN001": 0, "JPCNN002": 0,
    }  # fmt: skip
    assert index.loc["JPCLN001", ["subtlety", "size_mm", "x", "y", "width"]].tolist() == [
        4, 15, 1024, 800, 2048,
    ]  # fmt: skip
    report = (tmp_path / "index/report.csv").read_text()
    for what in (
        'JPCLN154,"is in CLNDAT_EN.txt, but its file is missing"',
        'JPCLN002,"shows a nodule by its name, but CLNDAT_EN.txt has no line of it"',
        'JPCLN,"2 radiographs, but JSRT has 154"',
        "8388606 bytes, expected 8388608",
    ):
        assert what in report
    with pytest.raises(FileNotFoundError, match=r"CLNDAT_EN.txt does not exist"):
        prepare_jsrt(tmp_path, tmp_path / "other")


def test_chestxray14_is_checked_and_indexed(radiographs: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in radiographs.rglob("*.png"))
    path = next(radiographs.rglob(names[0]))
    with Image.open(path) as picture:
        upright = picture.convert("L")
    upright.transpose(Image.Transpose.ROTATE_90).save(path)
    upright.resize((512, 512)).save(next(radiographs.rglob(names[1])))
    next(radiographs.rglob(names[2])).unlink()
    (radiographs / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
        f"{names[3]},Nodule,10,20,30,40,,,\n{names[2]},Nodule,10,20,30,40,,,\n"
    )
    before = {path: path.read_bytes() for path in radiographs.rglob("*") if path.is_file()}
    prepare_chestxray14(radiographs, tmp_path / "index", workers=1)
    index = pd.read_csv(tmp_path / "index/radiographs.csv", index_col="name")
    assert len(index) == len(names) - 1
    assert index.loc[names[0], "fault"] == "lies on its side"
    assert index.loc[names[1], "fault"].startswith("has 512 x 512 pixels")
    assert index["fault"].notna().sum() == 2
    assert index["nodules"][names[3]] == index["nodules"].sum() == 1
    report = (tmp_path / "index/report.csv").read_text()
    assert "1 of 20 images are not there" in report
    assert "1 of 2 boxes of nodules are without their image" in report
    assert {path: path.read_bytes() for path in radiographs.rglob("*") if path.is_file()} == before
