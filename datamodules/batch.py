"""The contract between data and models: what a batch of nodules holds, in which units."""

from dataclasses import dataclass
from typing import NotRequired, TypedDict

from torch import Tensor

SUBTYPES = ("solid", "part-solid", "ground-glass")
"""Nodule subtypes in the order of the integer codes of `NoduleBatch.subtype`."""

UNKNOWN_SUBTYPE = -1
"""Code of a nodule whose subtype is not known."""


@dataclass(frozen=True)
class Roi:
    """A region of interest (ROI): what a model sees of an image around a nodule.

    Attributes:
        size: voxels along z, y, x (y, x in 2D); one number for all axes.
        spacing_mm: distance between voxels, the same on every axis.
    """

    size: int | tuple[int, ...] = 32
    spacing_mm: float = 1.0

    def __post_init__(self) -> None:
        """Refuse an ROI without a voxel, of more than three axes or of no extent."""
        sizes = [self.size] if isinstance(self.size, int) else self.size
        if min(sizes, default=0) < 1 or len(sizes) > 3 or not self.spacing_mm > 0:
            message = (
                f"The ROI's size is {self.size} and its spacing_mm {self.spacing_mm}: give at "
                "least one voxel on each axis and a spacing above 0 mm"
            )
            raise ValueError(message)

    def shape(self, spatial_dims: int) -> tuple[int, ...]:
        """Voxels along each axis, where one number stands for all."""
        return (self.size,) * spatial_dims if isinstance(self.size, int) else tuple(self.size)


class NoduleBatch(TypedDict):
    """Regions of interest (ROIs) around nodules, in physical units.

    One item of a dataset has the same keys without the leading batch axis. `*spatial` is
    `(H, W)` for radiographs and `(D, H, W)`, ordered z, y, x, for CT.

    Attributes:
        image: `(B, 1, *spatial)` float32; Hounsfield units (CT) or detector units (radiograph).
        mask: `(B, 1, *spatial)` float32; 1 inside the nodule and 0 elsewhere.
        subtype: `(B,)` int64; position in `SUBTYPES`, or `UNKNOWN_SUBTYPE`.
        attributes: each `(B,)` float32; `diameter_mm` (of the sphere of the mask's volume) and,
            where known, LIDC ratings under their LIDC names and scales. NaN where unknown.
        spacing_mm: `(B, len(spatial))` float32; voxel spacing in the order of `spatial`.
        origin_mm: `(B, len(spatial))` float64; world position (x, y[, z], LPS) of the first voxel.
        direction: `(B, len(spatial), len(spatial))` float64; direction cosines as SimpleITK has
            them (world x, y[, z] in rows, image axes x, y[, z] in columns).
        name: `B` strings; the nodule's identifier, safe as a file name, no patient's name.
        patient_id: `B` strings; the data set's pseudonym, by which splits are made.
        index: `(B,)` int64; position of the nodule in its dataset, stable across epochs, ranks
            and batch sizes; the seed of everything that is sampled for it.
        histogram: `(B, bins)` float32; the requested intensity histogram inside the mask, sums to
            one. Where it is absent, the histogram of `image` inside `mask` is meant.
        latent_mean: `(B, C, *latent)` float32; the codec's posterior mean of `image`.
        latent_logvar: `(B, C, *latent)` float32; the codec's posterior log-variance of `image`.
        context: `(B, C, *latent)` float32; the codec's posterior mean of `image` with the region
            to be synthesized filled in. The three latents are present only in cached batches.
    """

    image: Tensor
    mask: Tensor
    subtype: Tensor
    attributes: dict[str, Tensor]
    spacing_mm: Tensor
    origin_mm: Tensor
    direction: Tensor
    name: list[str]
    patient_id: list[str]
    index: Tensor
    histogram: NotRequired[Tensor]
    latent_mean: NotRequired[Tensor]
    latent_logvar: NotRequired[Tensor]
    context: NotRequired[Tensor]


class Synthesis(TypedDict):
    """Synthetic nodules as `NoduleDiffusion.sample` returns them, in physical units.

    Attributes:
        image: `(B, 1, *spatial)` float32; the background with the synthetic nodule.
        background: `(B, 1, *spatial)` float32; the image that the nodule was put into.
        request: the batch that was asked for: mask, subtype, geometry, names.
        requested_histogram: `(B, bins)` float32; the intensity histogram asked for.
        generated_histogram: `(B, bins)` float32; the one that `image` has inside the mask.
        bin_centers: `(bins,)` float32; centres of the histograms' bins, in image units.
        seed: the seed that, with `request["index"]`, fixes every sample.
        evaluations: network evaluations spent on each sample.
    """

    image: Tensor
    background: Tensor
    request: NoduleBatch
    requested_histogram: Tensor
    generated_histogram: Tensor
    bin_centers: Tensor
    seed: int
    evaluations: int
