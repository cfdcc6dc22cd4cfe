"""The picture shows what it is given."""

import matplotlib as mpl
import numpy as np
import pytest

from callbacks.pictures import draw_nodules

mpl.use("Agg")


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_each_nodule_is_a_row(spatial_dims: int) -> None:
    shape = (12, 14, 16)[:spatial_dims]
    mask = np.zeros(shape)
    mask[(slice(4, 8),) * spatial_dims] = 1
    image = np.random.default_rng(0).normal(-800, 50, shape)
    nodule = {
        "background": image,
        "image": np.where(mask > 0, 0, image),
        "mask": mask,
        "requested": np.full(16, 1 / 16),
        "generated": np.full(16, 1 / 16),
        "centers": np.linspace(-956, 356, 16),
        "diameter": 9.6,
    }
    figure = draw_nodules([("solid", nodule), ("ground-glass", nodule)], (-1000, 400), "requested")
    planes = 3 if spatial_dims == 3 else 1
    assert len(figure.axes) == 2 * (2 * planes + 1)
    background, synthetic = figure.axes[0].images[0], figure.axes[planes].images[0]
    shown = mask[5] if spatial_dims == 3 else mask
    changed = background.get_array() != synthetic.get_array()
    np.testing.assert_array_equal(changed, shown > 0)
    assert figure.axes[0].get_ylabel() == "solid\n10 mm"
    assert figure.axes[0].get_title().startswith("background")
    assert figure.axes[2 * planes].get_legend() is not None
