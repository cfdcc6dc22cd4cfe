import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk
from scipy import ndimage

from datamodules.batch import Roi
from datamodules.io.dicom import order
from datamodules.io.slices import read_slices
from datamodules.io.volumes import Volume, read_volume
from datamodules.lidc import LIDCDataModule
from datamodules.ratings import RATINGS
from noduleforge.cli import main
from noduleforge.prepare.annotations import read_annotations, read_xml
from noduleforge.prepare.lidc import prepare_lidc
from noduleforge.prepare.outlines import Contour, Drawing, rasterize, read_drawings
from noduleforge.prepare.wheels import BACKGROUND_PATIENT, chest_files, database_file

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from dicom import change, lidc_xml, uid_of, write_segmentation, write_series

SPACING = (2.0, 0.8, 0.8)
ORIGIN = (-20.0, -30.0, 100.0)
UID = uid_of("series")
HOLED = "1.3.6.1.4.1.14519.5.2.1.6279.6001.619372068417051974713149104919"
"""A scan in which a reader drew a hole."""
CENTRES = {"A": (8, 20, 22), "B": (20, 40, 40)}


def draw(reader: int, center: tuple[int, int, int], radius: float, name: str) -> Drawing:
    """Outlines of a ball as LIDC's readers draw them: the first pixels outside."""
    contours = []
    z, y, x = np.indices((30, 64, 64))
    inside = (
        ((z - center[0]) * 2.5) ** 2 + (y - center[1]) ** 2 + (x - center[2] - reader) ** 2
    ) < radius**2
    for number in np.flatnonzero(inside.any((1, 2))):
        ring = ndimage.binary_dilation(inside[number]) & ~inside[number]
        # once around, by angle
        points = np.argwhere(ring)
        about = points - points.mean(0)
        points = points[np.argsort(np.arctan2(about[:, 0], about[:, 1]))]
        z_mm = ORIGIN[2] + float(number) * SPACING[0]
        contours.append(Contour(True, z_mm, points, uid_of(UID, number)))
    ratings = dict.fromkeys(RATINGS, 2) | {"texture": 4 + reader % 2}
    return Drawing(name, str(reader), tuple(contours), ratings)


@pytest.fixture
def scan() -> Volume:
    rng = np.random.default_rng(0)
    array = rng.integers(-1000, 200, (30, 64, 64)).astype(np.int16)
    return Volume(array, SPACING, ORIGIN, np.eye(3))


@pytest.fixture
def drawings() -> list[list[Drawing]]:
    """Three readers saw nodule A, one of them B."""
    sessions = [[draw(reader, CENTRES["A"], 6, f"A{reader}")] for reader in range(3)]
    sessions[0].append(draw(0, CENTRES["B"], 5, "B0"))
    return sessions


Prepare = Callable[..., Path]


@pytest.fixture
def tcia(tmp_path: Path, scan: Volume, drawings: list[list[Drawing]]) -> Path:
    """Folders as they come from TCIA, with everything else that lies in them."""
    root = tmp_path / "tcia"
    write_series(root / "dicom/LIDC-IDRI-0001/ct", scan, "LIDC-IDRI-0001", UID)
    # in the same folder: another series without annotations, and a radiograph
    write_series(root / "dicom/LIDC-IDRI-0001/ct/more", scan, "LIDC-IDRI-0001", uid_of("b"))
    one = Volume(scan.array[:1], SPACING, ORIGIN, np.eye(3))
    write_series(root / "dicom/LIDC-IDRI-0001/dx", one, "LIDC-IDRI-0001", uid_of("c"), "DX")
    (root / "dicom/LICENSE").write_text("CC BY 3.0")
    (root / "dicom/broken.dcm").write_bytes(b"not DICOM")
    (root / "xml/deeper").mkdir(parents=True)
    (root / "xml/deeper/069.xml").write_text(lidc_xml(UID, drawings, small=2))
    (root / "xml/070.xml").write_text(lidc_xml(uid_of("elsewhere"), []))
    (root / "xml/cxr.xml").write_text('<IdriReadMessage xmlns="http://www.nih.gov"/>')
    (root / "xml/cut.xml").write_text("<LidcReadMessage")
    return root


