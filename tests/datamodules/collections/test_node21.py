"""NODE21 in its own form."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.batch import Roi
from datamodules.collections.node21 import Node21Collection
from datamodules.io.volumes import Volume, write_volume
from datamodules.radiographs import Node21DataModule

SOURCES = {"n0001": "jsrt", "n0002": "chestxray14", "n0003": "padchest", "n0004": "openi"}
NORMAL = {"c0001": "jsrt", "c0002": "chestxray14", "c0003": "padchest", "c0004": "openi"}


def write_set(root: Path) -> Path:
    """8 radiographs, half of them with nodules, of all four sources."""
    rng = np.random.default_rng(0)
    rows = "img_name,label,x,y,width,height\n"
    for name in (*SOURCES, *NORMAL):
        pixels = rng.integers(50, 200, (256, 256)).astype(np.int16)
        if name == "n0003":
            rows += f"{name}.mha,1,40,50,20,30\n{name}.mha,1,140,150,10,10\n"
            pixels[50:80, 40:60] = 255
        elif name in SOURCES:
            rows += f"{name}.mha,1,40,50,20,30\n"
        else:
            rows += f"{name}.mha,0,0,0,0,0\n"
        volume = Volume(pixels, (0.7, 0.7), (0.0, 0.0), np.eye(2))
        write_volume(root / f"proccessed_data/images/{name}.mha", volume)
    (root / "proccessed_data/metadata.csv").write_text(rows)
    (root / "original_data").mkdir()
    for names, file in ((SOURCES, ""), (NORMAL, "non_nodule_")):
        lines = "".join(f"x,{name},{source}\n" for name, source in names.items())
        path = root / f"original_data/{file}filenames_orig_and_new.csv"
        path.write_text(f"orig_img_name,node21_img_id,orig_dataset\n{lines}")
    return root


def module(root: Path, **settings: Any) -> Node21DataModule:
    given = {"fractions": (0, 0, 1), "cache_dir": None, "roi": Roi(64, 0.7), **settings}
    data = Node21DataModule(root, **given)
    data.setup()
    return data


def test_boxes_are_masks_and_other_collections_films_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        data = module(write_set(tmp_path)).datasets["test"]
    items = {data[number]["name"]: data[number] for number in range(len(data))}
    assert sorted(items) == ["n0003-0", "n0003-1", "n0004-0"]
    assert "2 of jsrt, 2 of chestxray14" in caplog.text
    item = items["n0003-0"]
    assert item["patient_id"] == "n0003"
    assert float(item["mask"].sum()) == pytest.approx(np.pi / 4 * 20 * 30, rel=0.05)
    assert float(item["image"][item["mask"] > 0].mean()) > 250
    normal = module(tmp_path, content="normal", points_per_radiograph=1).datasets["test"]
    assert [normal[number]["name"] for number in range(len(normal))] == ["c0003-0", "c0004-0"]


def test_patients_that_are_known_do_not_cross(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    (root / "who.csv").write_text("img_name,patient_id\nn0003.mha,A\nn0004.mha,A\n")
    table = Node21Collection(root, patients="who.csv").nodules()
    assert set(table["patient_id"]) == {"A"}
    with pytest.raises(ValueError, match="does not say whose c0003, c0004 are"):
        Node21Collection(root, patients="who.csv").normal_radiographs()


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    path = root / "proccessed_data/metadata.csv"
    right = path.read_text()
    for line, message in (
        ("n0004.mha,1,250,50,20,30\n", "leaves its 256 x 256 pixels"),
        ("n0004.mha,1,40,50,20,30\n", "repeats a line before"),
        ("n0004.mha,0,0,0,0,0\n", "listed both with and without"),
        ("n0004.mha,1,40,50,0,30\n", "no width or height"),
        ("n0004.mha,2,40,50,1,30\n", "expected 1 or 0"),
        ("n0004.mha,1,x,50,1,30\n", "give a number"),
        ("n0009.mha,1,40,50,1,30\n", "lists of sources do not name n0009"),
    ):
        path.write_text(right + line)
        with pytest.raises(ValueError, match=message):
            Node21Collection(root).nodules()
    path.write_text(right)
    for list_of_sources in root.rglob("*orig_and_new.csv"):
        list_of_sources.unlink()
    with pytest.raises(FileNotFoundError, match="has no list of sources"):
        Node21Collection(root).nodules()
