"""Pictures of inserted nodules."""

import numpy as np

from callbacks.before_after import before_and_after


def test_three_planes_show_the_middle_of_the_nodule() -> None:
    before = np.full((6, 8, 10), -900.0)
    mask = np.zeros_like(before)
    mask[2, 3, 4] = 1
    figure = before_and_after(before, before + 700 * mask, mask, (2.0, 1.0, 1.0), "n")
    shown = [axes.images[0].get_array() for axes in figure.axes]
    assert [image.shape for image in shown[::3]] == [(8, 10), (6, 10), (6, 8)]
    assert [image.max() for image in shown] == [-900, -200, -200] * 3
    ratios = [axes.get_aspect() for axes in figure.axes[::3]]
    assert ratios == [1, 2, 2]
    # the head is up: slice 2 of 6 is line 3 from above
    assert shown[4][3, 4] == -200
