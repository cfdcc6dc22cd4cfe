"""What a synthetic nodule changes in a study: against arithmetic by hand."""

import numpy as np

from datamodules.insertion.edits import Edit, apply
from datamodules.io.volumes import Volume

ORIGIN = (-20.0, -30.0, 100.0)


def test_equal_spacing_adds_the_difference_itself() -> None:
    rng = np.random.default_rng(0)
    study = Volume(
        rng.integers(-900, 0, (20, 30, 40)).astype(np.int16), (1.0,) * 3, ORIGIN, np.eye(3)
    )
    before = study.array.copy()
    change = np.zeros((8, 8, 8), np.float32)
    change[2:6, 2:6, 2:6] = rng.normal(0, 300, (4, 4, 4))
    roi = Volume(change, (1.0,) * 3, study.grid.world((3, 5, 7)), np.eye(3))
    box, mask = apply(study, Edit({}, roi, (change != 0).astype(np.uint8)))
    expected = before.copy()
    expected[3:11, 5:13, 7:15] += np.rint(change).astype(np.int16)
    np.testing.assert_array_equal(study.array, expected)
    assert box == (slice(3, 11), slice(5, 13), slice(7, 15))
    np.testing.assert_array_equal(mask, change != 0)


def test_an_affine_difference_is_interpolated_exactly() -> None:
    """Linear interpolation of a linear function, on a grid of another spacing and offset."""
    study = Volume(np.zeros((12, 40, 40), np.int16), (2.5, 0.7, 0.7), (0.0,) * 3, np.eye(3))
    z, y, x = np.indices((20, 20, 20))
    roi = Volume((10.0 * z + 3 * y - x), (1.0,) * 3, (3.0, 4.0, 5.0), np.eye(3))
    box, _ = apply(study, Edit({}, roi, np.ones((20, 20, 20), np.uint8)))
    at_z, at_y, at_x = np.meshgrid(
        *[np.arange(part.start, part.stop) for part in box], indexing="ij"
    )
    expected = 10 * (at_z * 2.5 - 5) + 3 * (at_y * 0.7 - 4) - (at_x * 0.7 - 3)
    assert np.abs(study.array[box] - expected).max() <= 0.51
    assert study.array.any()
