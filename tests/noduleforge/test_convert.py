"""Sets for nnU-Net and MONAI, read back by MONAI itself and by `prepare nnunet`."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from monai.apps.detection.transforms.dictionary import (
    AffineBoxToImageCoordinated,
    ConvertBoxToStandardModed,
    StandardizeEmptyBoxd,
)
from monai.data import load_decathlon_datalist
from monai.transforms import Compose, EnsureChannelFirstd, EnsureTyped, LoadImaged

from datamodules.io.volumes import Volume, read_volume, write_volume
from noduleforge.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from dicom import write_series
from printed import printed

ORIGIN = (-20.0, -15.0, 100.0)
DIRECTIONS = {"a": np.eye(3), "b": np.diag([-1.0, -1.0, 1.0])}
BOXES = {
    "a1": (slice(2, 6), slice(5, 11), slice(7, 16)),
    "a2": (slice(9, 12), slice(20, 26), slice(20, 30)),
    "b1": (slice(3, 8), slice(9, 15), slice(22, 30)),
    "b2": (slice(10, 12), slice(3, 6), slice(3, 6)),
}


@pytest.fixture
def inserted(tmp_path: Path) -> Path:
    """Whole studies with synthetic nodules: one a NIfTI file, one DICOM; a request that failed."""
    root = tmp_path / "inserted"
    rows = []
    for number, (study, direction) in enumerate(DIRECTIONS.items()):
        hu = np.random.default_rng(number).integers(-1000, 100, (14, 30, 36)).astype(np.int16)
        volume = Volume(hu, (2.5, 0.8, 0.7), ORIGIN, direction)
        image = f"studies/{study}.nii.gz"
        if study == "b":
            image = "studies/b"
            write_series(root / image, volume, "SYN", "1.2.3")
        else:
            write_volume(root / image, volume)
        for name in (name for name in BOXES if name[0] == study):
            inside = np.zeros(hu.shape, np.uint8)
            inside[BOXES[name]] = 1
            mask = Volume(inside, volume.spacing_mm, ORIGIN, direction)
            write_volume(root / f"masks/{name}.nii.gz", mask)
            subtype = "none" if name == "b2" else "solid"
            rows.append((name, f"P{study}", image, f"masks/{name}.nii.gz", subtype, "inserted"))
    rows.append(("c1", "", "", "", "", "failed"))
    columns = ["nodule_id", "patient_id", "image", "mask", "subtype", "status"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "nodules.csv", index=False)
    (root / "generator.json").write_text("{}")
    return root


@pytest.fixture
def converted(inserted: Path, tmp_path: Path) -> Path:
    out = tmp_path / "Dataset501_Nodules"
    main(printed("convert", **{"runs/inserted": inserted, "out": out}))
    return out


def test_nnunets_folders(converted: Path, inserted: Path) -> None:
    facts = json.loads((converted / "dataset.json").read_text())
    assert facts["channel_names"] == {"0": "CT"}
    assert facts["labels"] == {"background": 0, "nodule": 1}
    assert (facts["numTraining"], facts["file_ending"]) == (2, ".nii.gz")
    assert "synthetic" in facts["description"]
    expected = {"a": ["a1", "a2"], "b": ["b1"]}  # what was erased is no nodule
    for study, nodules in expected.items():
        image = read_volume(converted / f"imagesTr/{study}_0000.nii.gz")
        labels = read_volume(converted / f"labelsTr/{study}.nii.gz")
        assert labels.grid.matches(image.grid)
        masks = [read_volume(inserted / f"masks/{name}.nii.gz") for name in nodules]
        np.testing.assert_array_equal(labels.array, sum(mask.array for mask in masks))
        assert image.grid.matches(masks[0].grid)
    given = read_volume(inserted / "studies/a.nii.gz").array
    np.testing.assert_array_equal(read_volume(converted / "imagesTr/a_0000.nii.gz").array, given)
    splits = json.loads((converted / "splits_final.json").read_text())
    assert sorted(tuple(split["val"]) for split in splits) == [("a",), ("b",)]
    assert all(set(split["train"]) | set(split["val"]) == {"a", "b"} for split in splits)


@pytest.mark.filterwarnings("ignore:NvImgCodec")
def test_monais_detection_finds_the_boxes_where_the_masks_are(converted: Path) -> None:
    """By the transforms of MONAI's own detection of lung nodules."""
    path = str(converted / "datalist_0.json")
    listed = [
        item
        for part in ("training", "validation")
        for item in load_decathlon_datalist(path, True, part, str(converted))
    ]
    read = Compose(
        [
            LoadImaged("image", reader="NibabelReader"),
            EnsureChannelFirstd("image"),
            EnsureTyped(["image", "box"], dtype=torch.float32),
            StandardizeEmptyBoxd("box", box_ref_image_keys="image"),
            ConvertBoxToStandardModed("box", mode="cccwhd"),
            AffineBoxToImageCoordinated("box", box_ref_image_keys="image", affine_lps_to_ras=True),
        ]
    )
    items = {Path(item["image"]).name[0]: read(item) for item in listed}
    assert sorted(items) == ["a", "b"]
    expected = {"a": ["a1", "a2"], "b": ["b1"]}
    for study, nodules in expected.items():
        assert list(items[study]["label"]) == [0] * len(nodules)
        for box, name in zip(np.asarray(items[study]["box"]), nodules, strict=True):
            z, y, x = BOXES[name]
            # MONAI's voxels have their middles at whole numbers
            low = [axis.start - 0.5 for axis in (x, y, z)]
            high = [axis.stop - 0.5 for axis in (x, y, z)]
            np.testing.assert_allclose(box, [*low, *high], atol=1e-3)


def test_patches_come_back_through_nnunets_layout(store: Path, tmp_path: Path) -> None:
    out, back = tmp_path / "Dataset502_Patches", tmp_path / "back"
    places = {"runs/quickstart/synthetic": store, "out": out}
    main(printed("convert --root runs/quickstart", **places))
    given = pd.read_csv(store / "nodules.csv", dtype=str)
    images = given["image"].map(lambda image: Path(image).name.split(".")[0])
    owners = dict(zip(images, given["patient_id"], strict=True))
    folds = json.loads((out / "splits_final.json").read_text())
    assert len(folds) == 5
    for fold in folds:
        train, val = ({owners[name] for name in fold[part]} for part in ("train", "val"))
        assert train
        assert val
        assert not train & val
    command = f"prepare nnunet --root {out} --out {back} --separate labels --whole true"
    main(command.split())
    assert len(pd.read_csv(back / "nodules.csv")) == len(given)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--out {tmp}/synthetic", "nnU-Net wants a name such as Dataset501_Nodules"),
        ("--out {tmp}/Dataset501_Nodules --folds 1", "folds is 1: give at least 2"),
        ("--out {tmp}/Dataset501_Nodules --root {tmp}/no", "does not exist"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = words.format(tmp=tmp_path).split()
    root = [] if "--root" in options else ["--root", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main(["convert", *root, *options])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "Dataset501_Nodules").exists()
