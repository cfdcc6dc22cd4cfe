"""The intensity window, and what the heads put together."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_modules.core.conditioners import HistogramConditioner, MaskConditioner
from lightning_modules.core.regularizer import HistogramRegularizer
from lightning_modules.core.window import IntensityWindow
from lightning_modules.heads.ct import CTHead
from lightning_modules.heads.cxr import CXRHead
from lightning_modules.heads.head import ModalityHead

dims = pytest.mark.parametrize("spatial_dims", [2, 3])


@dims
@settings(max_examples=50, deadline=None)
@given(low=st.floats(-2000, 2000), width=st.floats(1, 4000), seed=st.integers(0, 1000))
def test_round_trip_is_the_clipped_image(
    spatial_dims: int, low: float, width: float, seed: int
) -> None:
    window = IntensityWindow(low, low + width)
    stream = torch.Generator().manual_seed(seed)
    share = 3 * torch.rand((2, 1, *(4,) * spatial_dims), generator=stream) - 1
    image = low + width * share
    normal = window.normalize(image)
    expected = np.interp(image.double().numpy(), [low, low + width], [-1, 1])
    # single precision of values up to 6000 in windows down to 1
    np.testing.assert_allclose(normal, expected, atol=4e-3 / width + 1e-5)
    assert normal.abs().max() <= 1 + 1e-6
    clipped = image.double().clamp(low, low + width)
    torch.testing.assert_close(window.denormalize(normal).double(), clipped, atol=4e-3, rtol=1e-5)


def test_the_ends_of_the_window() -> None:
    window = IntensityWindow(-1000, 400)
    image = torch.tensor([-3024.0, -1000.0, -300.0, 400.0, 3071.0])
    assert window.normalize(image).tolist() == [-1, -1, 0, 1, 1]
    normal = torch.tensor([-1.5, -1.0, 0.0, 1.0, 1.5])
    assert window.denormalize(normal).tolist() == [-1000, -1000, -300, 400, 400]


@pytest.mark.parametrize(("low", "high"), [(400, -1000), (0, 0), (float("nan"), 1)])
def test_an_empty_window_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="expected low < high"):
        IntensityWindow(low, high)


def test_a_head_leaves_the_conditioners_weights_to_the_denoiser() -> None:
    regularizer = HistogramRegularizer()
    head = ModalityHead((0, 1), {"mask": MaskConditioner()}, {"histogram": regularizer})
    assert set(head.conditioners) == {"mask"}
    assert head.regularizers["histogram"] is regularizer
    assert list(head.modules())[1:] == [head.regularizers, regularizer]
    assert len(ModalityHead((0, 1), {}).regularizers) == 0


@pytest.mark.parametrize("facts", [{"margin_voxels": -1}, {"histogram_bins": 1}])
def test_a_negative_margin_or_a_single_bin_is_refused(facts: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"margin of at least 0 and at least 2 bins"):
        CXRHead(**facts)


def test_what_the_head_for_ct_has_by_itself() -> None:
    head = CTHead(window=(-1350.0, 150.0))
    assert head.window == IntensityWindow(-1350, 150)
    assert (head.margin_voxels, head.histogram_bins) == (3, 16)
    assert list(head.conditioners) == ["mask", "background", "subtype", "histogram"]
    assert isinstance(head.conditioners["histogram"], HistogramConditioner)
    assert [type(r) for r in head.regularizers.values()] == [HistogramRegularizer]
    # an ablation: the same model without its regularizer
    assert len(CTHead(regularizers={}).regularizers) == 0
    assert list(CTHead(conditioners={"mask": MaskConditioner()}).conditioners) == ["mask"]
