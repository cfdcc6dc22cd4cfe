"""nnU-Net's layout in all its versions."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from datamodules.batch import Roi
from datamodules.io.volumes import Volume, read_volume, write_volume
from datamodules.lidc import LIDCDataModule
from noduleforge.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from printed import printed

TWO = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "nodule": 1},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}
ONE = {
    "modality": {"0": "CT"},
    "labels": {"0": "background", "1": "nodule"},
    "numTraining": 2,
    "training": [
        {"image": f"./imagesTr/lung_00{n}.nii.gz", "label": f"./labelsTr/lung_00{n}.nii.gz"}
        for n in (1, 2)
    ],
}
LISTED = {
    **TWO,
    "dataset": {
        f"lung_00{n}": {
            "images": [f"imagesTr/lung_00{n}_0000.nii.gz"],
            "label": f"labelsTr/lung_00{n}.nii.gz",
        }
        for n in (1, 2)
    },
}


def write(root: Path, facts: dict[str, Any], numbered: bool = True) -> None:
    """Two cases with two nodules each, and an image without a label map."""
    for n in (1, 2, 3):
        rng = np.random.default_rng(n)
        hu = rng.integers(-1000, 100, (12, 24, 24)).astype(np.int16)
        labels = np.zeros(hu.shape, np.uint8)
        labels[2:5, 3:8, 3:8] = labels[7:10, 14:20, 14:20] = 1
        grid = ((2.0, 0.8, 0.8), (1.0, -2.0, 3.0), np.eye(3))
        name = f"lung_00{n}"
        ending = "_0000.nii.gz" if numbered else ".nii.gz"
        write_volume(root / f"imagesTr/{name}{ending}", Volume(hu, *grid))
        if n < 3:
            write_volume(root / f"labelsTr/{name}.nii.gz", Volume(labels, *grid))
    (root / "dataset.json").write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("facts", "numbered"),
    [(TWO, True), (LISTED, True), (ONE, True), (ONE, False)],
    ids=["version 2", "version 2 with a list", "version 1", "decathlon"],
)
def test_every_version(facts: dict[str, Any], numbered: bool, tmp_path: Path) -> None:
    root, out = tmp_path / "Dataset100_Lung", tmp_path / "out"
    write(root, facts, numbered)
    command = printed("prepare nnunet", **{"nnUNet_raw/Dataset100_Lung": root, "out": out})
    main([*command, "--whole", "true", "--workers", "1"])
    table = pd.read_csv(out / "nodules.csv")
    assert table["patient_id"].tolist() == ["lung_001"] * 2 + ["lung_002"] * 2
    masks = [read_volume(out / name).array > 0 for name in table["mask"][:2]]
    assert [int(mask.sum()) for mask in masks] == [75, 108]
    assert ("has no label map" in (out / "report.csv").read_text()) == numbered
    image = read_volume(out / table["image"][0])
    given = next((root / "imagesTr").glob("lung_001*"))
    np.testing.assert_array_equal(image.array, read_volume(given).array)


def test_what_it_makes_is_trained_on(tmp_path: Path) -> None:
    root, out = tmp_path / "given", tmp_path / "out"
    write(root, TWO)
    (root / "patients.csv").write_text("case,patient_id\nlung_001,A\nlung_002,A\n")
    command = f"prepare nnunet --root {root} --out {out} --patients {root}/patients.csv --size 16"
    main([*command.split(), "--workers", "1"])
    assert set(pd.read_csv(out / "nodules.csv")["patient_id"]) == {"A"}
    data = LIDCDataModule(root=out, roi=Roi(8), fractions=[0, 0, 1])
    data.setup("test")
    assert len(data.datasets["test"]) == 4


@pytest.mark.parametrize(
    ("change", "option", "message"),
    [
        (
            {"labels": {"background": 0, "nodule": 1, "lung": 2}},
            "",
            "labels nodule, lung: say with",
        ),
        ({"channel_names": {"0": "CT", "1": "PET"}}, "", "channels CT, PET: say with --channel"),
        ({"labels": None}, "", "has no labels by name"),
        ({}, "--patients {root}/few.csv", "lacks the case(s) lung_002"),
        ({"training": [{"image": "a"}]}, "", "lists a case without image or label"),
    ],
)
def test_what_is_not_said_is_refused(
    change: dict[str, Any],
    option: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(tmp_path, {**TWO, **change})
    (tmp_path / "few.csv").write_text("case,patient_id\nlung_001,A\n")
    options = option.format(root=tmp_path).split()
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "nnunet", "--root", str(tmp_path), "--out", str(tmp_path / "o"), *options])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_value_that_is_no_label_is_reported(tmp_path: Path) -> None:
    facts = {**TWO, "labels": {"background": 0, "lung": 2, "nodule": 1}}
    write(tmp_path, facts)
    path = tmp_path / "labelsTr/lung_001.nii.gz"
    mask = read_volume(path)
    mask.array[0, 0, 0] = 7
    write_volume(path, mask)
    path = tmp_path / "labelsTr/lung_002.nii.gz"
    mask = read_volume(path)
    mask.array[6:, :12, :12] = 2  # lung, which is none of the nodules
    write_volume(path, mask)
    command = f"prepare nnunet --root {tmp_path} --out {tmp_path}/out --label nodule --workers 1"
    main(command.split())
    assert pd.read_csv(tmp_path / "out/nodules.csv")["patient_id"].tolist() == ["lung_002"] * 2
    assert "has the value(s) 7, which are no labels" in (tmp_path / "out/report.csv").read_text()
