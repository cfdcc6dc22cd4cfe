"""Which studies' nodules are synthesized together, and which process does it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

Requests = list[dict[str, Any]]
"""Those of one study."""

NODULE_BYTES = 2**24
"""Bytes of a study's files that take as long to read and to write as a nodule to synthesize, on a
CPU."""


def parcels(studies: Sequence[Requests], batch_size: int) -> list[list[Requests]]:
    """Put studies that follow on each other into parcels, of which no batch mixes two.

    The last bits of what a network computes depend on the batch. A parcel depends on the table
    alone, so that its nodules are the same on any number of processes, and where a run goes on.

    Args:
        studies: in the table's order.
        batch_size: nodules of a parcel, unless it is one larger study.
    """
    packed: list[list[Requests]] = []
    room = 0
    for study in studies:
        if len(study) > room:
            packed.append([])
            room = batch_size
        packed[-1].append(study)
        room -= len(study)
    return packed


def work_bytes(parcel: Sequence[Requests]) -> int:
    """What a parcel costs, its nodules counted as bytes: see `NODULE_BYTES`."""
    return sum(size_bytes(Path(study[0]["file"])) + len(study) * NODULE_BYTES for study in parcel)


def size_bytes(path: Path) -> int:
    """Size of a study's file, or of the files in its folder; 0 if it cannot be found."""
    try:
        files = path.iterdir() if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files)
    except OSError:  # said when the study is read
        return 0


def shares(work: Sequence[int], processes: int) -> list[list[int]]:
    """Share parcels out: the largest first, each to the process that has least so far.

    No process gets more than 4/3 of what the best sharing gives the busiest (Graham 1969).

    Args:
        work: of each parcel.
        processes: their number.

    Returns:
        For each process the positions of its parcels, ascending.
    """
    loads = [0] * processes
    given: list[list[int]] = [[] for _ in loads]
    for parcel in sorted(range(len(work)), key=lambda one: -work[one]):
        least = loads.index(min(loads))
        loads[least] += work[parcel]
        given[least].append(parcel)
    return [sorted(mine) for mine in given]
