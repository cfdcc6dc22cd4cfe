"""Tables of requests to put nodules into studies, and what becomes of each."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datamodules.batch import SUBTYPES, UNKNOWN_SUBTYPE
from datamodules.digest import sha256
from datamodules.io.radiographs import read_radiograph

if TYPE_CHECKING:
    import pandas as pd

    from datamodules.io.volumes import Volume


@dataclass(frozen=True)
class InsertionPlan:
    """What is to become of the requests of a table.

    Attributes:
        table: the file; what requests name is relative to its folder.
        names: all requests, in the table's order.
        shape_patients: patients whose nodules' outlines are asked for.
        waiting: rows of the requests that can be fulfilled, with the `key` of their study.
        failed: for each request that cannot be fulfilled why, by name.
        done: rows of the manifest of studies that an earlier run has finished.
    """

    table: Path
    names: tuple[str, ...]
    shape_patients: tuple[str, ...]
    waiting: tuple[dict[str, Any], ...]
    failed: dict[str, str]
    done: tuple[dict[str, Any], ...]


def finished_file(run: Path, key: str) -> Path:
    """Where a run keeps the rows of the manifest of a study that is finished.

    Args:
        run: the run's folder.
        key: of `study_key`.
    """
    return run / "finished" / f"{key}.json"


def read_finished(run: Path, key: str) -> list[dict[str, Any]] | None:
    """Rows of the manifest of a study that a run has finished; None if it has not."""
    path = finished_file(run, key)
    rows: list[dict[str, Any]] | None = json.loads(path.read_text()) if path.is_file() else None
    return rows


def read_requests(path: Path) -> "pd.DataFrame":
    """Read a table of requests.

    Returns:
        One request a row, with a unique `name`, `study`, `copy`, `shape_patient_id` and `index`
        (the seed).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it has no study column, no request, or a name twice.
    """
    import pandas as pd

    if not path.is_file():
        message = f"{path} does not exist: give a table of requests"
        raise FileNotFoundError(message)
    texts = ("name", "study", "copy", "patient_id", "subtype", "mask", "shape_patient_id")
    table = pd.read_csv(path, dtype=dict.fromkeys((*texts, "spacing_mm"), str))
    if "study" not in table or table.empty or table["study"].isna().any():
        message = f"{path} lacks the column study, or a cell of it: say which study each row is for"
        raise ValueError(message)
    numbered = pd.Series([f"nodule-{number:04}" for number in range(len(table))])
    table["name"] = table["name"].fillna(numbered) if "name" in table else numbered
    if table["name"].duplicated().any():
        message = f"{path} has requests of the same name: make names unique"
        raise ValueError(message)
    table["copy"] = table["copy"].fillna("") if "copy" in table else ""
    if "shape_patient_id" not in table:
        table["shape_patient_id"] = None
    seeds = table["seed"] if "seed" in table else pd.Series(np.nan, table.index)
    table["index"] = np.where(seeds.isna(), np.arange(len(table)), seeds.fillna(0)).astype(int)
    return table


def histogram_of(row: dict[str, Any]) -> tuple[float, ...]:
    """The histogram that is asked for: shares with spaces between; empty where there is none."""
    text = row.get("histogram")
    if not isinstance(text, str) or not text.strip():
        return ()
    try:
        shares = np.array([float(word) for word in text.split()])
    except ValueError as error:
        message = f"histogram is {text!r}: give numbers with spaces between"
        raise ValueError(message) from error
    if (shares < 0).any() or abs(shares.sum() - 1) > 1e-3:
        message = f"histogram sums to {shares.sum():g}: give shares of at least 0 that sum to 1"
        raise ValueError(message)
    return tuple((shares / shares.sum()).tolist())


def radiograph_spacing(text: Any) -> tuple[float, float] | None:
    """A picture's spacing along y and x in mm, from a cell of the table; None where it is empty.

    Raises:
        ValueError: If it is not one number above 0, or two.
    """
    if not isinstance(text, str) or not text.strip():
        return None
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not min(numbers) > 0:
        message = f"spacing_mm is {text!r}: give a number above 0, or two, along y and x"
        raise ValueError(message)
    return numbers[0], numbers[-1]


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


def code_of(subtype: Any) -> int:
    """The code of a request's subtype, which only CT has."""
    return SUBTYPES.index(subtype) if subtype in SUBTYPES else UNKNOWN_SUBTYPE


def study_key(study: str, rows: "pd.DataFrame") -> str:
    """Stands for a study with its requests."""
    return sha256(study, rows.to_json(orient="split"))[:16]


def pseudonym(row: dict[str, Any]) -> str:
    """The request's patient, or a name made of the study's path that says nothing about it."""
    given = row.get("patient_id")
    return given if isinstance(given, str) and given else f"study-{sha256(row['study'])[:10]}"
