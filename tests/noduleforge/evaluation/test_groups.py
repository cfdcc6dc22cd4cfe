"""Groups of nodules have one name each, wherever figures are reported."""

from pathlib import Path

import pandas as pd
import torch

from callbacks.histogram import HistogramSums
from datamodules.batch import SUBTYPES
from noduleforge.evaluation.groups import GROUPS, LARGE
from noduleforge.evaluation.runs import of_nodules

ROOT = Path(__file__).parents[3]


def test_training_and_reports_name_the_same_groups() -> None:
    diameters = [5.0, 8.0, 8.1]
    sums = HistogramSums(2, 1.0)
    even = torch.full((3, 2), 0.5)
    sums.update(even, torch.stack([even, even]), torch.arange(3), torch.tensor(diameters))
    counts = {
        name.removeprefix("count/"): number
        for name, number in sums.compute().items()
        if name.startswith("count/")
    }
    nodules = pd.DataFrame(
        {"patient_id": list("abc"), "subtype": list(SUBTYPES), "diameter_mm": diameters, "w1": 1.0}
    )
    found = of_nodules(nodules).estimates
    reported = {name.removeprefix("w1/"): estimate.number for name, estimate in found.items()}
    assert counts == reported == {**dict.fromkeys(SUBTYPES, 1), LARGE: 1, "all": 3}
    assert tuple(reported) == GROUPS


def test_the_name_is_spelt_once() -> None:
    rooms = ("callbacks", "datamodules", "lightning_modules", "noduleforge")
    files = [file for room in rooms for file in (ROOT / room).rglob("*.py")]
    named = [file.name for file in files if "over_8" in file.read_text()]
    assert named == ["groups.py"]
