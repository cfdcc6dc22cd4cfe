"""Whole radiographs, of several collections, with all nodules of each in one mask."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from datamodules.collections.base import NoduleSet, Patch
from datamodules.collections.origins import origins, whose
from datamodules.collections.radiographs import RadiographRegions
from datamodules.io.volumes import Volume, equivalent_diameter_mm, resample, resample_mask

DARK, BRIGHT = 0.5, 99.5
"""Percentiles of a radiograph that become 0 and 255: sources differ in their range of grey."""


@dataclass(frozen=True)
class Radiograph:
    """One image.

    Attributes:
        name: unique in all sources.
        patient_id: whose radiograph it is.
        has_nodule: whether there is a nodule in it.
        origins: whom and what it shows, in words; see `origins`.
        rows: those of `regions` that show this image.
        regions: what reads them.
    """

    name: str
    patient_id: str
    has_nodule: bool
    origins: frozenset[str]
    rows: list[dict[str, Any]]
    regions: RadiographRegions


def list_radiographs(
    source: str, regions: RadiographRegions, has_nodule: bool, source_ids: Mapping[str, str]
) -> list[Radiograph]:
    """Find the images that the rows of a collection's table show.

    Rows with the same file are one image. Where nodules were put into radiographs, each row is an
    image of its own.

    Args:
        source: begins the images' names.
        regions: one region of interest a row.
        has_nodule: whether there is a nodule in the images.
        source_ids: see `origins`.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in regions.rows:
        key = row["name"] if regions.image_per_row else str(row["path"])
        groups.setdefault(key, []).append(row)
    return [
        Radiograph(
            f"{source}-{rows[0]['name']}",
            whose(rows[0]),
            has_nodule,
            origins(rows[0], source_ids),
            rows,
            regions,
        )
        for rows in groups.values()
    ]


class WholeRadiographs(NoduleSet):
    """Whole radiographs, each resampled about its middle, with grey from 0 to 255.

    The radiograph's 0.5th and 99.5th percentiles become 0 and 255; what lies beyond is not clipped.
    Augmented radiographs stay upright. Their attributes are `nodule` (1 or 0), `subtlety` (that of
    the most obvious nodule) and `diameter_mm` (of the disc with the nodules' area). `subtypes` is
    what training balances: 1 for an image with a nodule and 0 for one without.
    """

    upright = True

    def __init__(self, radiographs: Sequence[Radiograph], size: int, spacing_mm: float) -> None:
        """Describe the images.

        Args:
            radiographs: what is read.
            size: pixels along each side.
            spacing_mm: distance between pixels.
        """
        labels = [int(radiograph.has_nodule) for radiograph in radiographs]
        names, patients = [f.name for f in radiographs], [f.patient_id for f in radiographs]
        table = pd.DataFrame({"name": names, "patient_id": patients, "nodule": labels})
        super().__init__(table, labels, (size, size))
        self.radiographs = list(radiographs)
        self.spacing_mm = spacing_mm

    @property
    def patients(self) -> set[str]:
        """Everybody of whom the items show something, in radiographs and as nodules."""
        return set().union(*[radiograph.regions.patients for radiograph in self.radiographs])

    def facts(self) -> Iterable[str]:
        """List the images, and what the sources depend on."""
        yield json.dumps([DARK, BRIGHT, self.spacing_mm, self.table.to_dict("list")])
        for regions in dict.fromkeys(radiograph.regions for radiograph in self.radiographs):
            yield from regions.facts()

    def read(self, nodule: int, size: Sequence[int]) -> Patch:
        """Read one radiograph, with the masks of all its nodules in one.

        Raises:
            FileNotFoundError: If the radiograph is missing.
            ValueError: If the radiograph is damaged, or no nodule is within the image.
        """
        radiograph = self.radiographs[nodule]
        read = [radiograph.regions.nodule(row) for row in radiograph.rows]
        whole = read[0][0]
        inside = np.logical_or.reduce([mask for _, mask, _ in read])
        spacing = (self.spacing_mm,) * 2
        middle = whole.grid.world([(n - 1) / 2 for n in whole.array.shape])
        # beyond the radiograph's edge is what was not exposed, and dark
        image = resample(whole, middle, size, spacing, fill=float(whole.array.min()))
        outline = Volume(inside, whole.spacing_mm, whole.origin_mm, whole.direction)
        mask = resample_mask(outline, middle, size, spacing)
        if radiograph.has_nodule and not mask.array.any():
            message = (
                f"No nodule of {radiograph.name} is within {size[0]} pixels of "
                f"{self.spacing_mm} mm about the radiograph's middle: raise radiograph_size or "
                "radiograph_spacing_mm"
            )
            raise ValueError(message)
        low, high = np.percentile(whole.array, (DARK, BRIGHT))
        grey = (image.array.astype(np.float32) - low) * 255 / max(high - low, 1e-6)
        attributes = {
            "nodule": float(radiograph.has_nodule),
            "subtlety": np.fmax.reduce([float(r.get("subtlety", np.nan)) for r in radiograph.rows]),
            "diameter_mm": equivalent_diameter_mm(inside, whole.spacing_mm) or np.nan,
        }
        return Patch(
            Volume(grey.astype(np.float32), spacing, image.origin_mm, image.direction),
            mask.array,
            attributes,
            radiograph.name,
            radiograph.patient_id,
        )
