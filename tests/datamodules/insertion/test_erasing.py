"""Requests that make a place healthy, alone or before a nodule comes there."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from datamodules.batch import NO_NODULE
from datamodules.insertion.modules import InsertionDataModule
from datamodules.io.volumes import Volume, write_volume

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))
from insertions import CT_ROI, asked_of

CENTER = (30, 30, 30)


@pytest.fixture
def asked(tmp_path: Path) -> Any:
    """A function that asks for rows in a study with a calcified nodule, marked in `there.mha`."""
    array = np.full((60, 60, 60), -850, np.int16)
    there = np.zeros(array.shape, np.uint8)
    there[27:33, 26:34, 27:33] = 1
    array[there > 0] = 300
    array[:3] = 30
    for name, values in (("scan", array), ("there", there), ("other", there[5:])):
        write_volume(tmp_path / f"{name}.mha", Volume(values, (1.0,) * 3, (0.0,) * 3, np.eye(3)))

    def ask(*rows: dict[str, Any]) -> Any:
        named = [{"name": f"r{n}", "study": "scan.mha", **row} for n, row in enumerate(rows)]
        pd.DataFrame(named).to_csv(tmp_path / "requests.csv", index=False)
        return asked_of(InsertionDataModule(tmp_path / "requests.csv"), CT_ROI)

    return ask


def test_a_nodule_can_be_erased(asked: Any) -> None:
    """Its place is bright, which a place for a new nodule must not be."""
    plan, (batch,) = asked({"subtype": "none", "mask": "there.mha"})
    assert not plan.failed
    assert batch["subtype"].tolist() == [NO_NODULE]
    assert batch["mask"].sum() == 6 * 8 * 6
    assert "erased" not in batch


def test_a_nodule_can_be_erased_and_another_put_there(asked: Any) -> None:
    place = dict(zip("zyx", CENTER, strict=True))
    far = {"z": 30, "y": 30, "x": 12, "diameter_mm": 5, "subtype": "solid", "copy": 2}
    near = {"subtype": "solid", **place, "diameter_mm": 7, "erase": "there.mha"}
    plan, (batch,) = asked(near, far)
    assert not plan.failed
    first, second = batch["erased"]
    assert first.sum() == 6 * 8 * 6
    assert (batch["image"][0][first > 0] == 300).all()
    assert not second.any()


def test_what_cannot_be_erased_is_said(asked: Any) -> None:
    place = dict(zip("zyx", CENTER, strict=True))
    row = {"subtype": "solid", **place, "diameter_mm": 7}
    wrong = ["nowhere.mha", "other.mha", None]
    plan, _ = asked(*[{**row, "erase": name, "copy": n} for n, name in enumerate(wrong)])
    assert "nowhere.mha" in plan.failed["r0"]
    assert "lies on another grid than the study" in plan.failed["r1"]
    assert "its place is no lung" in plan.failed["r2"]
