"""Which studies are synthesized together, and by which process."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.insertion.shares import NODULE_BYTES, parcels, shares, work_bytes


def study(name: str, nodules: int) -> list[dict[str, Any]]:
    return [{"file": name, "name": f"{name}-{number}"} for number in range(nodules)]


@pytest.mark.parametrize(
    ("nodules", "expected"),
    [
        ([1, 1, 1, 1, 1], [[1, 1, 1, 1], [1]]),
        ([3, 1, 2, 3], [[3, 1], [2], [3]]),
        ([1, 9, 1, 4], [[1], [9], [1], [4]]),
        ([], []),
    ],
)
def test_a_parcel_is_of_whole_studies_that_fill_a_batch(
    nodules: list[int], expected: list[list[int]]
) -> None:
    studies = [study(str(number), count) for number, count in enumerate(nodules)]
    packed = parcels(studies, 4)
    assert [[len(one) for one in parcel] for parcel in packed] == expected
    assert [one for parcel in packed for one in parcel] == studies


def test_every_parcel_is_done_once_and_no_process_has_much_more_than_the_best_sharing() -> None:
    rng = np.random.default_rng(0)
    for processes in (1, 2, 3):
        work = rng.integers(1, 100, 7).tolist()
        given = shares(work, processes)
        assert sorted(one for mine in given for one in mine) == list(range(7))
        assert all(mine == sorted(mine) for mine in given)
        busiest = max(sum(work[one] for one in mine) for mine in given)
        best = min(
            np.bincount(owners, work, processes).max()
            for owners in product(range(processes), repeat=7)
        )
        assert best <= busiest <= best * 4 / 3
    assert shares([5], 3) == [[0], [], []]


def test_work_counts_files_and_nodules(tmp_path: Path) -> None:
    (tmp_path / "a.mha").write_bytes(bytes(700))
    (tmp_path / "series").mkdir()
    for name in "xy":
        (tmp_path / "series" / name).write_bytes(bytes(400))
    named = [str(tmp_path / name) for name in ("a.mha", "series", "lost")]
    work = work_bytes([study(name, 2) for name in named])
    assert work == 700 + 800 + 6 * NODULE_BYTES
