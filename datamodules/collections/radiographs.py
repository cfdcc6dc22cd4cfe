"""What all collections of radiographs share: regions around nodules, and points without one."""

import json
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datamodules.batch import UNKNOWN_SUBTYPE, Roi
from datamodules.collections.base import NoduleCollection, NoduleSet, Patch
from datamodules.digest import sha256
from datamodules.io.paths import name_of
from datamodules.io.radiographs import lung_point, read_lungs, read_radiograph
from datamodules.io.volumes import Volume, equivalent_diameter_mm, resample, resample_mask
from datamodules.splits import SPLITS, Split, split_by_patient
from datamodules.tables import raise_together

Content = Literal["nodules", "normal"]
"""What is looked at: nodules, or radiographs without one."""


def ellipse(grid_shape: Sequence[int], center: Sequence[float], axes: Sequence[float]) -> Any:
    """A filled ellipse `(y, x)` of booleans.

    Args:
        grid_shape: pixels along y and x.
        center: its centre, in pixels, y and x.
        axes: its half axes, in pixels, along y and x; it always holds its centre.
    """
    y, x = np.ogrid[: grid_shape[0], : grid_shape[1]]
    inside = ((y - center[0]) / axes[0]) ** 2 + ((x - center[1]) / axes[1]) ** 2 <= 1
    row, column = (round(c) for c in center)
    if 0 <= row < grid_shape[0] and 0 <= column < grid_shape[1]:
        inside[row, column] = True
    return inside


@lru_cache(maxsize=2)
def _recent(path: Path, spacing_mm: tuple[float, float] | None, changed_ns: int) -> Volume:
    """Read a radiograph, or give it again: copies and nodules of one radiograph share it."""
    del changed_ns  # only makes a file that was rewritten another key
    return read_radiograph(path, spacing_mm)


class RadiographRegions(NoduleSet):
    """Regions of interest on radiographs, around a nodule or around a point without one."""

    image_per_row: ClassVar[bool] = False
    """Whether each row shows an image of its own, though the radiograph is the same."""

    def __init__(
        self,
        table: pd.DataFrame,
        attributes: Sequence[str],
        roi: Roi,
        split_seed: int = 0,
        lungs: Path | None = None,
    ) -> None:
        """Describe the regions.

        Args:
            table: one region a row: `name`, `patient_id`, `path` and `spacing_mm` (of a picture
                file, else None) of the radiograph; `y`, `x`, `half_y` and `half_x` (pixels), the
                centre and half axes of the ellipse that stands for the nodule, NaN where there is
                none; and the attributes.
            attributes: columns that become the batch's attributes; NaN where unknown.
            roi: the region that is read of each.
            split_seed: of the points without a nodule, and of the places of nodules that are put
                into radiographs.
            lungs: folder with lung masks, see `read_lungs`; such points and places lie in them.
        """
        super().__init__(table.reset_index(drop=True), [UNKNOWN_SUBTYPE] * len(table), roi.shape(2))
        self.rows: list[dict[str, Any]] = self.table.to_dict("records")  # type: ignore[assignment]
        self.attributes = list(attributes)
        self.roi = roi
        self.split_seed = split_seed
        self.lungs = lungs

    def facts(self) -> Iterable[str]:
        """List rows, files, their sizes and the ROI."""
        yield from self.settings()
        yield self.table.drop(columns="path").to_json(orient="split")
        for path in self.table["path"]:
            yield f"{path.name} {path.stat().st_size}"

    def settings(self) -> Iterable[str]:
        """List what of the settings the items depend on, and the lung masks."""
        yield json.dumps([self.roi.spacing_mm, self.attributes, self.split_seed])
        if self.lungs is not None:
            for path in sorted(path for path in self.lungs.rglob("*") if path.is_file()):
                yield f"{path.relative_to(self.lungs)} {path.stat().st_size}"

    def nodule(self, row: dict[str, Any]) -> tuple[Volume, NDArray[np.bool_], tuple[float, float]]:
        """Read a radiograph and draw its nodule.

        Returns:
            The radiograph, bone bright; the nodule's mask on its grid, empty where there is none;
            and the pixel (y, x) that the ROI is centred on.
        """
        radiograph = self.radiograph(row)
        shape = radiograph.array.shape
        if not np.isnan(row["half_x"]):
            center = (row["y"], row["x"])
            return radiograph, ellipse(shape, center, (row["half_y"], row["half_x"])), center
        lungs = None if self.lungs is None else read_lungs(self.lungs, name_of(row["path"]), shape)
        return radiograph, np.zeros(shape, bool), lung_point(shape, lungs, self.generator(row))

    def without_nodule(self, row: dict[str, Any]) -> Volume | None:
        """The radiograph as it is without the nodule; None where that is not known."""
        return None

    def radiograph(self, row: dict[str, Any]) -> Volume:
        """Read a row's radiograph."""
        path = row["path"]
        return _recent(path, row["spacing_mm"], path.stat().st_mtime_ns if path.is_file() else 0)

    def generator(self, row: dict[str, Any]) -> np.random.Generator:
        """Where chance comes from for a row; it depends on its name and the seed alone."""
        return np.random.default_rng((self.split_seed, int(sha256(row["name"])[:8], 16)))

    def read(self, nodule: int, size: Sequence[int]) -> Patch:
        """Cut one ROI.

        Raises:
            FileNotFoundError: If the radiograph is missing.
            ValueError: If the radiograph is damaged, or the ROI lies outside it.
        """
        row = self.rows[nodule]
        radiograph, inside, center = self.nodule(row)
        spacing = (self.roi.spacing_mm,) * 2
        point = radiograph.grid.world(center)
        # beyond the radiograph's edge is what was not exposed, and dark
        roi = resample(radiograph, point, size, spacing, fill=float(radiograph.array.min()))
        mask = resample_mask(
            Volume(inside, radiograph.spacing_mm, radiograph.origin_mm, radiograph.direction),
            point,
            size,
            spacing,
        )
        diameter = equivalent_diameter_mm(inside, radiograph.spacing_mm) or np.nan
        without = self.without_nodule(row)
        if without is not None:
            under = resample(without, point, size, spacing, fill=float(radiograph.array.min()))
        known = {name: float(row[name]) for name in self.attributes}
        return Patch(
            Volume(roi.array.astype(np.float32), roi.spacing_mm, roi.origin_mm, roi.direction),
            mask.array,
            {"diameter_mm": diameter, **known},
            row["name"],
            row["patient_id"],
            underlay=None if without is None else under.array.astype(np.float32),
        )

    def requests(self) -> "RadiographRegions":
        """Where nodules like these are to be synthesized: in the same regions."""
        return self


