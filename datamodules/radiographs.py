"""What all radiograph data sets share: regions of interest, patches without a nodule."""

import json
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from datamodules.base import (
    NoduleDataModule,
    NoduleDataset,
    Split,
    check_fractions,
    raise_together,
    select_rows,
    split_by_patient,
)
from datamodules.batch import UNKNOWN_SUBTYPE, NoduleBatch, Roi
from datamodules.digest import sha256
from datamodules.io.radiographs import lung_point, read_lungs, read_radiograph
from datamodules.io.volumes import Volume, equivalent_diameter_mm, resample, resample_mask


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


class RadiographDataset(NoduleDataset):
    """Regions of interest on radiographs, around a nodule or around a point without one."""

    def __init__(
        self,
        table: pd.DataFrame,
        attributes: Sequence[str],
        roi_size: Sequence[int],
        roi_spacing_mm: float,
        augmented_copies: int = 1,
        seed: int = 0,
        lungs: Path | None = None,
    ) -> None:
        """Describe the regions.

        Args:
            table: one region a row: `name`, `patient_id`, `path` and `spacing_mm` (of a picture
                file, else None) of the radiograph; `y`, `x`, `half_y` and `half_x` (pixels), the
                centre and half axes of the ellipse that stands for the nodule, NaN where there is
                none; and the attributes.
            attributes: columns that become the batch's attributes; NaN where unknown.
            roi_size: pixels of the ROI along y and x.
            roi_spacing_mm: spacing of the ROI.
            augmented_copies: deterministic versions of each region.
            seed: of the augmentation and of the points without a nodule.
            lungs: folder with lung masks, see `read_lungs`; points without a nodule lie in them.
        """
        super().__init__([UNKNOWN_SUBTYPE] * len(table), roi_size, augmented_copies, seed)
        self.table = table.reset_index(drop=True)
        self.rows: list[dict[str, Any]] = self.table.to_dict("records")  # type: ignore[assignment]
        self.attributes = list(attributes)
        self.roi_spacing_mm = roi_spacing_mm
        self.lungs = lungs

    def facts(self) -> Iterable[str]:
        """List rows, files, their sizes and the ROI."""
        yield from self.settings()
        yield self.table.drop(columns="path").to_json(orient="split")
        for path in self.table["path"]:
            yield f"{path.name} {path.stat().st_size}"

    def settings(self) -> Iterable[str]:
        """List what of the settings the items depend on, and the lung masks."""
        yield json.dumps([self.roi_spacing_mm, self.attributes, self.seed])
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
        lungs = None if self.lungs is None else read_lungs(self.lungs, row["path"].stem, shape)
        return radiograph, np.zeros(shape, bool), lung_point(shape, lungs, self.generator(row))

    def radiograph(self, row: dict[str, Any]) -> Volume:
        """Read a row's radiograph."""
        path = row["path"]
        return _recent(path, row["spacing_mm"], path.stat().st_mtime_ns if path.is_file() else 0)

    def generator(self, row: dict[str, Any]) -> np.random.Generator:
        """Where chance comes from for a row; it depends on the row's name alone."""
        return np.random.default_rng((self.seed, int(sha256(row["name"])[:8], 16)))

    def read(self, nodule: int, size: Sequence[int]) -> NoduleBatch:
        """Cut one ROI.

        Raises:
            FileNotFoundError: If the radiograph is missing.
            ValueError: If the radiograph is damaged, or the ROI lies outside it.
        """
        row = self.rows[nodule]
        radiograph, inside, center = self.nodule(row)
        spacing = (self.roi_spacing_mm,) * 2
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
        known = {name: float(row[name]) for name in self.attributes}
        return {
            "image": torch.from_numpy(roi.array.astype(np.float32))[None],
            "mask": torch.from_numpy(mask.array.astype(np.float32))[None],
            "subtype": torch.tensor(self.subtypes[nodule]),
            "attributes": {
                name: torch.tensor(value, dtype=torch.float32)
                for name, value in {"diameter_mm": diameter, **known}.items()
            },
            "spacing_mm": torch.tensor(spacing, dtype=torch.float32),
            "origin_mm": torch.tensor(roi.origin_mm, dtype=torch.float64),
            "direction": torch.from_numpy(roi.direction.copy()),
            "name": row["name"],
            "patient_id": row["patient_id"],
            "index": torch.tensor(nodule),
        }


