"""Tables of requests to put nodules into studies, and what becomes of each."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.insertion.rows import (
    check_bins,
    check_like,
    check_row,
    histogram_of,
    radiograph_spacing,
)
from datamodules.io.radiographs import read_radiograph
from datamodules.pseudonyms import patient_pseudonym
from datamodules.site_secret import keyed
from datamodules.tables import read_table

if TYPE_CHECKING:
    from datamodules.io.volumes import Volume


@dataclass
class InsertionPlan:
    """What is to become of the requests of a table.

    Attributes:
        table: the file; what requests name is relative to its folder.
        names: all requests, in the table's order.
        shape_patients: patients whose nodules' outlines are asked for.
        bins: of the histograms that are asked for; 0 where none is.
        threads: of each process that read studies, and as many that write them.
        studies: the names of each study's requests, by its key.
        done: rows of the manifest of studies that an earlier run has finished, by their keys.
        failed: for each request that cannot be fulfilled why, by name; grows as studies are read.
        waiting: for each that can be its row, by name; likewise.
    """

    table: Path
    names: tuple[str, ...]
    shape_patients: tuple[str, ...]
    bins: int
    threads: int
    studies: dict[str, list[str]]
    done: dict[str, list[dict[str, Any]]]
    failed: dict[str, str]
    waiting: dict[str, dict[str, Any]] = field(default_factory=dict)


def finished_file(run: Path, key: str) -> Path:
    """Where a run keeps the rows of the manifest of a study that is finished.

    Args:
        run: the run's folder.
        key: of `study_key`.
    """
    return run / "finished" / f"{key}.json"


def read_finished(run: Path, key: str) -> list[dict[str, Any]] | None:
    """Rows of the manifest of a study that a run has finished; None if it has not.

    What was finished, but is no longer there, is to be done again.
    """
    path = finished_file(run, key)
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    except ValueError:  # no JSON: the file was cut short
        return None
    files = [row[kind] for row in rows for kind in ("image", "mask") if row[kind]]
    there = all((run / file).exists() for file in files)
    return rows if rows and there else None


def read_requests(path: Path) -> list[dict[str, Any]]:
    """Read a table of requests.

    Returns:
        For each request the texts of its filled cells by column, with a unique `name`, `copy`, and
        its `number` in the table; `check_row` says what is wrong with a row.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it has no study column, no request, or a name twice.
    """
    table = read_table(path, dtype=str, required=["study"])
    rows: list[dict[str, Any]] = []
    seen: dict[str, str] = {}
    for number, cells in enumerate(table.to_dict("records")):
        texts = {str(column): text for column, text in cells.items() if isinstance(text, str)}
        filled: dict[str, Any] = {"name": f"nodule-{number:04}", "copy": "", **texts}
        filled["number"] = number
        name = filled["name"]
        # file systems may not tell large from small letters
        if (other := seen.get(name.casefold())) is not None:
            message = (
                f"{path} has requests of the same name, {other!r} and {name!r}: make names unique"
            )
            raise ValueError(message)
        seen[name.casefold()] = name
        rows.append(filled)
    return rows


def read_requested_radiograph(path: Path, row: Mapping[str, Any]) -> "Volume":
    """Read a whole radiograph, bone bright, that may then be changed.

    Args:
        path: of the study.
        row: the first of its requests, which says a picture's spacing.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is damaged, or its spacing is not known.
    """
    radiograph = read_radiograph(path, radiograph_spacing(row.get("spacing_mm")))
    return replace(radiograph, array=radiograph.array.copy())


def by_study(
    rows: Iterable[Mapping[str, Any]], root: Path, bins: int
) -> tuple[list[list[dict[str, Any]]], dict[str, str]]:
    """Check each request, and put those for the same copy of the same study together.

    Args:
        rows: as `read_requests` returns them.
        root: folder that their files are relative to.
        bins: of the model's histograms; 0 for as many as the first request asks for.

    Returns:
        The requests of each study as `check_row` returns them, and by name why others are faulty.
    """
    studies: dict[tuple[str, str], list[dict[str, Any]]] = {}
    failed: dict[str, str] = {}
    for cells in rows:
        try:
            row = check_row(cells, root)
            check_bins(row, bins)
            others = studies.setdefault((row["file"], row["copy"]), [])
            if others:
                check_like(row, others[0])
        except (ValueError, OSError) as error:
            failed[cells["name"]] = str(error)
            continue
        bins = bins or len(histogram_of(row))
        others.append(row)
    return [group for group in studies.values() if group], failed


def study_key(rows: Sequence[Mapping[str, Any]]) -> str:
    """Stands for a study with its requests, wherever the table lies and they stand in it."""
    place = ("file", "number")
    told = [{name: value for name, value in row.items() if name not in place} for row in rows]
    return keyed("request", json.dumps(told, sort_keys=True))[:16]


def pseudonym(row: Mapping[str, Any]) -> str:
    """The request's patient, or a name made of the study's path that says nothing about it."""
    return str(row.get("patient_id") or patient_pseudonym(row["study"]))
