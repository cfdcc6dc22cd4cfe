"""Distances between the distributions of real and synthetic images, in a network's features."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from callbacks.generation import Drawn, GenerationMetric
from lightning_modules.core.features import FeatureExtractor


class FeatureSums(Metric):
    """What is kept of a set of images: sums over all of them, and the features of the first.

    All states are sums, so that several processes have what one would have, in whatever way images
    are shared out among them, and the memory does not grow with their number.

    Args:
        width: number of features.
        limit: of how many images the features themselves are kept.
    """

    full_state_update = False
    count: Tensor
    total: Tensor
    outer: Tensor
    kept: Tensor
    filled: Tensor

    def __init__(self, width: int, limit: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.limit = limit
        sums: dict[str, tuple[int, ...]] = {"count": (), "total": (width,), "outer": (width, width)}
        for name, shape in sums.items():
            zeros = torch.zeros(shape, dtype=torch.float64)
            self.add_state(name, zeros, dist_reduce_fx="sum")
        self.add_state("kept", torch.zeros(limit, width), dist_reduce_fx="sum")
        self.add_state("filled", torch.zeros(limit), dist_reduce_fx="sum")

    def update(self, features: Tensor, position: Tensor) -> None:
        """Add images.

        Args:
            features: `(B, width)`.
            position: `(B,)`; each image's number in the set, 0, 1, ...
        """
        precise = features.double()
        self.count += len(features)
        self.total += precise.sum(0)
        self.outer += precise.T @ precise
        first = position < self.limit
        self.kept[position[first]] = features[first].float()
        self.filled[position[first]] = 1

    def compute(self) -> dict[str, Tensor]:
        """`count`, `mean` (width,), `covariance` (width, width) and `features` (n, width)."""
        mean = self.total / self.count
        covariance = self.outer / self.count - torch.outer(mean, mean)
        covariance = covariance * self.count / (self.count - 1).clamp(min=1)
        return {
            "count": self.count,
            "mean": mean,
            "covariance": covariance,
            "features": self.kept[self.filled > 0],
        }


def frechet_distance(mean: Tensor, covariance: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    """Squared Frechet distance of two normal distributions (Dowson and Landau 1982).

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2): the FID (Heusel et al. 2017).
    """
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covariance2 @ root).clamp(min=0).sqrt().sum()
    distance = (mean - mean2).square().sum() + covariance.trace() + covariance2.trace() - 2 * cross
    return float(distance.clamp(min=0))


def shrunk(covariance: Tensor, count: float) -> Tensor:
    """Covariance drawn towards a multiple of the identity, by oracle-approximating shrinkage.

    Chen et al. 2010 (IEEE Trans. Signal Processing 58, eq. 23): the share that has the least
    expected error for normal data, from the sample covariance and the number of samples alone.
    """
    width = len(covariance)
    square, trace = covariance.square().sum(), covariance.trace()
    spread = square - trace.square() / width
    share = ((1 - 2 / width) * square + trace.square()) / ((count + 1 - 2 / width) * spread)
    share = torch.nan_to_num(share, 1.0).clamp(0, 1)
    return (1 - share) * covariance + share * trace / width * torch.eye(width).to(covariance)


def kernel_distance(first: Tensor, second: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x y / width + 1)^3.

    It is the KID (Binkowski et al. 2018) of all images at once; it can be below zero.

    Args:
        first: `(n, width)`, n of 2 or more.
        second: `(m, width)`, m of 2 or more.
    """

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a.double() @ b.double().T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        gram = kernel(a, a)
        return (gram.sum() - gram.trace()) / (len(a) * (len(a) - 1))

    return float(within(first) + within(second) - 2 * kernel(first, second).mean())


