"""Tables of what there is: reading, choosing rows, telling all that is wrong with them at once."""

from __future__ import annotations

import csv
import io
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.selection import selected

if TYPE_CHECKING:
    import pandas as pd

MOST_ERRORS = 10
"""How many of many errors are put in words."""

OTHER_FORMS = {
    b"\x1f\x8b": ("is compressed with gzip", "unpack it with gunzip"),
    b"\xff\xfe": ("is UTF-16 text", "save it as UTF-8"),
    b"\xfe\xff": ("is UTF-16 text", "save it as UTF-8"),
    b"PK": ("is a zip file or a spreadsheet", "save it as CSV"),
}
"""What files named .csv turn out to be, by their first bytes: what is wrong, and its mend."""

SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
"""What programs put between cells instead of commas, as some do where the comma is decimal."""

log = logging.getLogger(__name__)


def read_table(
    path: Path,
    dtype: Mapping[str, type] | type[str] | None = None,
    required: Iterable[str] = (),
    names: Sequence[str] | None = None,
    empty: bool = False,
) -> pd.DataFrame:
    """Read a CSV table that somebody gives: cells between commas, in UTF-8, below a header.

    Args:
        path: the table; a byte order mark at its beginning is no fault.
        dtype: types of columns, such as str for identifiers, where pandas guesses the others; or
            str for all.
        required: columns that must be there.
        names: what the columns are called instead of what the header says.
        empty: whether a table without rows will do.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such table, naming the line and what to do.
    """
    import pandas as pd

    text = read_text(path)
    header = _check_form(path, text, names, empty)
    if names is None:
        _check_header(path, header, required)
    try:
        return pd.read_csv(
            io.StringIO(text),
            header=0,
            names=None if names is None else list(names),
            usecols=None if names is None else range(len(names)),
            dtype=dtype,
            index_col=False,
            low_memory=False,
        )
    except ValueError as error:
        message = f"{path} cannot be read as a table ({error}): correct it"
        raise ValueError(message) from error


def check_numbers(
    table: pd.DataFrame, columns: Iterable[str], path: Path, finite: bool = True
) -> None:
    """Refuse text where numbers are meant.

    Args:
        table: of `read_table`.
        columns: that must hold numbers; those that the table lacks are passed over.
        path: the table's, for the message.
        finite: whether cells may neither be empty nor infinite.

    Raises:
        ValueError: If a cell is no number, naming lines and what they hold.
    """
    import numpy as np
    import pandas as pd

    errors = []
    for name in columns:
        if name in table:
            numbers = pd.to_numeric(table[name], errors="coerce").astype(float)
            good = np.isfinite(numbers) if finite else numbers.notna() | table[name].isna()
            errors += [
                f"{path}: {name} is {table[name].iloc[row]!r} in line {row + 2}: give a number"
                for row in np.flatnonzero(~good)
            ]
    raise_together(errors)


def read_text(path: Path, encoding: str = "utf-8-sig") -> str:
    """Read a file of text that somebody gives.

    Args:
        path: the file.
        encoding: what its bytes mean.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is empty, or no text of this encoding.
    """
    if not path.is_file():
        there = "is a folder" if path.is_dir() else "does not exist"
        message = f"{path} {there}: give the path of a table"
        raise FileNotFoundError(message)
    content = path.read_bytes()
    if not content.strip():
        message = f"{path} is empty: write it again, with a header and a row for each entry"
        raise ValueError(message)
    for first, (fault, mend) in OTHER_FORMS.items():
        if content.startswith(first):
            message = f"{path} {fault}, expected plain text: {mend}"
            raise ValueError(message)
    if b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        message = f"{path} has a NUL byte in line {line}, expected text: save it as CSV in UTF-8"
        raise ValueError(message)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        message = (
            f"{path} is no UTF-8 text, by line {line} (it may be Latin-1 or of Windows): "
            "save it as UTF-8"
        )
        raise ValueError(message) from error


