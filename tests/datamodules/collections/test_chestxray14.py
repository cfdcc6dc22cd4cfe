"""ChestX-ray14 in its own form, quirks included."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.path import Path as Line
from PIL import Image

from datamodules.batch import Roi
from datamodules.collections.chestxdet import filled, read_outlines
from datamodules.collections.chestxray14 import read_boxes, read_entries
from datamodules.radiographs import ChestXray14DataModule

ENTRIES = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n"
)
BOXES = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
FINDINGS = ("Nodule", "No Finding", "Mass|Nodule", "Effusion", "Nodule|Effusion", "No Finding")


def write_set(root: Path, turned: int | None = None) -> Path:
    """6 images of 3 patients, nodules on images 0, 2 and 4, in two folders and three modes."""
    y, x = np.mgrid[:1024, :1024] / 1024
    chest = 200 - 120 * sum(
        np.exp(-(((x - c) / 0.13) ** 4) - ((y - 0.45) / 0.28) ** 4) for c in (0.28, 0.72)
    )
    rows, boxes = "", ""
    for number, findings in enumerate(FINDINGS):
        name = f"0000000{number // 2}_00{number}.png"
        pixels = (chest - number).astype(np.uint8)
        if "Nodule" in findings:
            boxes += f"{name},Nodule,{100.5 + number},200,80,40\n"
            pixels[200:240, 100 + number : 180 + number] = 255
        boxes += f"{name},Effusion,1,2,3,4\n"
        pixels = np.rot90(pixels) if number == turned else pixels
        folder = root / f"images_00{1 + number % 2}" / "images"
        folder.mkdir(parents=True, exist_ok=True)
        mode = ("L", "RGBA", "RGB")[number % 3]
        Image.fromarray(np.ascontiguousarray(pixels)).convert(mode).save(folder / name)
        rows += f"{name},{findings},0,{number // 2},57,M,PA,2048,3072,0.14,0.13\n"
    rows += "00000099_000.png,Nodule,0,99,57,M,PA,2048,3072,0.14,0.13\n"
    boxes += "00000099_000.png,Nodule,10,10,20,20\n"
    (root / "Data_Entry_2017_v2020.csv").write_text(ENTRIES + rows)
    (root / "BBox_List_2017.csv").write_text(BOXES + boxes)
    return root


def module(root: Path, **settings: Any) -> ChestXray14DataModule:
    given = {"fractions": (0, 0, 1), "cache_dir": None, "roi": Roi(64, 0.39), **settings}
    data = ChestXray14DataModule(root, **given)
    data.setup()
    return data


def test_boxes_become_masks_at_the_images_own_spacing(tmp_path: Path) -> None:
    data = module(write_set(tmp_path), roi=Roi(128, 0.39)).datasets["test"]
    assert len(data) == 3  # the image of the fourth is not there
    item = data[0]
    # an image of 3072 x 2048 pixels of 0.13 x 0.14 mm, squeezed into 1024 x 1024
    np.testing.assert_allclose(item["spacing_mm"], 0.39)
    height, width = 40 * 0.13 * 3, 80 * 0.14 * 2
    area = float(item["mask"].sum()) * 0.39**2
    assert area == pytest.approx(np.pi / 4 * height * width, rel=0.03)
    columns = np.flatnonzero(item["mask"][0].numpy().any(0))
    rows = np.flatnonzero(item["mask"][0].numpy().any(1))
    assert np.ptp(columns) * 0.39 == pytest.approx(width, abs=1.2)
    assert np.ptp(rows) * 0.39 == pytest.approx(height, abs=1.2)
    assert float(item["image"][item["mask"] > 0].mean()) > 240
    assert item["patient_id"] == "0"


def test_normal_radiographs_have_neither_nodule_nor_mass(tmp_path: Path) -> None:
    data = module(write_set(tmp_path), content="normal", points_per_radiograph=1).datasets["test"]
    names = sorted(data[number]["name"] for number in range(len(data)))
    assert names == ["00000000_001-0", "00000001_003-0", "00000002_005-0"]


def test_patients_do_not_cross_and_official_lists_are_kept(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    (root / "test_list.txt").write_text("00000001_002.png\n00000001_003.png\n")
    data = module(root, fractions=(1, 0, 0))
    patients = {
        split: {data.datasets[split][i]["patient_id"] for i in range(len(data.datasets[split]))}
        for split in ("train", "test")
    }
    assert patients == {"train": {"0", "2"}, "test": {"1"}}


def test_an_official_list_that_parts_a_patient_is_refused(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    (root / "test_list.txt").write_text("00000001_003.png\n00000002_005.png\n")
    rows = (root / "BBox_List_2017.csv").read_text()
    (root / "BBox_List_2017.csv").write_text(rows + "00000001_003.png,Nodule,10,10,20,20\n")
    with pytest.raises(ValueError, match="Patient '1' is in both"):
        module(root, fractions=(1, 0, 0))
    with pytest.raises(ValueError, match=r"test_list\.txt says what the test split is"):
        module(root)


def test_images_on_their_side_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    root = write_set(tmp_path, turned=2)
    assert len(module(root).datasets["test"]) == 2
    told = caplog.text + " ".join(str(warning.message) for warning in recwarn)
    assert "1 image(s) lie on their side and are left out: 00000001_002.png" in told
    assert len(module(root, sideways="keep").datasets["test"]) == 3


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"BBox_List_2017.csv does not exist"):
        module(tmp_path)
    root = write_set(tmp_path)
    rows = (root / "Data_Entry_2017_v2020.csv").read_text()
    broken = rows.replace("2048,3072,0.14,0.13", "2048,3072,0,x", 1)
    (root / "Data_Entry_2017_v2020.csv").write_text(broken)
    with pytest.raises(ValueError, match=r"spacing_x of 00000000_000\.png is 0") as error:
        read_entries(root / "Data_Entry_2017_v2020.csv")
    assert "spacing_y of 00000000_000.png is 'x'" in str(error.value)
    (root / "Data_Entry_2017_v2020.csv").write_text(rows.replace("Patient ID", "Patient"))
    with pytest.raises(ValueError, match=r"lacks the column\(s\) Patient ID"):
        read_entries(root / "Data_Entry_2017_v2020.csv")
    (root / "BBox_List_2017.csv").write_text(BOXES + "a.png,Nodule,1000,10,80,20\n")
    with pytest.raises(ValueError, match=r"a box of a\.png is 1000"):
        read_boxes(root / "BBox_List_2017.csv")


def test_patients_are_text_without_blanks(tmp_path: Path) -> None:
    path = write_set(tmp_path) / "Data_Entry_2017_v2020.csv"
    text = path.read_text()
    path.write_text(text.replace(",0,0,57", ",0, 0\u00a0,57"))
    assert read_entries(path)["patient_id"].tolist() == ["0", "0", "1", "1", "2", "2", "99"]
    path.write_text(text.replace(",0,1,57", ",0,01,57", 1))
    with pytest.raises(ValueError, match="Patient ID '01' and '1' read the same"):
        read_entries(path)


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    path = root / "images_001" / "images" / "00000000_000.png"
    Image.open(path).resize((512, 512)).save(path)
    with pytest.raises(ValueError, match=r"00000000_000\.png has 512 x 512 pixels"):
        module(root)


@pytest.mark.skipif(
    "NODULE_DATA" not in os.environ, reason="NODULE_DATA is not set: no real radiographs"
)
def test_the_real_tables_and_radiographs() -> None:
    root = Path(os.environ["NODULE_DATA"]) / "chestxray14"
    boxes = read_boxes(root / "BBox_List_2017.csv")
    assert len(boxes) == 984
    assert (boxes["finding"] == "Nodule").sum() == 79
    data = module(root, content="normal", points_per_radiograph=1, fractions=(0.7, 0.1, 0.2))
    turned = set((root / "rotated.txt").read_text().split())
    for split in ("train", "val", "test"):
        dataset = data.datasets[split]
        for number in range(0, len(dataset), 5):
            item = dataset[number]
            assert item["name"][:-2] + ".png" not in turned
            assert item["image"].shape == (1, 64, 64)
            assert 0 <= float(item["image"].min()) < float(item["image"].max()) <= 255


TRIANGLE = [[400, 300], [460, 320], [420, 380]]
ON_A_BOX = [[120, 205], [150, 205], [150, 230], [120, 230]]


def write_outlines(root: Path) -> dict[str, Any]:
    """ChestX-Det's file: outlines on images 0 (over its box) and 3, and what is no nodule."""
    films = [
        {"file_name": "36199.png", "syms": [], "boxes": [], "polygons": []},
        {
            "file_name": "36200.png",
            "syms": ["Nodule", "Fibrosis"],
            "boxes": [[120, 205, 150, 230], [1, 2, 30, 40]],
            "polygons": [ON_A_BOX, [[1, 2], [30, 2], [30, 40]]],
        },
        {
            "file_name": "36201.png",
            "syms": ["Nodule"],
            "boxes": [[400, 300, 460, 380]],
            "polygons": [TRIANGLE],
        },
        {
            "file_name": "36202.png",
            "syms": ["Diffuse Nodule"],
            "boxes": [[400, 300, 460, 380]],
            "polygons": [TRIANGLE],
        },
    ]
    (root / "ChestX_Det_train.json").write_text(json.dumps(films))
    (root / "chestx_det.csv").write_text(
        "image,source_id\n36200.png,00000000_000.png\n36201.png,00000001_003.png\n"
        "36202.png,00000002_005.png\n"
    )
    return {"outlines": ["ChestX_Det_train.json"], "renamed": "chestx_det.csv"}


