"""Nodules made of numbers, for tests."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from datamodules.collections import NoduleSet, Patch
from datamodules.dataset import NoduleDataset
from datamodules.io.volumes import Volume


class Balls(NoduleSet):
    """Balls of integer values, of a spacing of 2 mm."""

    image_dtype = np.int16

    def __init__(self, subtypes: Sequence[int], roi_size: Sequence[int]) -> None:
        patients = [f"P{nodule}" for nodule in range(len(subtypes))]
        super().__init__(pd.DataFrame({"patient_id": patients}), subtypes, roi_size)

    def read(self, nodule: int, size: Sequence[int]) -> Patch:
        axes = np.indices(size)
        center = [s // 2 for s in size]
        squares = [(axis - c) ** 2 for axis, c in zip(axes, center, strict=True)]
        mask = np.sum(squares, axis=0) <= (len(size) + 3 + nodule % 3) ** 2
        image = np.where(mask, 0.0, -800.0) + 5 * np.sin(axes[-1] / 3 + nodule).round()
        n = len(size)
        origin = tuple(-2.0 * c for c in center[::-1])
        return Patch(
            Volume(image.astype(np.float32), (2.0,) * n, origin, np.eye(n)),
            mask.astype(np.uint8),
            {"diameter_mm": 10.0, "texture": np.nan},
            f"ball-{nodule}",
            f"P{nodule}",
            self.subtypes[nodule],
        )

    def facts(self) -> Iterable[str]:
        return ["balls"]


def balls(
    subtypes: Sequence[int], shape: Sequence[int], augmented_copies: int = 1, seed: int = 0
) -> NoduleDataset:
    return NoduleDataset(Balls(subtypes, shape), augmented_copies, seed)


def assert_same(first: Any, second: Any) -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype
        torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)
    else:
        assert first == second
