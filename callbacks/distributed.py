"""What callbacks collect on every process, brought together."""

from typing import Any, TypeVar

import torch

Row = TypeVar("Row")


def gather_rows(rows: list[Row]) -> list[Row]:
    """The rows of all processes, in the order of their ranks; every process must call this."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    parts: list[list[Row]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


def gather_cases(rows: list[dict[str, Any]], *key: str) -> list[dict[str, Any]]:
    """The rows of all processes, each case once, in the order of the keys.

    Where cases do not divide by processes, Lightning gives some to two of them.

    Args:
        rows: of this process.
        key: columns that tell cases apart.
    """
    unique = {tuple(row[name] for name in key): row for row in gather_rows(rows)}
    return [unique[case] for case in sorted(unique)]