class RadiographCollection(NoduleCollection):
    """Radiographs on disk: those with nodules, and those without."""

    attributes: ClassVar[Sequence[str]] = ()
    """Columns of the table of nodules that become the batch's attributes."""

    regions: ClassVar[type[RadiographRegions]] = RadiographRegions
    """Reads nodules; points without one are always read by `RadiographRegions`."""

    def __init__(self, root: Path, select: str | None = None, lungs: Path | None = None) -> None:
        """Say what there is.

        Args:
            root: folder with the tables and radiographs.
            select: an expression that says which rows to use, over the columns of the table of
                nodules, or of the one of radiographs where these are what is looked at.
            lungs: folder with lung masks named like the radiographs, where points without a nodule
                lie; without it they lie where upright radiographs have their lungs.
        """
        self.root = Path(root)
        self.select = select
        self.lungs = lungs

    @abstractmethod
    def nodules(self) -> pd.DataFrame:
        """List all nodules as `RadiographRegions` takes them."""

    @abstractmethod
    def normal_radiographs(self) -> pd.DataFrame:
        """List all radiographs without a nodule: `name`, `patient_id`, `path`, `spacing_mm`."""

    def split(
        self, table: pd.DataFrame, fractions: tuple[float, float, float], split_seed: int
    ) -> dict[Split, pd.DataFrame]:
        """Divide a table by patient; a collection with splits of its own keeps to them."""
        return split_by_patient(table, split_seed, fractions)

    def parts(
        self,
        fractions: tuple[float, float, float],
        split_seed: int,
        content: Content = "nodules",
        points_per_radiograph: int = 1,
    ) -> dict[Split, pd.DataFrame]:
        """The rows of each split; arguments as those of `splits`."""
        if content == "nodules":
            table = self.nodules()
        else:
            table = points_without_nodule(self.normal_radiographs(), points_per_radiograph)
            table = table.assign(**dict.fromkeys(self.attributes, np.nan))
        return self.split(table, fractions, split_seed)

    def splits(
        self,
        roi: Roi,
        fractions: tuple[float, float, float],
        split_seed: int,
        content: Content = "nodules",
        points_per_radiograph: int = 1,
    ) -> dict[Split, RadiographRegions]:
        """Divide nodules, or points without one, by patient.

        Args:
            roi: the region that is read of each.
            fractions: shares of the patients for train, val and test.
            split_seed: of the split, of points without a nodule and of places of nodules.
            content: `nodules`, or `normal` for points in radiographs without a nodule.
            points_per_radiograph: points in each radiograph with `normal`.

        Raises:
            FileNotFoundError: If a table is missing.
            ValueError: If tables or files are faulty, or a split is empty that should not be.
        """
        parts = self.parts(fractions, split_seed, content, points_per_radiograph)
        raise_together(
            [
                f"{path} does not exist: check the table and the root folder"
                for part in parts.values()
                for path in part["path"]
                if not path.is_file()
            ]
        )
        regions = self.regions if content == "nodules" else RadiographRegions
        return {
            split: regions(parts[split], self.attributes, roi, split_seed, self.lungs)
            for split in SPLITS
        }


def points_without_nodule(radiographs: pd.DataFrame, number: int) -> pd.DataFrame:
    """Give each radiograph `number` rows, whose points the dataset draws."""
    table = radiographs.loc[radiographs.index.repeat(number)].reset_index(drop=True)
    table["name"] = table["name"] + "-" + table.groupby("name").cumcount().astype(str)
    return table.assign(y=np.nan, x=np.nan, half_y=np.nan, half_x=np.nan)