@pytest.fixture
def prepare(tcia: Path, tmp_path: Path) -> Prepare:
    def run(out: str = "out", **settings: object) -> Path:
        arguments = {"dicom": tcia / "dicom", "annotations": tcia / "xml", "workers": 1}
        prepare_lidc(**(arguments | settings), out=tmp_path / out)
        return tmp_path / out

    return run


def reported(out: Path) -> str:
    return (out / "report.csv").read_text()


def test_a_store_comes_of_a_download(prepare: Prepare, scan: Volume) -> None:
    out = prepare(whole=True)
    table = pd.read_csv(out / "nodules.csv")
    assert table["readers"].tolist() == [3, 1]
    assert table["texture"].tolist() == [pytest.approx(13 / 3, abs=1e-3), 4]
    report = reported(out)
    for what in (
        "cxr.xml,is about a radiograph",
        'cut.xml,"is not whole XML',
        "broken.dcm,is no whole DICOM file",
        "files,DX,1 image(s) that are not CT",
        f"{uid_of('b')},has no annotations",
        f"{uid_of('elsewhere')},is about a series that is not there",
        "12 mark(s) without an outline",
    ):
        assert what in report
    image = read_volume(out / table["image"][0])
    np.testing.assert_array_equal(image.array, scan.array)
    assert image.grid.matches(scan.grid)
    z, y, x = np.indices(scan.array.shape)
    balls = [
        ((z - 8) * 2.5) ** 2 + (y - 20) ** 2 + (x - 22 - reader) ** 2 < 36 for reader in range(3)
    ]
    mask = read_volume(out / table["mask"][0])
    np.testing.assert_array_equal(mask.array > 0, np.mean(balls, axis=0) >= 0.5)
    outlines = pd.read_csv(out / "outlines.csv")
    assert outlines["outline"].tolist() == ["A0", "A1", "A2", "B0"]
    expected = [ball.sum() * np.prod(SPACING) for ball in balls]
    assert outlines["volume_mm3"][:3].tolist() == pytest.approx(expected, rel=1e-4)
    # and it is what training reads
    data = LIDCDataModule(root=out, roi=Roi(16), fractions=[0, 0, 1])
    data.setup("test")
    assert [item["attributes"]["texture"] for item in data.datasets["test"]] == [
        pytest.approx(13 / 3, abs=1e-3),
        4,
    ]


def test_patches_have_the_asked_size_and_end_with_the_scan(prepare: Prepare, scan: Volume) -> None:
    out = prepare(size=40, spacing_mm=0.8)
    table = pd.read_csv(out / "nodules.csv")
    image = read_volume(out / table["image"][0])
    assert image.spacing_mm == pytest.approx((0.8,) * 3)
    # along z the scan ends 16 mm below the nodule and 42 mm above it
    assert image.array.shape == (40, 40, 40)
    fine = Volume(scan.array, SPACING, ORIGIN, np.eye(3)).grid
    first = [round(i, 3) for i in fine.index(image.origin_mm)]
    assert first == [0, 0, 3]
    np.testing.assert_array_equal(image.array[::5], scan.array[:16:2, :40, 3:43])
    larger = prepare("larger", size=64, spacing_mm=1.0)
    shapes = [read_volume(path).array.shape for path in sorted((larger / "images").iterdir())]
    assert shapes[0][1:] == (48, 50)
    assert all(min(shape) > 40 for shape in shapes)


