"""Dice coefficients, and their means by group."""

import numpy as np
import pandas as pd
import pytest
import torch
from monai.metrics import DiceMetric

from noduleforge.evaluation.segmentation import by_group, dice


def test_dice_is_monais() -> None:
    generator = torch.Generator().manual_seed(0)
    found, truth = (
        (torch.rand(5, 1, 6, 7, 8, generator=generator) > 0.6).float() for _ in range(2)
    )
    reference = DiceMetric(include_background=True, reduction="none")(found, truth).flatten()
    found, truth = found.numpy(), truth.numpy()
    assert dice(found, truth) == pytest.approx(reference.numpy())
    assert dice(truth, truth).tolist() == [1.0] * 5
    assert dice(1 - truth, truth).tolist() == [0.0] * 5
    assert dice(np.zeros_like(truth), truth).tolist() == [0.0] * 5


def test_groups_are_subtypes_and_sizes() -> None:
    table = pd.DataFrame(
        {
            "patient_id": list("aabbcc"),
            "subtype": ["solid", "solid", "part-solid", "solid", "", "part-solid"],
            "diameter_mm": [4.0, 8.0, 8.1, 15.0, 15.1, 30.0],
            "dice": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        }
    )
    means = by_group(table).set_index("group")
    assert means["nodules"].to_dict() == {
        "all": 6, "solid": 3, "part-solid": 2, "up to 8 mm": 2, "8 to 15 mm": 2, "over 15 mm": 2,
    }  # fmt: skip
    assert means.loc["all", "dice"] == pytest.approx(0.35)
    assert means.loc["8 to 15 mm", "dice"] == pytest.approx(0.35)
    assert (means["low"] <= means["dice"]).all()
    assert (means["high"] >= means["dice"]).all()
