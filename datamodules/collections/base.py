"""What all collections of nodules share: regions of interest that can be read, and splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from datamodules.batch import UNKNOWN_SUBTYPE

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from datamodules.batch import Roi
    from datamodules.io.volumes import Volume
    from datamodules.splits import Split


@dataclass(frozen=True)
class Patch:
    """The region of interest of one nodule, as it was read; checked when it is made.

    Attributes:
        image: in physical units.
        mask: on the image's grid; 1 inside the nodule and 0 elsewhere.
        attributes: `diameter_mm` and what else is known of the nodule; NaN where unknown.
        name: the nodule's identifier, no patient's name.
        patient_id: the data set's pseudonym.
        subtype: a code; see `NoduleBatch`.
        underlay: the image without the nodule, on the same grid; None where it is not known.
    """

    image: Volume
    mask: NDArray[np.uint8]
    attributes: Mapping[str, float]
    name: str
    patient_id: str
    subtype: int = UNKNOWN_SUBTYPE
    underlay: NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        """Refuse what no model must see.

        Raises:
            ValueError: If image and mask differ in shape, the geometry does not fit the image,
                values are not finite, or the mask has others than 0 and 1.
        """
        for fault in self._faults():
            message = f"The region of nodule {self.name!r} of patient {self.patient_id!r} {fault}"
            raise ValueError(message)

    def _faults(self) -> Iterable[str]:
        image, shape = self.image, self.image.array.shape
        if self.mask.shape != shape:
            yield (
                f"has a mask of {self.mask.shape} voxels and an image of {shape}: cut both on one "
                "grid"
            )
        if self.underlay is not None and self.underlay.shape != shape:
            yield f"has an underlay of {self.underlay.shape} voxels and an image of {shape}"
        if len(image.spacing_mm) != len(shape) or not min(image.spacing_mm) > 0:
            yield (
                f"has {len(shape)} dimensions and the spacing {image.spacing_mm} mm: expected a "
                "number above 0 for each of them"
            )
        if not np.isfinite([*image.spacing_mm, *image.origin_mm, *image.direction.flat]).all():
            yield (
                f"has the spacing {image.spacing_mm} mm, the origin {image.origin_mm} mm and the "
                f"direction {image.direction.tolist()}: expected finite numbers, correct the header"
            )
        if not np.isfinite(image.array).all():
            bad = int((~np.isfinite(image.array)).sum())
            yield f"has {bad} voxel(s) that are not finite: replace NaN and infinity in the image"
        if not ((self.mask == 0) | (self.mask == 1)).all():
            yield (
                f"has mask values from {self.mask.min()} to {self.mask.max()}: expected 1 inside "
                "the nodule and 0 elsewhere"
            )


class NoduleSet(ABC):
    """Nodules in a fixed order, a region of interest of each of which can be read.

    Attributes:
        table: one nodule a row, with `patient_id`.
        subtypes: of each nodule the code, as `NoduleBatch` has it; training may
            draw all of them equally often.
        roi_size: voxels of the region along z, y, x (y, x in 2D).
        image_dtype: a type that holds every image exactly; images of an integer type are rounded
            after interpolation.
    """

    image_dtype: type[np.number[Any]] = np.float32

    upright: ClassVar[bool] = False
    """Whether augmentation flips left and right alone, as where the whole body is seen."""

    def __init__(
        self, table: pd.DataFrame, subtypes: Sequence[int], roi_size: Sequence[int]
    ) -> None:
        """Describe the nodules; see the class."""
        self.table = table
        self.subtypes = list(subtypes)
        self.roi_size = tuple(roi_size)

    def __len__(self) -> int:
        """Return the number of nodules."""
        return len(self.subtypes)

    @property
    def patients(self) -> set[str]:
        """Everybody of whom something is shown."""
        return {*self.table["patient_id"]}

    @abstractmethod
    def read(self, nodule: int, size: Sequence[int]) -> Patch:
        """Read the region of one nodule.

        Args:
            nodule: its position, 0 to `len(self) - 1`.
            size: voxels to cut; voxel `size // 2` lies at the nodule's centre.
        """

    @abstractmethod
    def facts(self) -> Iterable[str]:
        """List all that the regions depend on: rows, names and sizes of files, settings."""


class NoduleCollection(ABC):
    """Nodules on disk: what there is. How they are split, cut and loaded is said by who uses them.

    Attributes:
        root: folder with the table and the files it names.
    """

    root: Path

    @abstractmethod
    def splits(
        self, roi: Roi, fractions: tuple[float, float, float], split_seed: int
    ) -> Mapping[Split, NoduleSet]:
        """Divide the nodules by patient.

        Args:
            roi: the region that is read of each nodule.
            fractions: shares of the patients for train, val and test.
            split_seed: another seed gives another split.

        Raises:
            FileNotFoundError: If a table is missing.
            ValueError: If tables or files are faulty, or a split that should have a share of the
                patients got none.
        """
