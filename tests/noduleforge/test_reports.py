"""Ratings in DICOM SR, with the codes of both forms in which TCIA has had them."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from datamodules.io.dicom import order
from datamodules.io.slices import read_slices
from datamodules.io.volumes import Volume
from datamodules.ratings import RATINGS
from noduleforge.prepare.lidc import prepare_lidc
from noduleforge.prepare.reports import read_report

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from dicom import uid_of, write_report, write_segmentation, write_series

LIDC, NCIT, RADLEX = "99LIDCQIICR", "NCIt", "RadLex"
FIRST = [
    ("C45992", NCIT, "103", LIDC),
    ("200", LIDC, "C12471", NCIT),
    ("C3672", NCIT, "RID28473", RADLEX),
    ("400", LIDC, "RID5800", RADLEX),
    ("C25563", NCIT, "004", LIDC),
    ("600", LIDC, "601", LIDC),
    ("700", LIDC, "002", LIDC),
    ("C41144", NCIT, "RID50151", RADLEX),
    ("900", LIDC, "905", LIDC),
]
LATER = [
    ("C45992", NCIT, "105", LIDC),
    ("200", LIDC, "C73434", NCIT),
    ("C3672", NCIT, "302", LIDC),
    ("400", LIDC, "RID5799", RADLEX),
    ("C25563", NCIT, "RID5709", RADLEX),
    ("C62175", NCIT, "605", LIDC),
    ("C28749", NCIT, "705", LIDC),
    ("C41144", NCIT, "RID50152", RADLEX),
    ("RID36042", RADLEX, "901", LIDC),
    ("C12345", NCIT, "something", LIDC),  # which LIDC has no rating for
]
EXPECTED = {
    "first": dict(zip(RATINGS, (3, 1, 6, 3, 4, 1, 2, 5, 5), strict=True)),
    "later": dict(zip(RATINGS, (5, 4, 2, 5, 1, 5, 5, 3, 1), strict=True)),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A scan with a nodule that two readers outlined and rated, and another of one of them."""
    rng = np.random.default_rng(0)
    array = rng.integers(-1000, 100, (12, 32, 32)).astype(np.int16)
    scan = Volume(array, (2.0, 0.8, 0.8), (-20.0, -30.0, 100.0), np.eye(3))
    files = write_series(tmp_path / "ct", scan, "LIDC-IDRI-0001", uid_of("series"))
    headers = order([one for path in files for one in read_slices(path)])
    source = [pydicom.dcmread(one.path) for one in headers.slices]
    masks = np.zeros((*array.shape, 2))
    masks[2:5, 5:10, 5:10, 0] = masks[8:10, 20:26, 20:26, 1] = 1
    notes = tmp_path / "notes"
    notes.mkdir()
    for name, nodules, ratings in (
        ("first", masks, [FIRST, LATER]),
        ("later", masks[..., :1], [LATER]),
    ):
        write_segmentation(notes / f"{name}-seg.dcm", source, nodules, ["A", "B"][: len(ratings)])
        write_report(notes / f"{name}-sr.dcm", notes / f"{name}-seg.dcm", source, ratings)
    return tmp_path


def test_every_rating_is_read(folder: Path) -> None:
    (first, other), (later,) = (
        read_report(folder / f"notes/{name}-sr.dcm").values() for name in ("first", "later")
    )
    assert first == EXPECTED["first"]
    assert other == later == EXPECTED["later"]


def test_ratings_go_to_their_segments(folder: Path) -> None:
    out = folder / "out"
    prepare_lidc(folder / "ct", folder / "notes", out, workers=1)
    table = pd.read_csv(out / "nodules.csv")
    assert table["readers"].tolist() == [2, 1]
    means = {name: np.mean([given[name] for given in EXPECTED.values()]) for name in RATINGS}
    assert table.loc[0, list(RATINGS)].to_dict() == means
    assert table.loc[1, list(RATINGS)].to_dict() == EXPECTED["later"]
    outlines = pd.read_csv(out / "outlines.csv")
    assert outlines[["outline", "malignancy"]].to_numpy().tolist() == [
        ["first-seg A", 5],
        ["later-seg A", 1],
        ["first-seg B", 1],
    ]


def test_what_is_wrong_with_a_report_is_told(folder: Path) -> None:
    notes = folder / "notes"
    path = notes / "later-sr.dcm"
    report = pydicom.dcmread(path)
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = uid_of("again")
    report.save_as(notes / "z-again.dcm")
    changed = path.read_bytes().replace(b"RID50152", b"RID99999")
    (notes / "z-unknown.dcm").write_bytes(changed)
    report.ContentSequence = []
    report.save_as(notes / "z-empty.dcm")
    (notes / "first-seg.dcm").unlink()
    prepare_lidc(folder / "ct", notes, folder / "out", workers=1)
    told = (folder / "out/report.csv").read_text()
    assert 'z-again.dcm,"rates a segment as another report does' in told
    assert "has the texture 'RID99999' (RID99999), which is none of LIDC's" in told
    assert "z-empty.dcm,is a structured report that rates no segment" in told
    assert told.count("is rated by a report, but is not there") == 2
