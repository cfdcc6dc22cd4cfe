"""ZipLoRA's merger coefficients, against dense updates."""

from copy import deepcopy
from pathlib import Path

import torch
from adapted import BOTH, answer, build, with_two

from lightning_modules.core.adapters import activate, load_adapter, save_adapter, updates
from lightning_modules.core.denoiser import Denoiser
from lightning_modules.core.merging import Weighted
from lightning_modules.core.ziplora import (
    add_coefficients,
    coefficient_overlap,
    coefficients,
    use_coefficients,
    with_coefficients,
)


def zipped() -> Denoiser:
    """Two adapters with coefficients that are not one."""
    denoiser = with_two()
    add_coefficients(denoiser)
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in BOTH:
            for part in coefficients(denoiser, name):
                part.values.copy_(torch.rand(part.values.shape, generator=stream))
    return denoiser


def test_coefficients_are_all_that_is_trained_and_change_nothing_at_first() -> None:
    denoiser, plain = with_two(), with_two()
    add_coefficients(denoiser)
    torch.testing.assert_close(answer(denoiser), answer(plain))
    activate(denoiser, {"calcified": 1.0})
    trained = {name for name, p in denoiser.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 16
    assert all(name.endswith("parametrizations.weight.0.values") for name in trained)


def test_an_update_is_b_a_diag_m() -> None:
    denoiser, before = zipped(), with_two()
    for name in BOTH:
        pairs = zip(updates(denoiser, name), updates(before, name), strict=True)
        for part, (low, was) in zip(coefficients(denoiser, name), pairs, strict=True):
            torch.testing.assert_close(low.b @ low.a, was.b @ was.a @ torch.diag(part.values))
    use_coefficients(denoiser, on=False)
    activate(before, BOTH), activate(denoiser, BOTH)
    torch.testing.assert_close(answer(denoiser), answer(before))
    use_coefficients(denoiser, on=True)
    assert not torch.allclose(answer(denoiser), answer(before))


def test_written_adapters_have_the_coefficients_in_them(tmp_path: Path) -> None:
    denoiser = zipped()
    activate(denoiser, BOTH)
    expected = answer(denoiser)
    plain = with_coefficients(denoiser)
    again = build()
    for name in BOTH:
        save_adapter(plain, name, tmp_path / name, [])
        load_adapter(again, name, tmp_path / name)
    torch.testing.assert_close(
        answer(Weighted().merge(again, BOTH)), expected, atol=1e-4, rtol=1e-4
    )
    # the one in training is as it was
    torch.testing.assert_close(answer(denoiser), expected)
    assert len(coefficients(denoiser, "irregular")) == 16


def test_a_copy_has_coefficients_of_its_own() -> None:
    denoiser = zipped()
    copy = deepcopy(denoiser)
    expected = answer(copy)
    with torch.no_grad():
        coefficients(denoiser, "calcified")[0].values.zero_()
    torch.testing.assert_close(answer(copy), expected)
    assert not torch.allclose(answer(denoiser), expected)


def test_overlap_is_the_sum_over_pairs_and_layers_of_mean_products() -> None:
    denoiser = zipped()
    lists = [coefficients(denoiser, name) for name in BOTH]
    expected = 0.0
    for first, second in zip(*lists, strict=True):
        products = [abs(a * b) for a, b in zip(first.values, second.values, strict=True)]
        expected += float(sum(products)) / len(products)
    torch.testing.assert_close(coefficient_overlap(lists).item(), expected)
    three = coefficient_overlap([*lists, lists[0]])
    squares = sum(part.values.square().mean() for part in lists[0])
    torch.testing.assert_close(three, 2 * coefficient_overlap(lists) + squares)