def test_outlines_are_masks_beside_the_boxes(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    data = module(root, roi=Roi(256, 0.39), **write_outlines(root)).datasets["test"]
    items = {data[number]["name"]: data[number] for number in range(len(data))}
    # of image 0 the outline alone, since it is the box's nodule
    names = ["00000000_000-0", "00000001_002-0", "00000001_003-0", "00000002_004-0"]
    assert sorted(items) == names
    assert items["00000001_003-0"]["patient_id"] == "1"
    y, x = np.mgrid[:1024, :1024]
    pixels = np.column_stack([x.ravel(), y.ravel()])
    for name, outline in (("00000000_000-0", ON_A_BOX), ("00000001_003-0", TRIANGLE)):
        inside = Line(outline).contains_points(pixels, radius=1e-6).sum()
        area = float(items[name]["mask"].sum()) * 0.39**2 / (0.14 * 2) / (0.13 * 3)
        assert area == pytest.approx(float(inside), rel=0.06)


def test_a_film_with_an_outline_is_no_normal_one(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    given = write_outlines(root)
    data = module(root, content="normal", points_per_radiograph=1, **given).datasets["test"]
    assert [data[number]["name"] for number in range(len(data))] == ["00000000_001-0"]


def test_a_filled_outline_is_what_another_library_fills() -> None:
    rng = np.random.default_rng(0)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
    radii = rng.uniform(15, 30, 12)
    outline = np.rint(np.column_stack([radii * np.cos(angles), radii * np.sin(angles)])) + 45
    y, x = np.mgrid[:100, :100]
    pixels = np.column_stack([x.ravel(), y.ravel()])
    inside = Line(outline).contains_points(pixels).reshape(100, 100)
    mask = filled([tuple(point) for point in outline.tolist()], (100, 100))
    differ = mask != inside
    assert not (inside & ~mask).any()  # the line is its own
    assert differ.sum() < 2 * np.linalg.norm(np.diff(outline, axis=0), axis=1).sum()


@pytest.mark.parametrize(
    ("film", "message"),
    [
        ({"syms": ["Nodule"], "boxes": [[0, 0, 1, 1]], "polygons": [[[0, 0], [5, 5]]]}, "no three"),
        ({"syms": ["Nodule"], "boxes": [[0, 0, 1, 1]], "polygons": []}, "of ChestX-Det's form"),
        (
            {"syms": ["Mass"], "boxes": [[0, 0, 1, 1]], "polygons": [[[0, 0], [5, 5], [0, 1024]]]},
            "leaves the 1024 x 1024 pixels",
        ),
        ({"boxes": []}, "of ChestX-Det's form"),
    ],
)
def test_faulty_outlines_are_named(film: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "o.json"
    path.write_text(json.dumps([{"file_name": "36199.png", **film}]))
    with pytest.raises(ValueError, match=message) as told:
        read_outlines(path, {}, 1024)
    assert "36199.png" in str(told.value)