def _check_form(path: Path, text: str, names: Sequence[str] | None, empty: bool) -> list[str]:
    """Check that all rows have a cell for each column; return the header's cells."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    errors, rows, begun = [], 0, 1
    try:
        for row in reader:
            begun, line = reader.line_num + 1, begun
            if not row or (len(row) == 1 and not row[0].strip()):  # pandas skips it, too
                continue
            if not header:
                header = row
                continue
            rows += 1
            expected = len(header if names is None else names)
            if len(row) not in (expected, len(header)):
                errors.append(
                    f"{path}: line {line} has {len(row)} cell(s), expected {expected}, one for "
                    "each column: correct its commas, or put quotes around a cell that has one"
                )
    except csv.Error as error:
        message = (
            f"{path} has a quote that is not closed, or text beside one, in the row that begins "
            f"in line {begun} ({error}): close it, and double quotes within cells"
        )
        raise ValueError(message) from error
    for separator, called in SEPARATORS.items():
        if len(header) == 1 and separator in header[0]:
            message = f"{path} has {called} between its cells: save it with commas"
            raise ValueError(message)
    raise_together(errors)
    if not rows and not empty:
        message = f"{path} has no rows below its header: add some"
        raise ValueError(message)
    return header


def _check_header(path: Path, header: Sequence[str], required: Iterable[str]) -> None:
    """Check the columns' names."""
    padded = [name for name in header if name != name.strip()]
    if padded:
        message = f"{path} has blanks around the name of the column(s) {padded}: remove them"
        raise ValueError(message)
    doubled = [name for name, times in Counter(header).items() if name and times > 1]
    if doubled:
        message = (
            f"{path} has the column(s) {', '.join(doubled)} more than once: remove or rename one"
        )
        raise ValueError(message)
    if missing := [name for name in required if name not in header]:
        message = (
            f"{path} lacks the column(s) {', '.join(missing)} (found: {', '.join(header)}): "
            "add them, or rename those that are meant"
        )
        raise ValueError(message)


def select_rows(table: pd.DataFrame, query: str | None, source: str) -> pd.DataFrame:
    """Keep the rows for which an expression holds, and say how many it leaves out.

    Args:
        table: one nodule a row.
        query: what to keep (see `datamodules.selection`); None keeps everything.
        source: where the table is from, for messages.

    Raises:
        ValueError: If the query cannot be understood or leaves no row.
    """
    if query is None:
        return table
    try:
        kept = table[selected(table, query)]
    except (ValueError, TypeError) as error:  # pandas' own where kinds cannot be compared
        columns = ", ".join(map(str, table.columns))
        message = (
            f"select {query!r} is no query on {source} ({error}; columns: {columns}): correct it"
        )
        raise ValueError(message) from error
    log.info("%s: %r leaves out %d of %d rows", source, query, len(table) - len(kept), len(table))
    if kept.empty:
        message = f"{source} has no rows after select {query!r}: widen the query"
        raise ValueError(message)
    return kept


def listed(names: Iterable[object]) -> str:
    """Names with commas between, the first 10 and how many more."""
    words = [str(name) for name in names]
    rest = len(words) - MOST_ERRORS
    return ", ".join(words[:MOST_ERRORS]) + (f" and {rest} more" if rest > 0 else "")


def empty_cells(table: pd.DataFrame, columns: Iterable[str], path: Path) -> list[str]:
    """Say of each column in which lines of its file it is empty; nothing where it is filled.

    Args:
        table: as `read_table` returns it, with no row left out.
        columns: that must be filled.
        path: of the file.
    """
    empty = {name: table.index[table[name].isna()] + 2 for name in columns}
    return [
        f"{path}: {name} is empty in line(s) {listed(lines)}: fill it in"
        for name, lines in empty.items()
        if len(lines)
    ]


def raise_together(errors: Sequence[str]) -> None:
    """Raise a ValueError that lists all errors, the first 10 in words; nothing if there is none."""
    if errors:
        rest = len(errors) - MOST_ERRORS
        more = [f"... and {rest} more like these"] if rest > 0 else []
        message = "\n".join([*errors[:MOST_ERRORS], *more])
        raise ValueError(message)
