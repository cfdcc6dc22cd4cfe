"""DICOM series and readers' XML that are damaged, woven together, or say what cannot be."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from dicom import uid_of
from faulty import Case, cases
from faulty_edits import (
    Spoil,
    both,
    content,
    cut,
    dicom,
    nothing,
    remove,
    text,
    words,
)

XML = "xml/069.xml"
REPORT = "report.csv"
FIRST = "1-003-0.dcm"
SLICE = f"dicom/{FIRST}"
SLOPE = b"\x28\x00\x53\x10DS\x04\x00"
"""How the element RescaleSlope begins."""

BOMB = "".join(f'<!ENTITY e{k} "{f"&e{k - 1};" * 20}">' for k in range(1, 9))
"""Entities that grow to 10^10 letters."""


def slice_of(change: Callable[[Path], None]) -> Spoil:
    """Change the file of the first slice."""
    return lambda root: change(root / "dicom" / FIRST)


OF_SERIES = [
    Case(f"a slice {name}", "lidc", spoil, says, told_in=REPORT)
    for name, spoil, says in (
        ("missing", lambda root: next((root / "dicom").glob("*-5.dcm")).unlink(), ("slice",)),
        ("cut in half", cut(SLICE), ()),
        ("that is empty", content(SLICE, lambda w: b""), ()),
        ("that is a text", text(SLICE, "no DICOM"), ()),
        ("without pixels", dicom("dicom", PixelData=None), ()),
        ("without a place", dicom("dicom", ImagePositionPatient=None), ()),
        ("at a place of words", words(SLICE, "-20.000000", "twenty----"), ()),
        ("at a place with decimal commas", words(SLICE, "-20.000000", "-20,000000"), ()),
        ("of another spacing", dicom("dicom", PixelSpacing=[0.5, 0.5]), ()),
        ("of a single spacing", dicom("dicom", PixelSpacing=0.8), ()),
        ("of no spacing", dicom("dicom", PixelSpacing=None), ()),
        ("of a spacing of 0", dicom("dicom", PixelSpacing=[0.0, 0.0]), ()),
        ("of more rows than pixels", dicom("dicom", Rows=65535), ()),
        ("of no row", dicom("dicom", Rows=0), ()),
        ("of another slope", dicom("dicom", RescaleSlope="2"), ()),
        (
            "of a slope of words",
            content(SLICE, lambda w: w.replace(SLOPE + b"1.0", SLOPE + b"one")),
            (),
        ),
        ("of a slope of 0", dicom("dicom", RescaleSlope="0"), ()),
        ("turned", dicom("dicom", ImageOrientationPatient=[0, 1, 0, 1, 0, 0]), ()),
        ("of an orientation of zeros", dicom("dicom", ImageOrientationPatient=[0] * 6), ()),
        ("of another patient", dicom("dicom", PatientID="other"), ("2 patients", "give each")),
        ("twice", slice_of(lambda path: shutil.copy(path, path.with_name("copy.dcm"))), ()),
    )
]


@cases(OF_SERIES)
def test_a_faulty_slice_is_named(case: Case, attempt: Callable[[Case], None]) -> None:
    attempt(case)


OF_XML = [
    Case(f"XML {name}", "lidc", spoil, says, told_in=REPORT)
    for name, spoil, says in (
        ("cut in half", cut(XML), ("069.xml",)),
        ("that is empty", content(XML, lambda w: b""), ("069.xml",)),
        ("that is a text", text(XML, "no XML"), ("069.xml",)),
        ("of another series", words(XML, uid_of("series"), "1.2.3.4"), ("1.2.3.4",)),
        ("with a coordinate of words", words(XML, "<xCoord>8<", "<xCoord>left<"), ("left",)),
        (
            "with a coordinate of 100000",
            words(XML, "<xCoord>8<", "<xCoord>100000<"),
            ("99994", "16384"),
        ),
        (
            "with a negative coordinate",
            words(XML, "<xCoord>8<", "<xCoord>-80000<"),
            ("80018", "16384"),
        ),
        ("with a coordinate of NaN", words(XML, "<xCoord>8<", "<xCoord>nan<"), ("nan",)),
        ("with a rating of 9", words(XML, "<texture>5<", "<texture>9<"), ("9",)),
        ("with a rating of words", words(XML, "<texture>5<", "<texture>solid<"), ("solid",)),
        (
            "with entities that grow",
            both(
                words(
                    XML,
                    "<LidcReadMessage",
                    f'<!DOCTYPE a [<!ENTITY e0 "x">{BOMB}]><LidcReadMessage',
                ),
                words(XML, "1.8.1", "&e8;"),
            ),
            ("069.xml",),
        ),
        ("with a height that is no slice's", words(XML, ">108.000000 <", ">9000.0 <"), ()),
        ("with a height of words", words(XML, ">108.000000 <", ">high <"), ("high",)),
    )
]


@cases(OF_XML)
def test_faulty_annotations_are_named(case: Case, attempt: Callable[[Case], None]) -> None:
    attempt(case)


OF_FOLDERS = [
    Case(
        "no series", "lidc", both(remove("dicom"), lambda r: (r / "dicom").mkdir()), ("in/dicom",)
    ),
    Case("no folder of series", "lidc", remove("dicom"), ("in/dicom",)),
    Case("no annotations", "lidc", both(remove("xml"), lambda r: (r / "xml").mkdir()), ("in/xml",)),
    Case("no folder of annotations", "lidc", remove("xml"), ("in/xml",)),
    Case(
        "a file in place of series",
        "lidc",
        both(remove("dicom"), text("dicom", "x")),
        ("in/dicom",),
    ),
    Case("a size of 0", "lidc", nothing, ("size", "0"), "--size 0"),
    Case("no worker", "lidc", nothing, ("workers", "0"), "--workers 0"),
    Case("a spacing of NaN", "lidc", nothing, ("spacing_mm", "nan"), "--spacing_mm .nan"),
]


@cases(OF_FOLDERS)
def test_faulty_folders_are_named(case: Case, attempt: Callable[[Case], None]) -> None:
    attempt(case)


def one_nodule(out: Path) -> None:
    """The nodule is there."""
    assert pd.read_csv(out / "nodules.csv")["readers"].tolist() == [1]


RIGHT = [
    Case(name, "lidc", spoil, right=one_nodule)
    for name, spoil in (
        ("a file that is no DICOM beside the slices", text("dicom/LICENSE", "CC BY 3.0")),
        ("private elements", dicom("dicom", PatientName="A^B")),
        ("no preamble", content(SLICE, lambda whole: whole[132:])),
        (
            "XML of a radiograph beside",
            text("xml/cxr.xml", '<IdriReadMessage xmlns="http://www.nih.gov"/>'),
        ),
        ("a folder in the XML's", text("xml/deeper/readme.txt", "x")),
    )
]


@cases(RIGHT)
def test_what_comes_with_a_download_is_no_fault(
    case: Case, attempt: Callable[[Case], None]
) -> None:
    attempt(case)
