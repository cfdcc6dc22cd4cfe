from pathlib import Path

import numpy as np
import pytest

from datamodules.io.masks import labels_of, read_mask
from datamodules.io.volumes import Volume, write_volume


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0, 1, 1], [0, 1, 1]),
        ([0, 3, 1], [0, 2, 1]),
        (np.array([0, 255, 255], np.uint8), [0, 1, 1]),
        (np.array([0, 2_000_000_000, 1]), [0, 2, 1]),
        (np.array([False, True, True]), [0, 1, 1]),
        ([0.0, 14.245, 14.245], [0, 1, 1]),
        ([0.0, 0.99999994, 2.0000001], [0, 1, 2]),
        ([0.0, 0.0001, 1.0], [0, 0, 1]),
        ([0.49, 0.5, 1.0], [0, 1, 1]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
    ],
)
def test_values_become_labels(values: list[float], labels: list[int]) -> None:
    np.testing.assert_array_equal(labels_of(np.asarray(values)), labels)


def test_a_soft_edge_keeps_half_of_its_rim() -> None:
    """A ball of 12 mm whose edge fades over one voxel, as interpolation leaves it."""
    z, y, x = np.indices((24, 24, 24)) - 12
    distance = np.sqrt(z**2 + y**2 + x**2)
    soft = np.clip(6.5 - distance, 0, 1).astype(np.float32)
    np.testing.assert_array_equal(labels_of(soft), distance <= 6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, -1, 1], "negative or not finite"),
        ([0.0, np.nan, 1.0], "negative or not finite"),
        ([0.0, np.inf, 1.0], "negative or not finite"),
        ([0.0, 1.0, 14.245], "has the value 14.245 among others, the greatest 14.245"),
        ([0.0, 0.5, 2.0], "has the value 0.5 among others, the greatest 2"),
    ],
)
def test_values_that_say_nothing_are_refused(
    values: list[float], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        labels_of(np.asarray(values))
    if np.isfinite(values).all():
        array = np.broadcast_to(np.asarray(values, np.float32), (2, 2, 3))
        write_volume(tmp_path / "m.mha", Volume(array, (1.0,) * 3, (0.0,) * 3, np.eye(3)))
        with pytest.raises(ValueError, match=f"m.mha .*{message}"):
            read_mask(tmp_path / "m.mha")
