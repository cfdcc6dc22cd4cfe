"""What callbacks collect on every process, brought together."""

from typing import TypeVar

import torch

Row = TypeVar("Row")


def gather_rows(rows: list[Row]) -> list[Row]:
    """The rows of all processes, in the order of their ranks; every process must call this."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    parts: list[list[Row]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(parts, rows)
    return [row for part in parts for row in part]
