import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from datamodules.batch import Roi
from datamodules.io.volumes import Volume, read_volume, write_volume
from datamodules.lidc import LIDCDataModule
from noduleforge.cli import main
from noduleforge.prepare.volumes import prepare_volumes

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from dicom import write_series

SPACING, ORIGIN = (2.0, 1.0, 1.0), (5.0, 6.0, 7.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two scans: one with two labels of which the second has two parts, one with faults."""
    rng = np.random.default_rng(0)
    root = tmp_path / "given"
    scan = rng.integers(-1000, 100, (20, 40, 40)).astype(np.int16)
    labels = np.zeros(scan.shape, np.uint8)
    labels[2:6, 3:9, 4:10] = 1
    labels[12:15, 20:25, 20:25] = 3
    labels[16:18, 30:35, 30:35] = 3

    def write(name: str, array: np.ndarray, origin: tuple[float, ...] = ORIGIN) -> None:
        write_volume(root / name, Volume(array, SPACING, origin, np.eye(3)))

    write("a.nii.gz", scan)
    write("a-labels.mha", labels)
    write("moved.mha", labels, (0.0, 0.0, 0.0))
    write("empty.mha", 0 * labels)
    write("grey.mha", (scan // 8 + 130).astype(np.int16))
    rows = [
        ("p1", "a.nii.gz", "a-labels.mha", "solid"),
        ("p1", "a.nii.gz", "moved.mha", "solid"),
        ("p1", "a.nii.gz", "empty.mha", "solid"),
        ("p2", "grey.mha", "a-labels.mha", "solid"),
        ("p3", "nowhere.mha", "a-labels.mha", "solid"),
    ]
    table = pd.DataFrame(rows, columns=["patient_id", "image", "mask", "subtype"])
    table.to_csv(root / "cases.csv", index=False)
    return root


@pytest.mark.parametrize(("separate", "number"), [("labels", 2), ("components", 3)])
def test_volumes_become_a_store(separate: str, number: int, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_volumes(folder / "cases.csv", out, separate, whole=True, workers=1)
    table = pd.read_csv(out / "nodules.csv")
    assert len(table) == number
    assert set(table["subtype"]) == {"solid"}
    labels = read_volume(folder / "a-labels.mha").array
    masks = [read_volume(out / name).array for name in table["mask"]]
    np.testing.assert_array_equal(masks[0] > 0, labels == 1)
    np.testing.assert_array_equal(np.sum(masks, axis=0) > 0, labels > 0)
    np.testing.assert_array_equal(
        read_volume(out / table["image"][0]).array, read_volume(folder / "a.nii.gz").array
    )
    report = (out / "report.csv").read_text()
    for what in ("lies on another grid", "is empty", "expected Hounsfield units", "does not exist"):
        assert what in report
    data = LIDCDataModule(root=out, roi=Roi(16), fractions=[0, 0, 1])
    data.setup("test")
    assert len(data.datasets["test"]) == number


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient_id,image\np,a\n", "lacks the column(s) mask"),
        ("patient_id,image,mask\np,a,\n", "mask is empty in line(s) 2: fill it in"),
        (None, "does not exist"),
    ],
)
def test_wrong_tables_are_one_line(
    text: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "cases.csv"
    if text:
        path.write_text(text)
    with pytest.raises(SystemExit):
        main(["prepare", "volumes", "--table", str(path), "--out", str(tmp_path / "out")])
    assert message in capsys.readouterr().err


def test_one_of_two_reconstructions_is_named_by_a_file(folder: Path, tmp_path: Path) -> None:
    scan = read_volume(folder / "a.nii.gz")
    soft = write_series(folder / "ct", scan, "p1", "1.2.3")
    sharp = write_series(folder / "sharp", replace(scan, array=scan.array[:9] + 1), "p1", "1.2.4")
    for path in sharp:
        data = pydicom.dcmread(path)
        data.SeriesInstanceUID, data.ConvolutionKernel = "1.2.3", "sharp"
        data.FrameOfReferenceUID = pydicom.dcmread(soft[0]).FrameOfReferenceUID
        data.save_as(folder / f"ct/sharp-{path.name}")
    table = folder / "dicom.csv"
    table.write_text("patient_id,image,mask\np1,ct,a-labels.mha\n")
    with pytest.raises(ValueError, match="Not one nodule"):
        prepare_volumes(table, tmp_path / "asked", workers=1)
    report = (tmp_path / "asked/report.csv").read_text()
    assert "holds 2 stacks, 20 slice(s) with kernel unknown" in report
    assert "9 slice(s) with kernel sharp" in report
    table.write_text(f"patient_id,image,mask\np1,ct/{soft[4].name},a-labels.mha\n")
    out = tmp_path / "out"
    prepare_volumes(table, out, whole=True, workers=1)
    made = pd.read_csv(out / "nodules.csv")
    assert len(made) == 2
    np.testing.assert_array_equal(read_volume(out / made["image"][0]).array, scan.array)