@pytest.mark.parametrize("annotations", ["xml", "sqlite"])
def test_real_outlines_come_back_voxel_for_voxel(annotations: str, tmp_path: Path) -> None:
    """LIDC-IDRI-0001: its CT as DICOM, its readers' lines as XML, against masks from SQLite."""
    image = sitk.DICOMOrient(sitk.ReadImage(str(chest_files()[0])), "LPS")
    array = sitk.GetArrayFromImage(image).astype(np.int16)
    scan = Volume(array, image.GetSpacing()[::-1], image.GetOrigin(), np.eye(3))
    everything = read_drawings(database_file())
    own = [pair for pair in everything if pair[0].patient_id == BACKGROUND_PATIENT]
    uid = own[0][0].series_uid
    write_series(tmp_path / "dicom", scan, BACKGROUND_PATIENT, uid)
    source = database_file()
    if annotations == "xml":
        source = tmp_path / "xml"
        source.mkdir()
        (source / "001.xml").write_text(lidc_xml(uid, [[drawing] for _, drawing in own]))
    prepare_lidc(tmp_path / "dicom", source, tmp_path / "out", whole=True, workers=1)
    table = pd.read_csv(tmp_path / "out/nodules.csv")
    assert table["readers"].tolist() == [4]
    votes = np.zeros(array.shape)
    for _, drawing in own:
        slices = [round((c.z_mm - scan.origin_mm[2]) / 2.5) for c in drawing.contours]
        mask, start = rasterize(drawing.contours, slices)
        votes[tuple(map(slice, start, np.add(start, mask.shape)))] += mask
    written = read_volume(tmp_path / "out" / table["mask"][0]).array
    np.testing.assert_array_equal(written > 0, votes >= 2)
    np.testing.assert_array_equal(read_volume(tmp_path / "out" / table["image"][0]).array, array)
    assert table["malignancy"].tolist() == [4.75]


def test_xml_keeps_every_line(tmp_path: Path) -> None:
    own = [drawing for scan, drawing in read_drawings(database_file()) if scan.series_uid == HOLED]
    (tmp_path / "a.xml").write_text(lidc_xml(HOLED, [[drawing] for drawing in own], small=3))
    series, drawings, small = read_xml(tmp_path / "a.xml")
    assert (series, small, len(drawings)) == (HOLED, 6 * len(own), len(own))
    assert not all(line.inclusion for drawing in drawings for line in drawing.contours)
    for one, other in zip(own, drawings, strict=True):
        assert one.ratings == other.ratings
        for ours, theirs in zip(one.contours, other.contours, strict=True):
            assert (ours.inclusion, ours.z_mm) == (theirs.inclusion, theirs.z_mm)
            np.testing.assert_array_equal(ours.points, theirs.points)


def test_incomplete_series(tcia: Path, prepare: Prepare) -> None:
    files = {path.stem.rpartition("-")[2]: path for path in (tcia / "dicom").rglob("ct/*.dcm")}
    files["21"].unlink()  # one of nodule B's slices
    twice = files["8"].with_name("again.dcm")
    twice.write_bytes(files["8"].read_bytes())
    out = prepare()
    report = reported(out)
    assert "1 duplicate slice(s) left out" in report
    assert "1 gap(s) between slices, above z = 140 mm" in report
    assert "LIDC-IDRI-0001 B0,1 of its slices are missing" in report
    assert pd.read_csv(out / "nodules.csv")["readers"].tolist() == [3]
    files["7"].unlink()  # and of A's: nothing is left
    with pytest.raises(ValueError, match=r"Not one nodule could be prepared: .*report.csv says"):
        prepare("other")
    assert reported(tcia.parent / "other").count("of its slices are missing") == 4


def test_two_slices_at_one_place_are_refused(tcia: Path, prepare: Prepare, scan: Volume) -> None:
    other = Volume(scan.array[5:6] + 1, SPACING, scan.grid.world((5, 0, 0)), np.eye(3))
    write_series(tcia / "dicom/x", other, "LIDC-IDRI-0001", uid_of("d"))
    path = next((tcia / "dicom/x").iterdir())
    data = pydicom.dcmread(path)
    data.SeriesInstanceUID = UID
    data.FrameOfReferenceUID = uid_of(UID, "frame")
    data.save_as(path)
    with pytest.raises(ValueError, match="Not one nodule"):
        prepare()
    assert "has two slices with different voxels at" in reported(tcia.parent / "out")


