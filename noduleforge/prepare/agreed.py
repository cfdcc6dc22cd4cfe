"""Nodules and what readers said of them, as files and rows of a store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.io.volumes import Volume
from datamodules.ratings import RATINGS
from noduleforge.prepare.cases import Rows
from noduleforge.prepare.consensus import Marking
from noduleforge.prepare.store import Cut, row, write_nodule

Placed = tuple[NDArray[np.bool_], tuple[int, int, int]]
"""A mask, a box `(z, y, x)`, and the index of its first voxel in the scan."""


def check_agreement(agreement: float) -> None:
    """Check the share of the readers that must have a voxel.

    Raises:
        ValueError: If it is not above 0 and up to 1.
    """
    if not 0 < agreement <= 1:
        message = f"agreement is {agreement}: give a share above 0 and up to 1"
        raise ValueError(message)


@dataclass(frozen=True)
class Whose:
    """Whose nodules are written, and where to.

    Attributes:
        out: the store's folder.
        stem: how the names of the case's files begin.
        scan_name: under which a whole scan is written.
        patient_id: whose scan it is.
        series_uid: DICOM series instance UID.
    """

    out: Path
    stem: str
    scan_name: str
    patient_id: str
    series_uid: str


def write_rated(
    whose: Whose,
    told: str,
    scan: Volume,
    placed: Placed,
    readers: Sequence[Marking],
    cut: Cut,
    rows: Rows,
    more: Mapping[str, object] | None = None,
) -> None:
    """Write one nodule with its readers' mean ratings, or report why not.

    Args:
        whose: the nodule is.
        told: how the report calls it.
        scan: the CT, in HU.
        placed: the nodule's mask.
        readers: what each of them marked; may be none.
        cut: what to write.
        rows: of the scan so far; what is made is added.
        more: columns of `nodules.csv` of the nodule.
    """
    name = f"{whose.stem}_{len(rows.nodules) + 1}"
    mask, start = placed
    if not mask.any():
        rows.report.append(row("nodule", told, "has no voxel that enough readers agree on"))
        return
    try:
        files = write_nodule(whose.out, name, scan, whose.scan_name, mask, start, cut, rows.nodules)
    except ValueError as error:
        rows.report.append(row("nodule", told, str(error)))
        return
    means = {
        rating: round(float(np.mean(values)), 3) if values else None
        for rating in RATINGS
        for values in [[one.ratings[rating] for one in readers if rating in one.ratings]]
    }
    identity = {"nodule_id": name, "patient_id": whose.patient_id, "series_uid": whose.series_uid}
    rows.nodules.append({**identity, **files, "readers": len(readers), **means, **(more or {})})
    rows.outlines += [
        {
            "nodule_id": name,
            "patient_id": whose.patient_id,
            "outline": one.name,
            "reader": one.reader,
            "volume_mm3": round(float(one.mask.sum()) * float(np.prod(scan.spacing_mm)), 2),
            **one.ratings,
        }
        for one in readers
    ]
