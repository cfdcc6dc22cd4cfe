"""LUNA16 in its own form: LIDC-IDRI-0001 as `.mhd` and `.raw`, against masks from SQLite."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from datamodules.batch import Roi
from datamodules.io.volumes import Volume, read_volume
from datamodules.lidc import LIDCDataModule
from noduleforge.cli import main
from noduleforge.prepare.luna16 import prepare_luna16
from noduleforge.prepare.outlines import Drawing, rasterize, read_drawings
from noduleforge.prepare.wheels import BACKGROUND_PATIENT, chest_files, database_file

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from printed import printed

UID = "1.3.6.1.4.1.14519.5.2.1.6279.6001.179049373636438705059720603192"

TURNED = np.diag([-1.0, -1.0, 1.0])
"""Of scans of patients on their belly: LUNA16's `TransformMatrix = -1 0 0 0 -1 0 0 0 1`."""


@pytest.fixture(scope="module")
def drawn() -> tuple[str, list[Drawing]]:
    """The series of the one patient whose CT there is, and the readers' lines."""
    pairs = list(read_drawings(database_file(), {UID}))
    assert {scan.patient_id for scan, _ in pairs} == {BACKGROUND_PATIENT}
    return UID, [drawing for _, drawing in pairs]


@pytest.fixture(scope="module")
def scan(drawn: tuple[str, list[Drawing]]) -> Volume:
    """The slices about the nodule; their columns and rows are those of the DICOM."""
    image = sitk.DICOMOrient(sitk.ReadImage(str(chest_files()[0])), "LPS")
    heights = [line.z_mm for drawing in drawn[1] for line in drawing.contours]
    low = round((min(heights) - image.GetOrigin()[2]) / image.GetSpacing()[2]) - 3
    high = round((max(heights) - image.GetOrigin()[2]) / image.GetSpacing()[2]) + 4
    image = image[:, :, low:high]
    array = sitk.GetArrayFromImage(image).astype(np.int16)
    return Volume(array, image.GetSpacing()[::-1], image.GetOrigin(), np.eye(3))


@pytest.fixture(scope="module")
def agreed(drawn: tuple[str, list[Drawing]], scan: Volume) -> np.ndarray:
    """What two of the four readers have."""
    votes = np.zeros(scan.array.shape)
    for drawing in drawn[1]:
        step, bottom = scan.spacing_mm[0], scan.origin_mm[2]
        slices = [round((line.z_mm - bottom) / step) for line in drawing.contours]
        mask, start = rasterize(drawing.contours, slices)
        votes[tuple(map(slice, start, np.add(start, mask.shape)))] += mask
    return np.asarray(votes >= 2)


def write_mhd(path: Path, volume: Volume) -> None:
    """As LUNA16's are: uncompressed, voxels in a file beside the header."""
    image = sitk.GetImageFromArray(volume.array)
    image.SetSpacing(volume.spacing_mm[::-1])
    image.SetOrigin(volume.origin_mm)
    image.SetDirection(volume.direction.ravel().tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


Luna = Callable[..., Path]


@pytest.fixture
def luna(tmp_path: Path, drawn: tuple[str, list[Drawing]], agreed: np.ndarray) -> Luna:
    """LUNA16's folder: its nodule, one that nobody outlined, and one of a scan that is missing."""

    def make(volume: Volume) -> Path:
        uid = drawn[0]
        root = tmp_path / "luna16"
        write_mhd(root / f"subset7/{uid}.mhd", volume)
        middle = [float(axis.mean()) for axis in np.nonzero(agreed)]
        centre = ",".join(f"{v:.7f}" for v in volume.grid.world(middle))
        free = ",".join(f"{v:.7f}" for v in volume.grid.world((5, 250, 100)))
        (root / "annotations.csv").write_text(
            "seriesuid,coordX,coordY,coordZ,diameter_mm\n"
            f"{uid},{centre},23.3506442\n"
            f"{uid},{free},6.0\n"
            "1.3.6.1.4.1.14519.5.2.1.6279.6001.100225287222365663678666836860,-128.6,-175.3,-298.3,5.65\n"
            "1.2.3,1,2,3,4\n"
        )
        return root

    return make


@pytest.mark.parametrize("direction", [np.eye(3), TURNED], ids=["supine", "prone"])
def test_outlines_ratings_and_patients_come_from_lidc(
    direction: np.ndarray, luna: Luna, scan: Volume, agreed: np.ndarray, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    volume = replace(scan, direction=direction)
    main([*printed("prepare luna16", LUNA16=luna(volume), out=out), "--whole", "true"])
    table = pd.read_csv(out / "nodules.csv")
    assert table["patient_id"].tolist() == [BACKGROUND_PATIENT]
    assert table[["outline", "readers", "malignancy"]].to_numpy().tolist() == [["readers", 4, 4.75]]
    assert table["given_diameter_mm"].tolist() == [23.3506442]
    image, mask = (read_volume(out / table[kind][0]) for kind in ("image", "mask"))
    np.testing.assert_array_equal(mask.array > 0, agreed)
    np.testing.assert_array_equal(image.array, scan.array)
    assert image.grid.matches(volume.grid)
    report = (out / "report.csv").read_text()
    assert "balls are not asked for" in report
    assert "1 nodule(s) left out" in report
    assert "1.2.3,is not in LIDC-IDRI" in report
    data = LIDCDataModule(root=out, roi=Roi(16), fractions=[0, 0, 1])
    data.setup("test")
    assert [item["attributes"]["texture"] for item in data.datasets["test"]] == [4.75]


def test_balls_where_they_are_asked_for(luna: Luna, scan: Volume, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_luna16(luna(scan), out, balls=True, whole=True, workers=1)
    table = pd.read_csv(out / "nodules.csv")
    assert table["outline"].tolist() == ["readers", "ball"]
    assert table["readers"].tolist() == [4, 0]
    assert np.isnan(table["texture"][1])
    z, y, x = np.indices(scan.array.shape)
    offsets = np.stack([z - 5, y - 250, x - 100], axis=-1) * scan.spacing_mm
    expected = np.linalg.norm(offsets, axis=-1) <= 3
    np.testing.assert_array_equal(read_volume(out / table["mask"][1]).array > 0, expected)
    assert (out / "report.csv").read_text().count("its mask is a ball") == 1


def test_a_scan_that_is_there_twice_is_refused(
    luna: Luna, scan: Volume, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = luna(scan)
    (first,) = (root / "subset7").glob("*.mhd")
    (root / "subset8").mkdir()
    (root / "subset8" / first.name).write_text(first.read_text())
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "luna16", "--root", str(root), "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "keep one" in capsys.readouterr().err