def test_of_two_reconstructions_the_outlined_one_is_taken(
    tcia: Path, prepare: Prepare, scan: Volume
) -> None:
    """Of the other, larger one nothing is seen, and the report names both."""
    array = np.random.default_rng(1).integers(-1000, 200, (40, 64, 64)).astype(np.int16)
    other = Volume(array, SPACING, ORIGIN, np.eye(3))
    paths = write_series(tcia / "dicom/x", other, "LIDC-IDRI-0001", uid_of("d"))
    frame = uid_of(UID, "frame")
    change(paths, SeriesInstanceUID=UID, FrameOfReferenceUID=frame, ConvolutionKernel="sharp")
    out = prepare(whole=True)
    image = read_volume(out / pd.read_csv(out / "nodules.csv")["image"][0])
    np.testing.assert_array_equal(image.array, scan.array)
    assert "the chosen one of 2 stacks: 30 slice(s) with kernel unknown" in reported(out)
    assert "40 slice(s) with kernel sharp" in reported(out)
    # where the lines do not say which slices they are in, nothing is guessed
    (tcia / "xml/deeper/069.xml").write_text(
        re.sub("(<imageSOP_UID>).*?<", r"\1<", (tcia / "xml/deeper/069.xml").read_text())
    )
    with pytest.raises(ValueError, match="Not one nodule"):
        prepare("other")
    assert "holds 2 stacks, 40 slice(s) with kernel sharp" in reported(tcia.parent / "other")


def test_a_faulty_header_stops_nobody_else(
    tcia: Path, prepare: Prepare, scan: Volume, drawings: list[list[Drawing]]
) -> None:
    other = uid_of("faulty")
    paths = write_series(tcia / "dicom/LIDC-IDRI-0002", scan, "LIDC-IDRI-0002", other)
    paths[4].write_bytes(paths[4].read_bytes().replace(b"0.800000\\", b"0,800000\\"))
    (tcia / "xml/071.xml").write_text(lidc_xml(other, drawings))
    out = prepare()
    assert set(pd.read_csv(out / "nodules.csv")["patient_id"]) == {"LIDC-IDRI-0001"}
    assert f"{paths[4]}, whose PixelSpacing is '0,800000" in reported(out)


def test_slices_are_ordered_along_their_normal(tmp_path: Path, scan: Volume) -> None:
    """A patient on the side: the world's axes are not the image's."""
    turn = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    volume = Volume(scan.array, SPACING, ORIGIN, turn)
    paths = write_series(tmp_path, volume, "p", "1.2", slope=2.0, intercept=-1000.0)
    series = order([one for path in sorted(paths) for one in read_slices(path)])
    read = series.read(series.runs[0])
    assert read.grid.matches(volume.grid)
    np.testing.assert_allclose(read.array, scan.array, atol=1)


def test_an_interrupted_run_goes_on(prepare: Prepare, tmp_path: Path) -> None:
    out = prepare()
    before = {path: path.stat().st_mtime_ns for path in (out / "images").iterdir()}
    table = (out / "nodules.csv").read_text()
    (out / "nodules.csv").unlink()
    assert prepare() == out
    assert {path: path.stat().st_mtime_ns for path in (out / "images").iterdir()} == before
    assert (out / "nodules.csv").read_text() == table
    with pytest.raises(FileExistsError, match="was begun with other settings"):
        prepare(size=32)


