"""Rows of a table of requests: what their cells mean, checked before any study is read."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.file_names import check_file_name
from datamodules.identifiers import identifier
from datamodules.ratings import RATINGS

NUMBERS = ("x_mm", "y_mm", "z_mm", "z", "y", "x", "diameter_mm")
"""Columns of finite numbers; LIDC's ratings are too."""

LONGEST_ID = 64
"""Characters of a DICOM identifier (LO)."""


def check_row(row: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """A request with its cells as what they mean; nothing of its files is read.

    Args:
        row: the texts of its filled cells by column, with `name` and its `number` in the table.
        root: folder that files are relative to.

    Returns:
        The row with numbers as such, `index` (the seed) and `file`, the study's path, the same for
        the same file. `histogram` and `spacing_mm` stay text.

    Raises:
        ValueError: If a cell cannot be what it should be; names column, value and mend.
    """
    check_file_name(row["name"], "name")
    if "study" not in row:
        message = "has no study: say which file or folder the nodule goes into"
        raise ValueError(message)
    numbers = {name: finite(name, row[name]) for name in (*NUMBERS, *RATINGS) if name in row}
    for name, (low, high) in RATINGS.items():
        if name in numbers and not low <= numbers[name] <= high:
            message = f"{name} is {numbers[name]:g}: give a rating from {low} to {high}, or none"
            raise ValueError(message)
    if numbers.get("diameter_mm", 1.0) <= 0:
        message = f"diameter_mm is {numbers['diameter_mm']:g}: give a number above 0, or a mask"
        raise ValueError(message)
    histogram_of(row)
    radiograph_spacing(row.get("spacing_mm"))
    texts = {
        name: check_identifier(name, row[name])
        for name in ("patient_id", "shape_patient_id")
        if name in row
    }
    seed = seed_of(row["seed"]) if "seed" in row else row["number"]
    return {**row, **numbers, **texts, "index": seed, "file": os.path.realpath(root / row["study"])}


def finite(name: str, text: str) -> float:
    """A cell's number.

    Raises:
        ValueError: If it is none, or not finite.
    """
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    if not np.isfinite(number):
        message = f"{name} is {text!r}: give a finite number, or leave it empty"
        raise ValueError(message)
    return number


def seed_of(text: str) -> int:
    """A cell's seed; spreadsheets may have put a `.0` behind it.

    Raises:
        ValueError: If it is no whole number of 64 bits.
    """
    digits = text.strip().removesuffix(".0")
    limits = np.iinfo(np.int64)
    try:
        if limits.min <= (seed := int(digits)) <= limits.max:
            return seed
    except ValueError:
        pass
    message = f"seed is {text!r}: give a whole number of at most 64 bits, such as 7, or none"
    raise ValueError(message)


def check_identifier(name: str, text: str) -> str:
    """An identifier that DICOM can hold, in its one form.

    Raises:
        ValueError: If it is too long, or has a character that DICOM's texts cannot have.
    """
    known = identifier(text)
    if not 0 < len(known) <= LONGEST_ID:
        message = (
            f"{name} has {len(known)} characters, which DICOM cannot hold: give 1 to {LONGEST_ID}"
        )
        raise ValueError(message)
    if "\\" in known or not known.isprintable():
        message = (
            f"{name} is {known!r}, which DICOM cannot hold: leave out backslashes, ends of lines "
            "and what cannot be printed"
        )
        raise ValueError(message)
    return known


def histogram_of(row: Mapping[str, Any]) -> tuple[float, ...]:
    """The histogram that is asked for: shares with spaces between; empty where there is none.

    Raises:
        ValueError: If it has something else than shares that sum to 1.
    """
    text = row.get("histogram")
    if not isinstance(text, str) or not text.strip():
        return ()
    try:
        shares = np.array([float(word) for word in text.split()])
    except ValueError as error:
        message = f"histogram is {text!r}: give numbers with spaces between"
        raise ValueError(message) from error
    # written so that NaN is refused
    if not ((shares >= 0).all() and abs(shares.sum() - 1) <= 1e-3):
        message = f"histogram sums to {shares.sum():g}: give shares of at least 0 that sum to 1"
        raise ValueError(message)
    return tuple((shares / shares.sum()).tolist())


def radiograph_spacing(text: Any) -> tuple[float, float] | None:
    """A picture's spacing along y and x in mm, from a cell of the table; None where it is empty.

    Raises:
        ValueError: If it is not one finite number above 0, or two.
    """
    if not isinstance(text, str) or not text.strip():
        return None
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(0 < number < np.inf for number in numbers):
        message = f"spacing_mm is {text!r}: give a number above 0, or two, along y and x"
        raise ValueError(message)
    return numbers[0], numbers[-1]


def check_like(row: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    """Check that a request says of its study what an earlier one says.

    Raises:
        ValueError: If one of them has another patient or spacing.
    """
    for name in ("patient_id", "spacing_mm"):
        if row.get(name) != first.get(name):
            message = (
                f"{name} is {row.get(name, '')!r}, but {first['name']} has {first.get(name, '')!r} "
                "for the same study: give both the same"
            )
            raise ValueError(message)


def check_bins(row: Mapping[str, Any], bins: int) -> None:
    """Check that the histogram that is asked for, if any, has a share for each bin.

    Args:
        row: the request.
        bins: of the model; 0 where it is not known.

    Raises:
        ValueError: If it has more or fewer.
    """
    shares = histogram_of(row)
    if shares and bins and len(shares) != bins:
        message = f"histogram has {len(shares)} shares: give {bins}, one for each bin"
        raise ValueError(message)
