"""Distances between distributions, against NumPy, SciPy, loops and what is known of them."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor

from callbacks.fid import (
    FeatureDistances,
    FeatureSums,
    distances,
    frechet_distance,
    kernel_distance,
    neighbourhoods,
    shrunk,
)
from callbacks.generation import Drawn
from lightning_modules.core.features import RandomFeatures


def sums_of(features: Tensor, limit: int = 100, batches: int = 1) -> FeatureSums:
    sums = FeatureSums(features.shape[1], limit)
    for part in torch.arange(len(features)).chunk(batches):
        sums.update(features[part], part)
    return sums


def drawn_features(number: int, width: int = 5, seed: int = 0, shift: float = 0.0) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return shift + torch.randn(number, width, generator=stream) * torch.arange(1.0, width + 1)


def test_sums_are_means_and_covariances_however_they_are_added() -> None:
    features = drawn_features(31)
    one, many = (sums_of(features, batches=n).compute() for n in (1, 7))
    np.testing.assert_allclose(one["mean"], features.double().numpy().mean(0))
    np.testing.assert_allclose(one["covariance"], np.cov(features.double().numpy().T))
    for name, value in one.items():
        torch.testing.assert_close(many[name], value, rtol=1e-12, atol=1e-12)
    assert torch.equal(one["features"], features)
    assert torch.equal(sums_of(features, limit=9, batches=4).compute()["features"], features[:9])


def test_frechet_distance_against_a_matrix_square_root() -> None:
    first, second = drawn_features(40).numpy(), drawn_features(50, seed=1, shift=0.3).numpy()
    (m1, m2), (s1, s2) = (
        [f.mean(0).astype(float) for f in (first, second)],
        [np.cov(f.T.astype(float)) for f in (first, second)],
    )
    expected = ((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * linalg.sqrtm(s1 @ s2).real)
    given = [torch.from_numpy(x) for x in (m1, s1, m2, s2)]
    assert frechet_distance(*given) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(given[0], given[1], given[0], given[1]) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_diagonal_normals_is_known() -> None:
    mean, spread = torch.tensor([1.0, -2.0]).double(), torch.diag(torch.tensor([4.0, 9.0]).double())
    other = torch.diag(torch.tensor([1.0, 25.0]).double())
    assert frechet_distance(mean, spread, mean + 3, other) == pytest.approx(18 + 1 + 4)


def test_shrinkage_is_eq_23_and_nearer_to_the_truth() -> None:
    width, truth = 30, np.diag(np.linspace(0.5, 2, 30))
    plain = better = 0.0
    for seed in range(20):
        data = np.random.default_rng(seed).multivariate_normal(np.zeros(width), truth, 15)
        covariance = np.cov(data.T)
        square, trace = (covariance**2).sum(), np.trace(covariance)
        share = ((1 - 2 / width) * square + trace**2) / (
            (15 + 1 - 2 / width) * (square - trace**2 / width)
        )
        expected = (1 - min(share, 1)) * covariance + min(share, 1) * trace / width * np.eye(width)
        found = shrunk(torch.from_numpy(covariance), 15).numpy()
        np.testing.assert_allclose(found, expected)
        plain += float(((covariance - truth) ** 2).sum())
        better += float(((found - truth) ** 2).sum())
    assert better < 0.3 * plain
    many = torch.from_numpy(truth)
    torch.testing.assert_close(shrunk(many, 1e9), many, atol=1e-6, rtol=1e-6)
    nothing = torch.zeros(3, 3).double()
    assert torch.equal(shrunk(nothing, 5), nothing)


def test_kernel_distance_against_loops_and_without_bias() -> None:
    def brute(a: Any, b: Any) -> float:
        def k(x: Any, y: Any) -> float:
            return float((x @ y / len(x) + 1) ** 3)

        aa = [k(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j]
        bb = [k(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j]
        ab = [k(x, y) for x in a for y in b]
        return float(np.mean(aa) + np.mean(bb) - 2 * np.mean(ab))

    first, second = drawn_features(9), drawn_features(7, seed=1, shift=1.0)
    expected = brute(first.double().numpy(), second.double().numpy())
    assert kernel_distance(first, second) == pytest.approx(expected)
    same = [
        kernel_distance(torch.randn(6, 3), torch.randn(6, 3))
        for _ in range(400)
        if torch.manual_seed(_)
    ]
    error = np.std(same) / len(same) ** 0.5
    assert abs(np.mean(same)) < 4 * error
    assert min(same) < 0 < max(same)


def test_neighbourhoods_against_loops() -> None:
    real, generated = drawn_features(20), drawn_features(15, seed=1, shift=1.0)

    def radius(images: Any, i: int, k: int) -> float:
        return float(sorted(np.linalg.norm(images - images[i], axis=1))[k])

    r, g = real.double().numpy(), generated.double().numpy()
    near = np.linalg.norm(g[:, None] - r[None], axis=2)
    in_real = {k: near <= [radius(r, i, k) for i in range(20)] for k in (3, 5)}
    in_generated = near <= np.array([radius(g, j, 3) for j in range(15)])[:, None]
    found = neighbourhoods(real, generated)
    assert found["precision"] == pytest.approx(in_real[3].any(1).mean())
    assert found["recall"] == pytest.approx(in_generated.any(0).mean())
    assert found["density"] == pytest.approx(in_real[5].sum() / 5 / 15)
    assert found["coverage"] == pytest.approx(in_real[5].any(0).mean())
    alike = neighbourhoods(real, real)
    assert alike["precision"] == alike["recall"] == alike["coverage"] == 1
    apart = neighbourhoods(real, generated + 1e4)
    assert apart == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_too_few_images_have_no_distance() -> None:
    one, two = sums_of(drawn_features(1)).compute(), sums_of(drawn_features(2)).compute()
    assert distances(two, one) == {}
    assert all(np.isfinite(value) for value in distances(two, two).values())


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_generated_and_other_real_images_stand_beside_each_other(spatial_dims: int) -> None:
    """Real images again have no distance; volumes are seen plane by plane."""
    metric = FeatureDistances(RandomFeatures(width=8))
    torch.manual_seed(0)
    real, other = torch.rand(2, 12, 1, *(16,) * spatial_dims)
    place = torch.arange(12)
    metric.begin(spatial_dims, torch.device("cpu"))
    metric.reference(real, place, other=False)
    metric.reference(other, place, other=True)
    batch: Any = {}
    for generated in (other, real):  # real images stay from one evaluation to the next
        metric.begin(spatial_dims, torch.device("cpu"))
        assert metric.update(Drawn(batch, place, real, [generated], [])) == {}
        figures = metric.compute()
    assert figures["fid"] == pytest.approx(0, abs=1e-6)
    assert figures["floor/fid"] > 1e-4
    assert figures["coverage"] == 1
    if spatial_dims == 3:
        planes = [figures[f"floor/fid/{plane}"] for plane in ("axial", "coronal", "sagittal")]
        assert len(set(planes)) == 3
        assert figures["floor/fid"] == pytest.approx(np.mean(planes))
    assert {"network", "weights", "preprocessing"} <= set(metric.provenance)