def test_processes_do_not_change_the_result(prepare: Prepare) -> None:
    one, two = prepare("one"), prepare("two", workers=2)
    for path in sorted(path for path in one.rglob("*") if path.is_file()):
        assert path.read_bytes() == (two / path.relative_to(one)).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--agreement", "0"], "agreement is 0.0: give a share above 0"),
        (["--size", "4"], "size is 4: give at least 8 voxels"),
        (["--spacing_mm", "0"], "spacing_mm is 0.0: give a number above 0"),
        (["--workers", "0"], "workers is 0: give at least 1"),
        (["--min_readers", "4"], "Not one nodule could be prepared"),
        (["--annotations", "nowhere.sqlite"], "No file nowhere.sqlite"),
        (["--dicom", "nowhere"], "nowhere is no folder"),
        (["--annotations", "configs"], "holds neither LIDC's XML nor DICOM SEG"),
        (["--out", "tests"], "exists and holds something else"),
    ],
)
def test_mistakes_are_one_line(
    options: list[str], message: str, tcia: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = {"--dicom": tcia / "dicom", "--annotations": tcia / "xml", "--out": tmp_path / "out"}
    words |= dict(zip(options[::2], options[1::2], strict=True))
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", "lidc", *[str(word) for pair in words.items() for word in pair]])
    assert stopped.value.code == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert message in told


def test_a_series_that_failed_is_tried_again(tcia: Path, prepare: Prepare) -> None:
    """And one that is done is left as it is, until its annotations change."""
    damaged = sorted((tcia / "dicom/LIDC-IDRI-0001/ct").glob("*.dcm"))[10]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="Not one nodule could be prepared"):
        prepare()
    damaged.write_bytes(whole)
    out = prepare()
    before = {path: path.stat().st_mtime_ns for path in out.glob("[cim]*/*")}
    assert before
    prepare()
    assert {path: path.stat().st_mtime_ns for path in out.glob("[cim]*/*")} == before
    xml = tcia / "xml/deeper/069.xml"
    xml.write_text(xml.read_text().replace("<texture>4", "<texture>1"))
    textures = pd.read_csv(prepare() / "nodules.csv")["texture"]
    assert textures.tolist() == pd.read_csv(prepare("new") / "nodules.csv")["texture"].tolist()
    assert textures[1] == 1


def test_patients_that_read_the_same_are_refused(
    tcia: Path, prepare: Prepare, scan: Volume, drawings: list[list[Drawing]]
) -> None:
    other = uid_of("other")
    write_series(tcia / "dicom/other", scan, "lidc-idri-1", other)
    (tcia / "xml/other.xml").write_text(lidc_xml(other, drawings))
    with pytest.raises(ValueError, match="PatientID 'LIDC-IDRI-0001' and 'lidc-idri-1' read the"):
        prepare()


def test_every_annotation_of_the_database_has_its_series() -> None:
    found = read_annotations(database_file())
    assert sum(map(len, found.drawings.values())) == 6859
    assert not found.left_out


def test_segmentations_stand_for_outlines(tcia: Path, prepare: Prepare, scan: Volume) -> None:
    """Two readers' SEG files: each has nodule A, the first B too, as a second segment."""
    files = [path for path in (tcia / "dicom").rglob("ct/*.dcm")]
    headers = order([one for path in files for one in read_slices(path)])
    z, y, x = np.indices(scan.array.shape)
    distance = {n: (z - c[0]) ** 2 + (y - c[1]) ** 2 + (x - c[2]) ** 2 for n, c in CENTRES.items()}
    source = [pydicom.dcmread(one.path) for one in headers.slices]
    (tcia / "seg").mkdir()
    for reader, names in enumerate(("AB", "A")):
        masks = np.stack([distance[name] < (6 - reader) ** 2 for name in names], axis=-1)
        write_segmentation(tcia / f"seg/{reader}.dcm", source, masks, list(names))
    out = prepare(annotations=tcia / "seg", whole=True, agreement=1.0)
    table = pd.read_csv(out / "nodules.csv")
    assert table["readers"].tolist() == [2, 1]
    assert table["texture"].isna().all()
    for name, expected in zip(table["mask"], (distance["A"] < 25, distance["B"] < 36), strict=True):
        np.testing.assert_array_equal(read_volume(out / name).array > 0, expected)
    data = LIDCDataModule(root=out, roi=Roi(16), fractions=[0, 0, 1])
    data.setup("test")
    assert "has no annotations" in reported(out)
