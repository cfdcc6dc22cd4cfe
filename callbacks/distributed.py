"""What callbacks collect on every process, brought together."""

from datetime import timedelta
from operator import itemgetter
from typing import Any, TypeVar

import torch
import torch.distributed

Row = TypeVar("Row")


LONGEST = timedelta(days=30)
"""How long processes wait that may end hours after each other."""


def patient_group() -> Any:
    """A group of all processes that waits as long as it takes; every process must call this."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    return torch.distributed.new_group(backend="gloo", timeout=LONGEST)


def gather_rows(rows: list[Row], group: Any = None) -> list[Row]:
    """The rows of all processes, in the order of their ranks; every process must call this.

    Args:
        rows: of this process.
        group: of all processes; by default that which training uses.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    parts: list[list[Row]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(parts, rows, group)
    return [row for part in parts for row in part]


def gather_in_order(numbered: list[tuple[int, Row]]) -> list[Row]:
    """The rows of all processes, ascending in the numbers beside them; every process must call it.

    Args:
        numbered: rows of this process; those of one number stay in their order.
    """
    return [row for _, row in sorted(gather_rows(numbered), key=itemgetter(0))]


def gather_cases(rows: list[dict[str, Any]], *key: str) -> list[dict[str, Any]]:
    """The rows of all processes, each case once, in the order of the keys.

    Where cases do not divide by processes, Lightning gives some to two of them.

    Args:
        rows: of this process.
        key: columns that tell cases apart.
    """
    unique = {tuple(row[name] for name in key): row for row in gather_rows(rows)}
    return [unique[case] for case in sorted(unique)]
