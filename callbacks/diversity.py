"""How different two nodules are that were synthesized for one request."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from callbacks.generation import Drawn, GenerationMetric
from lightning_modules.core.features import FeatureExtractor, weights_hash
from lightning_modules.core.perceptual import PerceptualDistance

CROP = 32
"""Voxels along each side that a nodule's crop is brought to."""


class MeanOf(Metric):
    """Means of several values over all samples; the states are sums."""

    full_state_update = False
    count: Tensor
    total: Tensor

    def __init__(self, names: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names = names
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        zeros = torch.zeros(len(names), dtype=torch.float64)
        self.add_state("total", zeros, dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Add `(B, names)` values."""
        self.count += len(values)
        self.total += values.double().sum(0)

    def compute(self) -> dict[str, float]:
        """The mean of each."""
        return dict(zip(self.names, (self.total / self.count).tolist(), strict=True))


def nodule_crops(image: Tensor, mask: Tensor) -> Tensor:
    """The bounding box of each mask, brought to `CROP` voxels a side.

    Args:
        image: `(B, 1, *spatial)`.
        mask: `(B, 1, *spatial)`; where it is empty the whole image is taken.

    Returns:
        `(B, 1, CROP, ...)`.
    """
    mode = {2: "bilinear", 3: "trilinear"}[image.ndim - 2]
    crops = []
    for picture, inside in zip(image, mask, strict=True):
        places = inside[0].nonzero()
        if len(places):
            low, high = places.amin(0).tolist(), (places.amax(0) + 1).tolist()
            picture = picture[(slice(None), *map(slice, low, high))]
        size = (CROP,) * (image.ndim - 2)
        crops.append(F.interpolate(picture[None], size, mode=mode, align_corners=False)[0])
    return torch.stack(crops)


class LPIPSDiversity(GenerationMetric):
    """Mean LPIPS (Zhang et al. 2018) between two samples of one request.

    Of the whole patch, and of the nodule's crop; of volumes, over slices of each plane.

    Args:
        weights: torchvision's AlexNet state dict, a local file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds other weights.
    """

    draws = 2

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.network = PerceptualDistance(weights)
        self.weights = weights_hash(weights)

    @property
    def provenance(self) -> dict[str, str]:
        """Network and weights."""
        return {"distance": "LPIPS, AlexNet", "weights": self.weights}

    def begin(self, spatial_dims: int, device: torch.device) -> None:
        """Begin anew."""
        self.network.to(device)
        self.sums = MeanOf(("patch", "nodule")).to(device)

    def update(self, drawn: Drawn) -> dict[str, Tensor]:
        """Compare the two samples of each nodule."""
        patches = drawn.generated[:2]
        crops = [nodule_crops(image, drawn.batch["mask"]) for image in patches]
        values = torch.stack([self._each(*pair) for pair in (patches, crops)], 1)
        self.sums.update(values)
        return {"lpips_patch": values[:, 0], "lpips_nodule": values[:, 1]}

    def _each(self, first: Tensor, second: Tensor) -> Tensor:
        pairs = zip(2 * first - 1, 2 * second - 1, strict=True)
        return torch.stack([self.network(one[None], other[None]) for one, other in pairs])

    def compute(self) -> dict[str, float]:
        """`patch` and `nodule`; 0 is the same image twice."""
        return self.sums.compute()


class StructuralDiversity(GenerationMetric):
    """One minus the MS-SSIM (Wang et al. 2003) of two samples, for where LPIPS has no weights.

    Of the whole patch, and of the nodule's crop, at two scales with a window of 5 voxels; and, with
    a feature network, one minus the cosine of their features.

    Args:
        extractor: a feature network, or none.
    """

    draws = 2

    def __init__(self, extractor: FeatureExtractor | None = None) -> None:
        super().__init__()
        self.extractor = extractor

    @property
    def provenance(self) -> dict[str, str]:
        """What is measured."""
        own = {"distance": "1 - MS-SSIM, 2 scales, window of 5"}
        return own if self.extractor is None else {**own, **self.extractor.provenance}

    def begin(self, spatial_dims: int, device: torch.device) -> None:
        """Begin anew."""
        from monai.metrics import MultiScaleSSIMMetric

        self.similarity = MultiScaleSSIMMetric(
            spatial_dims, kernel_size=5, kernel_sigma=1.0, weights=(0.5, 0.5), data_range=1.0
        )
        names: tuple[str, ...] = ("patch", "nodule")
        if self.extractor is not None:
            self.extractor.to(device).view_names(spatial_dims)
            names = (*names, "features")
        self.sums = MeanOf(names).to(device)

    def update(self, drawn: Drawn) -> dict[str, Tensor]:
        """Compare the two samples of each nodule."""
        first, second = drawn.generated[:2]
        mask = drawn.batch["mask"]
        columns = {
            "structural_patch": 1 - self.similarity(first, second)[:, 0],
            "structural_nodule": 1
            - self.similarity(nodule_crops(first, mask), nodule_crops(second, mask))[:, 0],
        }
        if self.extractor is not None:
            ours, theirs = (self.extractor.views(image) for image in (first, second))
            cosines = [F.cosine_similarity(ours[view], theirs[view]) for view in ours]
            columns["features"] = 1 - torch.stack(cosines).mean(0)
        self.sums.update(torch.stack([*columns.values()], 1))
        return columns

    def compute(self) -> dict[str, float]:
        """`patch`, `nodule` and `features`; 0 is the same image twice."""
        return self.sums.compute()
