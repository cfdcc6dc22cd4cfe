"""Studies are read while others are synthesized, and not all at once."""

import threading
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.insertion.reading import AHEAD, StudiesAhead
from datamodules.insertion.requests import InsertionPlan
from datamodules.insertion.rois import Region
from datamodules.io.volumes import Volume

SIZE = (8, 8, 8)


def region(row: dict[str, Any]) -> Region:
    mask = np.zeros(SIZE, np.uint8)
    mask[2:6, 2:6, 2:6] = 1
    return Region(row, Volume(np.zeros(SIZE), (1.0,) * 3, (0.0,) * 3, np.eye(3)), mask, ())


class Disk:
    """Studies that are read; `read_to` waits until so many have been."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.changed = threading.Condition()

    def __call__(self, asked: list[dict[str, Any]]) -> tuple[list[Region], dict[str, str]]:
        with self.changed:
            self.read.append(asked[0]["study"])
            self.changed.notify()
        bad = {row["name"]: "is bad" for row in asked if "bad" in row["name"]}
        return [region(row) for row in asked if row["name"] not in bad], bad

    def read_to(self, count: int) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: len(self.read) >= count, timeout=30)


def row(study: str, name: str, index: int) -> dict[str, Any]:
    return {"study": study, "name": name, "index": index, "patient_id": "p", "subtype": "solid"}


def batches_of(parcels: list[list[list[dict[str, Any]]]], disk: Disk) -> StudiesAhead:
    plan = InsertionPlan(Path("requests.csv"), (), (), 0, 1, {}, {}, {})
    return StudiesAhead(parcels, disk, plan, SIZE, batch_size=2, threads=1)


def test_studies_are_read_ahead_and_no_further() -> None:
    parcels = [[[row(f"s{number}", f"n{number}", number)]] for number in range(10)]
    disk = Disk()
    batches = iter(batches_of(parcels, disk))
    for number in range(10):
        assert next(batches)["name"] == [f"n{number}"]
        # while this batch is at the device
        ahead = min(number + 1 + AHEAD, 10)
        assert disk.read_to(ahead)
        assert len(disk.read) == ahead
    assert disk.read == [f"s{number}" for number in range(10)]


def test_a_batch_is_of_one_parcel_and_what_fails_is_no_part_of_any() -> None:
    first = [[row("a", "a0", 5)], [row("b", "bad0", 0)]]
    second = [[row("c", f"c{number}", number) for number in range(3)]]
    third = [[row("d", "bad1", 0)]]
    loader = batches_of([first, second, third], Disk())
    assert len(loader) == 4
    assert [batch["name"] for batch in loader] == [["a0"], ["c0", "c1"], ["c2"]]
    assert loader.plan.failed == {"bad0": "is bad", "bad1": "is bad"}
    assert list(loader.plan.waiting) == ["a0", "c0", "c1", "c2"]


def test_a_loader_that_is_left_ends_its_threads() -> None:
    before = threading.active_count()
    batches = iter(batches_of([[[row("a", "a", 0)]] for _ in range(9)], Disk()))
    next(batches)
    assert threading.active_count() > before
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