def neighbourhoods(real: Tensor, generated: Tensor) -> dict[str, float]:
    """Whether images lie near each other: fidelity and diversity apart.

    Precision and recall are those of Kynkaanniemi et al. 2019 with k = 3, density and coverage
    those of Naeem et al. 2020 with k = 5.

    Args:
        real: `(n, width)`.
        generated: `(m, width)`.

    Returns:
        `precision` (share of generated near a real one), `recall` (the other way round), `density`
        (how many real ones a generated one is near, relative to k; about 1 is right) and
        `coverage` (share of real ones with a generated one near).
    """
    real, generated = real.double(), generated.double()
    between = torch.cdist(generated, real)

    def radius(images: Tensor, k: int) -> Tensor:
        # the nearest is the image itself
        return torch.cdist(images, images).kthvalue(min(k + 1, len(images))).values

    five = between <= radius(real, 5)
    return {
        "precision": float((between <= radius(real, 3)).any(1).double().mean()),
        "recall": float((between <= radius(generated, 3).unsqueeze(1)).any(0).double().mean()),
        "density": float(five.double().sum(1).mean() / 5),
        "coverage": float(five.any(0).double().mean()),
    }


def distances(real: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, float]:
    """All figures of a set against real images; both as `FeatureSums` computes them.

    Returns:
        `fid` with sample covariances, `fid_oas` with shrunk ones (with few images the first is
        mostly their number), `kid`, and those of `neighbourhoods`; empty with fewer than two
        images.
    """
    if min(real["count"], other["count"]) < 2:
        return {}
    plain = (real["covariance"], other["covariance"])
    oas = [shrunk(part["covariance"], float(part["count"])) for part in (real, other)]
    return {
        "fid": frechet_distance(real["mean"], plain[0], other["mean"], plain[1]),
        "fid_oas": frechet_distance(real["mean"], oas[0], other["mean"], oas[1]),
        "kid": kernel_distance(real["features"], other["features"]),
        **neighbourhoods(real["features"], other["features"]),
    }


class FeatureDistances(GenerationMetric):
    """FID and its kin: synthetic against real nodules, beside real against other real ones.

    For a volume and a network of images it is 2.5D: each plane by itself, and their mean.

    Args:
        extractor: the feature network.
        limit: of how many images the features are kept, for what is not made of sums (KID,
            precision, recall, density, coverage).
    """

    def __init__(self, extractor: FeatureExtractor, limit: int = 2048) -> None:
        super().__init__()
        self.extractor, self.limit = extractor, limit
        self.sets: dict[str, dict[str, FeatureSums]] = {}

    @property
    def provenance(self) -> dict[str, str]:
        """Network, weights and preprocessing."""
        return {**self.extractor.provenance, "covariance": "sample; OAS-shrunk in fid_oas"}

    def begin(self, spatial_dims: int, device: torch.device) -> None:
        """Forget what was generated; real images are kept."""
        self.extractor.to(device)
        views = self.extractor.view_names(spatial_dims)
        for name in ("real", "floor", "generated"):
            if name not in self.sets or name == "generated":
                self.sets[name] = {
                    view: FeatureSums(self.extractor.width, self.limit).to(device) for view in views
                }

    def _add(self, name: str, image: Tensor, position: Tensor) -> None:
        for view, features in self.extractor.views(image).items():
            self.sets[name][view].update(features, position)

    def reference(self, image: Tensor, position: Tensor, other: bool) -> None:
        """Add real images."""
        self._add("floor" if other else "real", image, position)

    def update(self, drawn: Drawn) -> dict[str, Tensor]:
        """Add the first sample of each nodule."""
        self._add("generated", drawn.generated[0], drawn.position)
        return {}

    def compute(self) -> dict[str, float]:
        """Figures as `distances` names them; `floor/...` is that of the other real images.

        In 2.5D each plane's is `.../<plane>`, and the one without is their mean.
        """
        result: dict[str, float] = {}
        for prefix, name in (("", "generated"), ("floor/", "floor")):
            found = {
                view: distances(sums.compute(), self.sets[name][view].compute())
                for view, sums in self.sets["real"].items()
            }
            for figure in next(iter(found.values())):
                values = [figures[figure] for figures in found.values()]
                result[prefix + figure] = sum(values) / len(values)
                if len(found) > 1:
                    each = zip(found, values, strict=True)
                    result |= {f"{prefix}{figure}/{view}": value for view, value in each}
        return result