class RadiographDataModule(NoduleDataModule):
    """Regions of interest on radiographs; subclasses list them."""

    attributes: Sequence[str]
    """Columns of the table that become the batch's attributes."""

    dataset_class: type[RadiographDataset] = RadiographDataset
    """Reads nodules; points without one are always read by `RadiographDataset`."""

    def __init__(
        self,
        content: Literal["nodules", "normal"] = "nodules",
        points_per_radiograph: int = 4,
        select: str | None = None,
        lungs: Path | None = None,
        fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
        roi: Roi | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
        augmented_copies: int = 1,
        cache_dir: Path | None = Path(".cache/latents"),
    ) -> None:
        """Describe the regions.

        Args:
            content: `nodules`, or `normal` for points in the lungs of radiographs without a nodule.
            points_per_radiograph: points in each radiograph with `normal`.
            select: a pandas query over the table's columns that says which rows to use.
            lungs: folder with lung masks named like the radiographs, where points without a nodule
                lie; without it they lie where upright radiographs have their lungs.
            fractions: shares of the patients for train, val and test.
            roi: how regions are cut; null for the model's.
            batch_size: regions per batch and process.
            num_workers: processes that read files; 0 reads in the training process.
            seed: of the splits, the order, the augmentation and the points without a nodule.
            augmented_copies: deterministic versions of each training region, the first not
                augmented.
            cache_dir: folder for cached latents; null for none.

        Raises:
            ValueError: If a setting is out of its range.
        """
        super().__init__(roi, batch_size, num_workers, seed, False, augmented_copies, cache_dir)
        check_fractions(fractions)
        if points_per_radiograph < 1:
            message = f"points_per_radiograph is {points_per_radiograph}: give at least one point"
            raise ValueError(message)
        self.content = content
        self.points_per_radiograph = points_per_radiograph
        self.select = select
        self.lungs = lungs
        self.fractions = fractions

    @abstractmethod
    def nodules(self) -> pd.DataFrame:
        """List all nodules as `RadiographDataset` takes them."""

    @abstractmethod
    def normal_radiographs(self) -> pd.DataFrame:
        """List all radiographs without a nodule: `name`, `patient_id`, `path`, `spacing_mm`."""

    def build(self) -> dict[str, NoduleDataset]:
        """Read the tables and split them by patient.

        Raises:
            FileNotFoundError: If a table is missing.
            ValueError: If tables or files are faulty, or a split is empty that should not be.
        """
        parts = self.parts()
        raise_together(
            [
                f"{path} does not exist: check the table and the root folder"
                for part in parts.values()
                for path in part["path"]
                if not path.is_file()
            ]
        )
        datasets: dict[str, NoduleDataset] = {
            split: self.dataset(part, self.augmented_copies if split == "train" else 1)
            for split, part in parts.items()
        }
        return {**datasets, "predict": self.requests(parts["test"])}

    def parts(self) -> dict[Split, pd.DataFrame]:
        """The rows of each split."""
        if self.content == "nodules":
            table = self.nodules()
        else:
            table = points_without_nodule(self.normal_radiographs(), self.points_per_radiograph)
            table = table.assign(**dict.fromkeys(self.attributes, np.nan))
        return self.split(select_rows(table, self.select, type(self).__name__))

    def split(self, table: pd.DataFrame) -> dict[Split, pd.DataFrame]:
        """Divide the table by patient."""
        return split_by_patient(table, self.seed, self.fractions)

    def requests(self, table: pd.DataFrame) -> RadiographDataset:
        """The dataset that says where nodules are to be synthesized: the test split."""
        return self.dataset(table, 1)

    def dataset(self, table: pd.DataFrame, augmented_copies: int) -> RadiographDataset:
        """The dataset over rows of the table."""
        nodules = self.content == "nodules"
        return self._make(
            self.dataset_class if nodules else RadiographDataset, table, augmented_copies
        )

    def _make(
        self, of_class: type[RadiographDataset], table: pd.DataFrame, augmented_copies: int
    ) -> RadiographDataset:
        return of_class(
            table,
            self.attributes,
            self.roi.shape(2),
            self.roi.spacing_mm,
            augmented_copies,
            self.seed,
            self.lungs,
        )


def points_without_nodule(radiographs: pd.DataFrame, number: int) -> pd.DataFrame:
    """Give each radiograph `number` rows, whose points the dataset draws."""
    table = radiographs.loc[radiographs.index.repeat(number)].reset_index(drop=True)
    table["name"] = table["name"] + "-" + table.groupby("name").cumcount().astype(str)
    return table.assign(y=np.nan, x=np.nan, half_y=np.nan, half_x=np.nan)
