"""What a diffusion model's weights mean nothing without."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from datamodules.batch import Roi
from lightning_modules.core.histogram import bin_centers, masked_histogram
from lightning_modules.core.window import IntensityWindow


@dataclass(frozen=True)
class ModelFacts:
    """Facts of one model; they stand in its checkpoints, and what differs is refused.

    Attributes:
        window: physical intensities that are mapped to [-1, 1], and that histograms cover.
        margin_voxels: how far beyond the mask the synthetic nodule reaches into its surroundings.
        histogram_bins: bins of the intensity histograms inside the mask.
        roi: the region of an image in which a nodule is synthesized.
    """

    window: IntensityWindow
    margin_voxels: int
    histogram_bins: int
    roi: Roi

    @property
    def bin_centers(self) -> Tensor:
        """Centres of the histograms' bins in image units, `(bins,)`."""
        return bin_centers(self.histogram_bins, self.window.low, self.window.high)

    def histogram(self, image: Tensor, mask: Tensor) -> Tensor:
        """Histograms, `(B, bins)`, of images `(B, 1, *spatial)` inside masks of the same shape."""
        return masked_histogram(image, mask, self.histogram_bins, self.window)

    def plain(self, spatial_dims: int) -> dict[str, Any]:
        """As a checkpoint holds them: numbers and lists.

        Args:
            spatial_dims: 2 or 3; the axes of the ROI.
        """
        return {
            "window": list(self.window.ends),
            "margin_voxels": self.margin_voxels,
            "histogram_bins": self.histogram_bins,
            "roi_size": list(self.roi.shape(spatial_dims)),
            "roi_spacing_mm": self.roi.spacing_mm,
        }

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "ModelFacts":
        """The facts in a checkpoint; see `plain`."""
        return cls(
            IntensityWindow(*plain["window"]),
            plain["margin_voxels"],
            plain["histogram_bins"],
            Roi(tuple(plain["roi_size"]), plain["roi_spacing_mm"]),
        )


def check_facts(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Check that a checkpoint's facts are the config's.

    Args:
        theirs: what the checkpoint holds, which may be more.
        ours: what the config says, by the same names.

    Raises:
        ValueError: Naming what differs.
    """
    for name, value in ours.items():
        if theirs.get(name) != value:
            message = (
                f"The checkpoint was trained with {name} {theirs.get(name)}, but the config says "
                f"{value}: set it to the checkpoint's value."
            )
            raise ValueError(message)
