"""Overlaps of low-rank updates against dense matrices, and their properties."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_modules.core.adapters import LowRank
from lightning_modules.core.composition import (
    normalized_overlap,
    orthogonality_loss,
    overlap,
    squared_norm,
)

SUBSPACES = pytest.mark.parametrize("subspace", ["input", "output"])


def update(
    seed: int, rank: int = 3, rows: int = 7, columns: int = 5, factor: float = 0.5, site: str = "q"
) -> LowRank:
    stream = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, columns, generator=stream, dtype=torch.float64, requires_grad=True)
    b = torch.randn(rows, rank, generator=stream, dtype=torch.float64, requires_grad=True)
    return LowRank(site, a, b, factor)


def dense(low: LowRank) -> torch.Tensor:
    return low.factor * low.b @ low.a


def product(first: LowRank, second: LowRank, subspace: str) -> torch.Tensor:
    w1, w2 = dense(first), dense(second)
    return (w1 @ w2.T if subspace == "input" else w1.T @ w2).square().sum()


@SUBSPACES
@pytest.mark.parametrize("ranks", [(3, 3), (2, 4)])
def test_traces_equal_the_dense_form(subspace: Any, ranks: tuple[int, int]) -> None:
    first, second = update(0, ranks[0], factor=0.5), update(1, ranks[1], factor=3.0)
    torch.testing.assert_close(overlap(first, second, subspace), product(first, second, subspace))
    torch.testing.assert_close(squared_norm(first), dense(first).square().sum())
    gradients = [
        torch.autograd.grad(value, [first.a, first.b, second.a, second.b])
        for value in (overlap(first, second, subspace), product(first, second, subspace))
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@SUBSPACES
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 10))
def test_the_normalized_overlap_is_a_share_and_has_no_scale(
    subspace: Any, seed: int, scale: float
) -> None:
    first, second = update(seed), update(seed + 1)
    share = normalized_overlap(first, second, subspace)
    assert 0 <= float(share) <= 1
    larger = first._replace(factor=scale * first.factor)
    torch.testing.assert_close(normalized_overlap(larger, second, subspace), share)
    torch.testing.assert_close(normalized_overlap(second, first, subspace), share)


def test_disjoint_subspaces_do_not_overlap() -> None:
    basis = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))[0]
    free = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    first, second = (LowRank("q", rows, free, 1.0) for rows in (basis[:3], basis[3:6]))
    assert float(overlap(first, second, "input")) < 1e-10
    assert float(overlap(first, second, "output")) > 1
    first, second = (LowRank("q", free.T, rows.T, 1.0) for rows in (basis[:3], basis[3:6]))
    assert float(overlap(first, second, "output")) < 1e-10
    assert float(overlap(first, second, "input")) > 1


@SUBSPACES
def test_one_direction_overlaps_wholly_with_itself(subspace: Any) -> None:
    low = update(3, rank=1)
    torch.testing.assert_close(
        normalized_overlap(low, low, subspace), torch.ones((), dtype=torch.float64)
    )


@SUBSPACES
def test_an_update_of_zero_overlaps_with_nothing(subspace: Any) -> None:
    zero = update(0)._replace(b=torch.zeros(7, 3, dtype=torch.float64))
    assert float(normalized_overlap(zero, update(1), subspace)) == 0


def layers(seed: int, count: int = 4) -> list[LowRank]:
    return [update(10 * seed + k, site=f"layer{k}") for k in range(count)]


def test_the_loss_is_the_mean_over_layers_and_the_sum_over_pairs() -> None:
    three = [layers(1), layers(2), layers(3)]
    pairs = [(0, 1), (0, 2), (1, 2)]
    for form in ("input", "output"):
        expected = sum(product(three[i][k], three[j][k], form) for k in range(4) for i, j in pairs)
        torch.testing.assert_close(orthogonality_loss(three, form), expected / 4)
    both = orthogonality_loss(three, "both")
    torch.testing.assert_close(
        both, orthogonality_loss(three, "input") + orthogonality_loss(three, "output")
    )
    expected = sum(
        (three[i][k].a @ three[j][k].a.T).square().sum() for k in range(4) for i, j in pairs
    )
    torch.testing.assert_close(orthogonality_loss(three, "a_only"), expected / 4)


@pytest.mark.parametrize("form", ["input", "output", "both", "a_only"])
def test_new_adapters_have_a_gradient_only_from_a_only(form: Any) -> None:
    zero = torch.zeros(7, 3, dtype=torch.float64, requires_grad=True)
    fresh = [[low._replace(b=zero) for low in layers(seed)] for seed in (1, 2)]
    gradient = torch.autograd.grad(
        orthogonality_loss(fresh, form), [fresh[0][0].a, zero], allow_unused=True
    )
    moved = [g is not None and bool(g.abs().max() > 0) for g in gradient]
    assert moved == [form == "a_only", False]


def test_descent_makes_adapters_orthogonal_without_shrinking_to_nothing() -> None:
    pair = [layers(1), layers(2)]
    weights = [w for adapter in pair for low in adapter for w in (low.a, low.b)]
    before = [squared_norm(low).item() for low in pair[0]]
    optimizer = torch.optim.Adam(weights, 0.01)
    start = orthogonality_loss(pair, "input").item()
    for _ in range(300):
        optimizer.zero_grad()
        orthogonality_loss(pair, "input").backward()
        optimizer.step()
    assert orthogonality_loss(pair, "input").item() < 0.01 * start
    shares = [float(normalized_overlap(a, b, "input")) for a, b in zip(*pair, strict=True)]
    assert max(shares) < 0.05
    assert min(squared_norm(low).item() for low in pair[0]) > 0.02 * min(before)


def test_what_cannot_overlap_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1 adapter\(s\) cannot overlap"):
        orthogonality_loss([layers(1)])
    with pytest.raises(ValueError, match="different layers"):
        orthogonality_loss([layers(1), layers(2, count=3)])
