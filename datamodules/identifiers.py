"""Identifiers of patients, studies and nodules: text, in one form, wherever they are read.

Two rules, for every table, file name and header:

1. An identifier is text in Unicode's composed form (NFC) without blanks around it: `identifier`.
   `" P1"` and `"P1"` are one patient, and so is a name with its accents as letters of their own.
2. What differs after that, but not to a reader, is refused with both named: `check_readings`.
   Upper and lower case, wide and narrow forms, blanks within and leading zeros of a number make no
   difference to a reader, so that a table with both `P01` and `p1` is one that somebody must mend.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def identifier(text: str) -> str:
    """The one form of an identifier: NFC, without blanks of any kind around it.

    Blanks are whatever prints nothing: spaces of every width, tabs, ends of lines, byte-order marks
    and zero-width characters.

    Args:
        text: as it stands in a table, a header or a file's name.

    Returns:
        The identifier; empty if there is nothing but blanks.
    """
    return unicodedata.normalize("NFC", text.strip("".join(filter(_is_blank, set(text)))))


def identifiers(column: pd.Series) -> pd.Series:
    """A table's column in the one form of identifiers.

    Args:
        column: text, where no cell is missing.

    Returns:
        The identifiers; missing also where a cell holds nothing but blanks.
    """
    forms = {text: identifier(text) or None for text in column.dropna().unique()}
    return column.map(forms).astype(object)


def reading(identifier: str) -> str:
    """What a person reads: equal for identifiers that differ in nothing a person would go by.

    Case, width, blanks within, leading zeros of numbers, and the `.0` of a number that a
    spreadsheet has taken for a measurement, are left out.

    Args:
        identifier: in the form of `identifier`.
    """
    text = unicodedata.normalize("NFKC", identifier).casefold()
    text = "".join(letter for letter in text if not _is_blank(letter))
    if re.fullmatch(r"\d+\.0+", text):
        text = text.partition(".")[0]
    return re.sub(r"(?<!\d)0+(?=\d)", "", text)


def check_readings(identifiers: Iterable[str], where: str, what: str) -> None:
    """Refuse identifiers that differ, but that a person would read as the same.

    Args:
        identifiers: in the form of `identifier`; may repeat.
        where: they are from, for the message.
        what: they stand for, such as `patient_id`.

    Raises:
        ValueError: If two differ that read the same; names both.
    """
    seen: dict[str, str] = {}
    for one in sorted(set(identifiers)):
        other = seen.setdefault(reading(one), one)
        if other != one:
            message = (
                f"{where}: {what} {other!r} and {one!r} read the same: write both alike if they "
                "are one, or give one of them another name"
            )
            raise ValueError(message)


def _is_blank(letter: str) -> bool:
    """Whether a character prints nothing: separators, controls, and marks of format."""
    return letter.isspace() or unicodedata.category(letter) in ("Zs", "Zl", "Zp", "Cc", "Cf")
