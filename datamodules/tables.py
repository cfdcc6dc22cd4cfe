"""Tables of what there is: choosing rows, and telling all that is wrong with them at once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

MOST_ERRORS = 10
"""How many of many errors are put in words."""

log = logging.getLogger(__name__)


def select_rows(table: pd.DataFrame, query: str | None, source: str) -> pd.DataFrame:
    """Keep the rows of a pandas query, and say how many it leaves out.

    Args:
        table: one nodule a row.
        query: what to keep; None keeps everything.
        source: where the table is from, for messages.

    Raises:
        ValueError: If the query cannot be understood or leaves no row.
    """
    if query is None:
        return table
    try:
        kept = table.query(query)
    except Exception as error:  # pandas lets through whatever the expression raises
        columns = ", ".join(map(str, table.columns))
        message = f"select {query!r} is no query on {source} ({error}; columns: {columns})"
        raise ValueError(message) from error
    log.info("%s: %r leaves out %d of %d rows", source, query, len(table) - len(kept), len(table))
    if kept.empty:
        message = f"{source} has no rows after select {query!r}: widen the query"
        raise ValueError(message)
    return kept


def raise_together(errors: Sequence[str]) -> None:
    """Raise a ValueError that lists all errors, the first 10 in words; nothing if there is none."""
    if errors:
        rest = len(errors) - MOST_ERRORS
        more = [f"... and {rest} more like these"] if rest > 0 else []
        message = "\n".join([*errors[:MOST_ERRORS], *more])
        raise ValueError(message)
