"""Image files that are damaged, of another form, or hold what no CT and no mask can hold."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from faulty import Case, cases
from faulty_edits import Spoil, both, cell, content, cut, flip, folder, image, move, remove, text
from faulty_edits import words as replace

from datamodules.io.volumes import read_volume

ENDINGS = (".nii.gz", ".mha", ".nrrd")
REPORT = "report.csv"


def of_all(kind: str, spoil: Callable[[str], Spoil], *says: str, name: str) -> list[Case]:
    """A fault of one of three CTs (or of its mask), in each of three forms: the report names it."""
    return [
        Case(
            f"{kind}{ending}: {name}",
            "volumes",
            spoil(f"{kind}{number}{ending}"),
            (f"{kind}{number}{ending}", *says),
            told_in=REPORT,
        )
        for number, ending in enumerate(ENDINGS)
    ]


DAMAGED = [
    case
    for kind in ("ct", "mask")
    for name, spoil, says in (
        ("missing", remove, ("does not exist",)),
        ("a folder without images", folder, ()),
        ("empty", lambda file: content(file, lambda whole: b""), ()),
        ("cut in half", cut, ()),
        ("cut by a byte", lambda file: content(file, lambda whole: whole[:-1]), ()),
        ("a text", lambda file: text(file, "no image\n" * 50), ()),
        ("zeros", lambda file: content(file, lambda whole: bytes(len(whole))), ()),
        ("a bit of the header flipped", lambda file: flip(file, 0.02), ()),
        ("a bit in the middle flipped", lambda file: flip(file, 0.5), ()),
        ("the last bit flipped", lambda file: flip(file, 1.0, 1), ()),
        ("doubled", lambda file: content(file, lambda whole: whole * 2), ()),
    )
    for case in of_all(kind, spoil, *says, name=name)
    if case.name.partition(".")[2] != "nii.gz: doubled"  # what follows the voxels is not read
]


@cases(DAMAGED)
def test_damage_is_named_and_stops_no_other_study(
    case: Case, attempt: Callable[[Case], None]
) -> None:
    attempt(case)


def to_float(change: Callable[[np.ndarray], object]) -> Callable[[np.ndarray], np.ndarray]:
    """A change of voxels as float32."""

    def changed(array: np.ndarray) -> np.ndarray:
        made = array.astype(np.float32)
        change(made)
        return made

    return changed


def put(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """Put one value into the middle."""
    return to_float(lambda array: array.__setitem__((7, 7, 7), value))


CT, MASK = "ct1.mha", "mask1.mha"
OTHER_GRID = "lies on another grid"
CONTENT = [
    Case(name, "volumes", spoil, says, told_in=REPORT)
    for name, spoil, says in (
        ("a NaN among HU", image(CT, put(np.nan)), (CT,)),
        ("an infinite HU", image(CT, put(np.inf)), (CT,)),
        ("grey values in place of HU", image(CT, lambda a: (a * 0 + 100).astype(np.uint8)), (CT,)),
        ("HU far beyond int16", image(CT, put(40000.0)), (CT,)),
        ("a plane in place of a volume", image(CT, lambda a: a[0]), (CT,)),
        ("colours", image(CT, lambda a: np.stack([a] * 3, -1)), ()),
        ("a mask with NaN", image(MASK, put(np.nan)), (MASK,)),
        ("a mask of a label that is no number", image(MASK, put(14.245)), (MASK, "14.245")),
        ("a mask of negative labels", image(MASK, put(-3.0)), (MASK, "negative")),
        ("a mask of a label of 2e9", image(MASK, put(2e9)), (MASK,)),
        ("an empty mask", image(MASK, lambda a: a * 0), (MASK, "is empty")),
        (
            "a mask of another spacing",
            image(MASK, lambda a: a, Spacing=(2.0, 2.0, 2.0)),
            (MASK, OTHER_GRID),
        ),
        (
            "a mask of another origin",
            image(MASK, lambda a: a, Origin=(1.0, 2.0, 3.0)),
            (MASK, OTHER_GRID),
        ),
        ("a mask of other size", image(MASK, lambda a: a[1:]), (MASK, OTHER_GRID)),
        (
            "a mask that looks the other way",
            image(MASK, lambda a: a, Direction=(-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)),
            (MASK, OTHER_GRID),
        ),
        (
            "a NIfTI that is not compressed",
            both(
                image("ct0.nii.gz", lambda a: a),
                content("ct0.nii.gz", lambda w: gzip.decompress(w)[:-9]),
            ),
            ("ct0.nii.gz",),
        ),
        (
            "a MetaImage of 30000^3 voxels",
            content(CT, lambda w: w.replace(b"DimSize = 14 14 14", b"DimSize = 30000 30000 30000")),
            (CT,),
        ),
        (
            "an NRRD of 30000^3 voxels",
            content(
                "ct2.nrrd", lambda w: w.replace(b"sizes: 14 14 14", b"sizes: 30000 30000 30000")
            ),
            ("ct2.nrrd",),
        ),
    )
]


@cases(CONTENT)
def test_what_no_image_can_hold_is_named(case: Case, attempt: Callable[[Case], None]) -> None:
    attempt(case)


def diameters(out: Path) -> list[float]:
    return pd.read_csv(out / "nodules.csv")["diameter_mm"].tolist()


def all_alike(out: Path) -> None:
    """All three nodules are there, and of the same size."""
    assert len(set(diameters(out))) == 1
    assert len(diameters(out)) == 3


def hu_kept(out: Path) -> None:
    """HU are those of the source, whatever type it stores them in."""
    all_alike(out)
    table = pd.read_csv(out / "nodules.csv")
    for name in table["image"]:
        array = read_volume(out / name).array
        assert -950 <= array.min() < array.max() <= -700


def soft(array: np.ndarray) -> np.ndarray:
    """Shares of voxels, from 0 to 1."""
    return array.astype(np.float32) * 0.8


RIGHT = [
    Case(name, "volumes", spoil, right=right, options=options)
    for name, spoil, right, options in (
        ("float HU", image(CT, lambda a: a.astype(np.float32)), hu_kept, ""),
        ("double HU", image(CT, lambda a: a.astype(np.float64)), hu_kept, ""),
        ("int32 HU", image("ct2.nrrd", lambda a: a.astype(np.int32)), hu_kept, ""),
        ("float NIfTI", image("ct0.nii.gz", lambda a: a.astype(np.float32)), hu_kept, ""),
        ("a soft mask", image(MASK, soft), all_alike, ""),
        ("a mask of 255", image(MASK, lambda a: a * 255), all_alike, "--separate components"),
        ("a float mask", image(MASK, lambda a: a.astype(np.float64)), all_alike, ""),
        (
            "endings in capitals",
            both(move(CT, "CT1.MHA"), cell("table.csv", "image", "CT1.MHA", 1)),
            hu_kept,
            "",
        ),
        (
            "a name with dots",
            both(move(CT, "1.3.6.1.mha"), cell("table.csv", "image", "1.3.6.1.mha", 1)),
            hu_kept,
            "",
        ),
        (
            "a name in Chinese",
            both(move(CT, "肺 1.mha"), cell("table.csv", "image", "肺 1.mha", 1)),
            hu_kept,
            "",
        ),
        ("own columns", cell("table.csv", "diameter_mm", "1000"), all_alike, ""),
        ("a byte order mark", content("table.csv", lambda w: b"\xef\xbb\xbf" + w), all_alike, ""),
        ("Windows' ends of lines", replace("table.csv", "\n", "\r\n"), all_alike, ""),
        ("whole volumes", image(CT, lambda a: a), all_alike, "--whole true"),
        (
            "a checksum taken out",
            content(CT, lambda w: w.replace(b"crc32=", b"other=")),
            hu_kept,
            "",
        ),
    )
]


@cases(RIGHT)
def test_what_is_right_in_another_form_comes_out_right(
    case: Case, attempt: Callable[[Case], None]
) -> None:
    attempt(case)


IMAGE, LABELS = "images/n0.mha", "masks/n0.mha"
SEEN = [
    Case(f"{name}, looked at", "one nodule", spoil, ("n0.mha",))
    for name, spoil in (
        ("an image missing", remove(IMAGE)),
        ("a mask missing", remove(LABELS)),
        ("an image cut", cut(IMAGE)),
        ("a flipped bit", flip(IMAGE)),
        ("an empty mask", image(LABELS, lambda a: a * 0)),
        ("a NaN", image(IMAGE, put(np.nan))),
        ("a mask of other size", image(LABELS, lambda a: a[1:])),
        ("a plane as a mask", image(LABELS, lambda a: a[7])),
    )
]


@cases(SEEN)
def test_inspection_names_the_file(case: Case, attempt: Callable[[Case], None]) -> None:
    attempt(case)
