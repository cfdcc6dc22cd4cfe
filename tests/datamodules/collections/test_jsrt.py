"""JSRT's files, written here in exactly the form that they are shipped in."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.batch import Roi
from datamodules.collections.jsrt import read_table
from datamodules.radiographs import JSRTDataModule

LINES = (
    "JPCLN001.IMG\t5\t15\t53\tMale\t1634\t692\tmalignant\tl.upper lobe\tlung cancer",
    "",
    "JPCLN002.IMG\t1\t30\t\tFemale\t600\t1200\tbenign\tr.lower lobe\t",
    "JPCLN003.IMG\t3\t8\t?\tFemale\t1500\t1000\tmalignant\tl.hilum\tmetastasis",
)


def write_radiographs(root: Path, lines: tuple[str, ...] = LINES) -> Path:
    """Radiographs of one grey, brighter (less dense) in each nodule; 2 radiographs without."""
    root.mkdir(exist_ok=True)
    (root / "CLNDAT_EN.txt").write_bytes("\r\n".join(lines).encode("latin-1"))
    places = {
        "JPCLN001": (1634, 692, 43),
        "JPCLN002": (600, 1200, 86),
        "JPCLN003": (1500, 1000, 23),
    }
    y, x = np.ogrid[:2048, :2048]
    for folder, names in (
        ("Nodule154images", places),
        ("NonNodule93images", ("JPCNN001", "JPCNN002")),
    ):
        (root / folder).mkdir(exist_ok=True)
        for name in names:
            density = np.full((2048, 2048), 3000, ">u2")
            if name in places:
                column, row, radius = places[name]
                density[(x - column) ** 2 + (y - row) ** 2 <= radius**2] = 2000
            density.tofile(root / folder / f"{name}.IMG")
    return root


def module(root: Path, **settings: Any) -> JSRTDataModule:
    data = JSRTDataModule(
        root, **{"roi": Roi(32), "fractions": (0, 0, 1), "cache_dir": None, **settings}
    )
    data.setup()
    return data


def test_the_table_is_read_with_its_gaps(tmp_path: Path) -> None:
    table = read_table(write_radiographs(tmp_path) / "CLNDAT_EN.txt")
    assert table["name"].tolist() == ["JPCLN001", "JPCLN002", "JPCLN003"]
    assert table["subtlety"].tolist() == [5, 1, 3]
    assert table["size_mm"].tolist() == [15, 30, 8]
    np.testing.assert_array_equal(table["age"], [53, np.nan, np.nan])
    np.testing.assert_array_equal(table["malignant"], [1, 0, 1])
    assert table["x"].tolist() == [1634, 600, 1500]
    assert "sex" not in table
    assert "diagnosis" not in table


def test_a_nodule_lies_where_and_as_large_as_the_table_says(tmp_path: Path) -> None:
    data = module(write_radiographs(tmp_path), roi=Roi(100, 0.35)).datasets["test"]
    for number, (size_mm, subtlety) in enumerate([(15, 5), (30, 1), (8, 3)]):
        item = data[number]
        inside = item["mask"] > 0
        assert float(item["attributes"]["diameter_mm"]) == pytest.approx(size_mm, rel=0.02)
        assert float(inside.sum() * 0.35**2) == pytest.approx(np.pi * size_mm**2 / 4, rel=0.03)
        assert float(item["attributes"]["subtlety"]) == subtlety
        # brighter inside: the radiograph was turned round; edges are between
        assert item["image"][inside].mean() > 2050
        assert float(item["image"].min()) == pytest.approx(4095 - 3000, abs=1)
        middle = np.argwhere(inside[0].numpy()).mean(0)
        np.testing.assert_allclose(middle, [50, 50], atol=0.6)
        assert item["name"] == f"JPCLN00{number + 1}"


def test_normal_patches_come_from_radiographs_without_a_nodule(tmp_path: Path) -> None:
    data = module(write_radiographs(tmp_path), content="normal", points_per_radiograph=3).datasets[
        "test"
    ]
    assert len(data) == 6
    names = [data[number]["name"] for number in range(6)]
    assert names[0] == "JPCNN001-0"
    assert len(set(names)) == 6
    assert all(not data[number]["mask"].any() for number in range(6))
    origins = {tuple(data[number]["origin_mm"].tolist()) for number in range(6)}
    assert len(origins) == 6
    assert data[0]["attributes"]["subtlety"].isnan()
    assert data[0]["attributes"]["diameter_mm"].isnan()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("JPCLN004.IMG\t7\t15\t53\tMale\t1\t1\tbenign\tx\ty", "line 1: subtlety is '7'"),
        ("JPCLN004.IMG\t5\tbig\t53\tMale\t1\t1\tbenign\tx\ty", "size_mm is 'big'"),
        ("JPCLN004.IMG\t5\t15\t53\tMale\t1\t4000\tbenign\tx\ty", "y is '4000'"),
        ("JPCLN004.IMG\t5\t15", "x is ''"),
        ("notes.txt\t5\t15\t53\tMale\t1\t1\tbenign\tx\ty", "no name such as JPCLN001.IMG"),
    ],
)
def test_lines_that_make_no_sense_are_named(tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "CLNDAT_EN.txt").write_text(line)
    with pytest.raises(ValueError, match=told):
        read_table(tmp_path / "CLNDAT_EN.txt")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"CLNDAT_EN\.txt does not exist"):
        module(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no JPCNN\*.IMG"):
        module(tmp_path, content="normal")
    (write_radiographs(tmp_path) / "Nodule154images" / "JPCLN002.IMG").unlink()
    with pytest.raises(ValueError, match=r"JPCLN002.IMG does not exist"):
        module(tmp_path)
