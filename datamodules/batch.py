"""The contract between data, models and callbacks: what is handed over, in which units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired, Protocol, TypedDict

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SUBTYPES = ("solid", "part-solid", "ground-glass")
"""Nodule subtypes in the order of the integer codes of `NoduleBatch.subtype`."""

UNKNOWN_SUBTYPE = -1
"""Code of a nodule whose subtype is not known."""

NO_NODULE, HEALTHY = -2, "none"
"""Code, and name in the place of a subtype, of a region of healthy tissue."""

PLANES = ("axial", "coronal", "sagittal")
"""Planes of a volume, across its axes z, y and x."""


def subtype_name(code: int) -> str:
    """The name that tables have for a subtype's code: `none` without a nodule, empty if unknown."""
    return {UNKNOWN_SUBTYPE: "", NO_NODULE: HEALTHY, **dict(enumerate(SUBTYPES))}[code]


def subtype_code(name: object) -> int:
    """The code of a name in a table; `UNKNOWN_SUBTYPE` for what is none."""
    if name == HEALTHY:
        return NO_NODULE
    return SUBTYPES.index(str(name)) if name in SUBTYPES else UNKNOWN_SUBTYPE


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
        subtype: `(B,)` int64; position in `SUBTYPES`, `UNKNOWN_SUBTYPE`, or `NO_NODULE` where the
            region is healthy tissue.
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
        draw: `(B,)` int64, in training alone; the number of the draw over the whole run, on all
            processes together; the seed of what the training step draws for it.
        histogram: `(B, bins)` float32; the requested intensity histogram inside the mask, sums to
            one. Where it is absent, the histogram of `image` inside `mask` is meant.
        erased: `(B, 1, *spatial)` float32; 1 where a nodule is first to give way to healthy tissue;
            all 0 for none.
        underlay: `(B, 1, *spatial)` float32; the image without the nodule, where that is known: of
            nodules that were put into an image, and of requests for such.
        latent_mean: `(B, C, *latent)` float32; the codec's posterior mean of `image`.
        latent_logvar: `(B, C, *latent)` float32; the codec's posterior log-variance of `image`.
        context: `(B, C, *latent)` float32; the codec's posterior mean of what is known where the
            nodule is to be: `image` with the region filled in, or `underlay`. The three
            latents are present only in cached batches.
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
    draw: NotRequired[Tensor]
    histogram: NotRequired[Tensor]
    erased: NotRequired[Tensor]
    underlay: NotRequired[Tensor]
    latent_mean: NotRequired[Tensor]
    latent_logvar: NotRequired[Tensor]
    context: NotRequired[Tensor]


@dataclass(frozen=True)
class Provenance:
    """Where synthetic nodules come from.

    Attributes:
        checkpoint: file name of the weights; empty for weights in training.
        seed: the seed that, with `request["index"]`, fixes every sample.
        evaluations: network evaluations spent on each sample.
        training_patients: keys (`datamodules.patients.patient_key`) of everybody of whom the
            weights have seen something.
    """

    checkpoint: str
    seed: int
    evaluations: int
    training_patients: tuple[str, ...]


@dataclass(frozen=True)
class Synthesis:
    """Synthetic nodules, in physical units.

    Attributes:
        image: `(B, 1, *spatial)` float32; the background with the synthetic nodule.
        background: `(B, 1, *spatial)` float32; the image that the nodule was put into.
        request: the batch that was asked for: mask, subtype, geometry, names; `histogram` is in it
            only if one was asked for.
        requested_histogram: `(B, bins)` float32; the intensity histogram asked for, or that of the
            background inside the mask; no bins where the model has no histograms.
        generated_histogram: `(B, bins)` float32; the one that `image` has inside the mask.
        bin_centers: `(bins,)` float32; centres of the histograms' bins, in image units.
        window: intensities that the model maps to -1 and 1; infinite where it maps none.
        provenance: where the nodules come from.
    """

    image: Tensor
    background: Tensor
    request: NoduleBatch
    requested_histogram: Tensor
    generated_histogram: Tensor
    bin_centers: Tensor
    window: tuple[float, float]
    provenance: Provenance

    def to(self, device: torch.device | str) -> Synthesis:
        """The same on another device; Lightning asks this of what it collects."""
        from torch import Tensor

        def moved(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {name: moved(part) for name, part in value.items()}
            return value.to(device) if isinstance(value, Tensor) else value

        return replace(
            self, **{field.name: moved(getattr(self, field.name)) for field in fields(self)}
        )


class Synthesizes(Protocol):
    """A model that puts synthetic nodules into images; all that callbacks know of it."""

    @property
    def window(self) -> tuple[float, float]:
        """Intensities that the model maps to -1 and 1; infinite where it maps none."""

    @property
    def provenance(self) -> Provenance:
        """Where what it synthesizes comes from, with the seed of its settings."""

    def sample(self, batch: NoduleBatch, seed: int | None = None) -> Synthesis:
        """Synthesize a nodule in each image of a batch.

        Args:
            batch: images, masks and conditions.
            seed: overrides the seed of the model's settings.
        """


class Classification(NamedTuple):
    """What a classifier says of nodules, and what is known of them.

    Attributes:
        characteristics: names of what it tells.
        labels: `(B, characteristics)`; 1, 0, or NaN where it is not known.
        probabilities: `(B, characteristics)`, for which both answers weigh alike.
        calibrated: `(B, characteristics)`, at the prevalence among real training nodules.
    """

    characteristics: tuple[str, ...]
    labels: Tensor
    probabilities: Tensor
    calibrated: Tensor


class Detection(NamedTuple):
    """What is found on images; logits or probabilities.

    Attributes:
        nodule: `(B,)`, that there is a nodule on the image.
        pixels: `(B, 1, H, W)`, that a pixel is in one.
    """

    nodule: Tensor
    pixels: Tensor


class Detects(Protocol):
    """A model that finds nodules on images; all that callbacks know of it."""

    def detect(self, image: Tensor) -> Detection:
        """Probabilities, float32, of images `(B, 1, H, W)` in physical units."""
