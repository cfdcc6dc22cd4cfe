"""Rows of measurements as Markdown tables."""

from collections.abc import Iterable
from typing import Any

from timing.clock import Row


def cell(value: Any) -> str:
    """A figure; of several its median and quartiles."""
    if isinstance(value, dict):
        return f"{value['median']:g} ({value['low']:g} to {value['high']:g})"
    return "" if value is None else str(value)


def table(rows: Iterable[Row]) -> str:
    """A table for each kind of measurement, with the columns that its rows have."""
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        kinds.setdefault(row["measurement"], []).append(row)
    lines = []
    for kind, its in kinds.items():
        names = dict.fromkeys(name for row in its for name in row if name != "measurement")
        lines += [f"### {kind}", "", "| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
        for row in its:
            lines.append("| " + " | ".join(cell(row.get(name)) for name in names) + " |")
        lines.append("")
    return "\n".join(lines)
