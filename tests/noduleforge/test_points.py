import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from datamodules.io.volumes import Volume, equivalent_diameter_mm, read_volume, write_volume
from noduleforge.cli import main
from noduleforge.prepare.points import ball

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from printed import printed

UID = "1.2.840.113654.2.55.123320000000000000000000000000000000915"
SPACING, ORIGIN = (2.0, 0.8, 0.8), (-20.0, -15.0, 100.0)
LUNA25 = (
    "PatientID,SeriesInstanceUID,StudyDate,CoordX,CoordY,CoordZ,"
    "LesionID,AnnotationID,NoduleID,label,Age_at_StudyDate,Gender\n"
)


@pytest.fixture
def scan() -> Volume:
    array = np.random.default_rng(0).integers(-1000, 100, (20, 40, 50)).astype(np.int16)
    return Volume(array, SPACING, ORIGIN, np.eye(3))


def test_luna25(scan: Volume, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "luna25"
    write_volume(root / f"luna25_images/{UID}.mha", scan)
    x, y, z = scan.grid.world((9, 20, 25))
    (root / "LUNA25_Public_Training_Development_Data.csv").write_text(
        f"{LUNA25}100471,{UID},20000102,{x},{y},{z},3,100471_3_20000102,100471_3,1,75,Female\n"
        f"100471,{UID},20000102,{x + 400},{y},{z},4,100471_4_20000102,100471_4,0,75,Female\n"
        "104822,1.2.840.113654.2.55.191,19990102,1,2,3,1,104822_1_19990102,104822_1,0,61,Male\n"
    )
    command = printed("prepare luna25", LUNA25=root, out=tmp_path / "out")
    with pytest.raises(SystemExit) as ended:
        main([word for word in command if word not in ("--balls", "true")])
    assert ended.value.code == 2
    assert "centres, which are no outlines: ask with --balls true" in capsys.readouterr().err
    main([*command, "--whole", "true", "--workers", "1"])
    table = pd.read_csv(tmp_path / "out/nodules.csv", dtype=str)
    assert table[
        ["patient_id", "series_uid", "NoduleID", "label", "outline"]
    ].to_numpy().tolist() == [["100471", UID, "100471_3", "1", "ball"]]
    # nothing of people
    written = (tmp_path / "out/nodules.csv").read_text() + (tmp_path / "out/report.csv").read_text()
    assert not [word for word in ("20000102", "Female", "75,") if word in written]
    mask = read_volume(tmp_path / "out" / table["mask"][0])
    assert equivalent_diameter_mm(mask.array, mask.spacing_mm) == pytest.approx(8, rel=0.05)
    assert [round(float(axis.mean()), 6) for axis in np.nonzero(mask.array)] == [9, 20, 25]
    report = (tmp_path / "out/report.csv").read_text()
    assert "lies outside its image" in report
    assert "is not in luna25: 1 nodule(s) left out" in report


@pytest.mark.parametrize("coordinates", ["lps", "ras", "voxels"])
def test_a_table_by_a_mapping(coordinates: str, scan: Volume, tmp_path: Path) -> None:
    """A table like NLST's, in the coordinates of DICOM, of NIfTI and in voxels."""
    write_volume(tmp_path / "images/a/100012_T0.nii.gz", scan)
    given = np.array(scan.grid.world((9, 20, 25)))
    if coordinates == "ras":
        affine = nibabel.load(tmp_path / "images/a/100012_T0.nii.gz").affine
        given = (affine @ [25, 20, 9, 1])[:3]
    elif coordinates == "voxels":
        given = np.array([25, 20, 9])
    x, y, z = given
    table = tmp_path / "nlst.csv"
    table.write_text(
        "pid,series,x,y,z,sct_long_dia,sct_pre_att,age\n"
        f"100012,a/100012_T0.nii.gz,{x},{y},{z},12.1,1,66\n"
    )
    places = {"nlst.csv": table, "NLST": tmp_path / "images", "out": tmp_path / "out"}
    command = printed("prepare points --table nlst", **places)
    main([*command, "--coordinates", coordinates, "--whole", "true", "--workers", "1"])
    made = pd.read_csv(tmp_path / "out/nodules.csv")
    assert "age" not in made
    assert made[["patient_id", "sct_pre_att"]].to_numpy().tolist() == [[100012, 1]]
    assert made["diameter_mm"][0] == pytest.approx(12.1, rel=0.02)
    mask = read_volume(tmp_path / "out" / made["mask"][0])
    assert [round(float(axis.mean()), 6) for axis in np.nonzero(mask.array)] == [9, 20, 25]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("p,a,1,2,3,4\np,a,1,2,3,5\n", "line 3 gives the same place in a as a line before"),
        ("p,a,1,2,3,4\nq,a,1,2,4,5\n", "image a is of patients p, q: give each image to one"),
        ("p,a,1,2,3,-4\n", "diameter_mm is -4.0 in line 2: give a number above 0"),
        ("P1,a,1,2,3,4\np01,b,1,2,4,5\n", "read the same"),
        ("p,a,1,x,3,4\n", "y_mm is 'x' in line 2: give a number"),
    ],
)
def test_wrong_tables_are_one_line(
    rows: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.csv").write_text("patient_id,image,x_mm,y_mm,z_mm,diameter_mm\n" + rows)
    with pytest.raises(SystemExit) as ended:
        main(
            f"prepare points --table {tmp_path}/t.csv --images {tmp_path} --out {tmp_path}/out "
            "--balls true".split()
        )
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_small_ball_has_the_voxel_of_its_centre(scan: Volume) -> None:
    mask, start = ball(scan.grid, np.array([9.4, 20.4, 25.4]), 0.1)
    assert (np.argwhere(mask) + start).tolist() == [[9, 20, 25]]
