"""The picture of outlined nodules."""

import numpy as np
import pandas as pd

from callbacks.segmentation import outlines


def test_each_nodule_is_named_with_its_dice() -> None:
    slices = [np.eye(4), np.eye(4), np.zeros((4, 4))]
    table = pd.DataFrame({"name": "n", "dice": [0.1, 0.2], "slices": [slices] * 2})
    assert outlines(table).axes[0].get_title() == "n\nDice 0.10"
