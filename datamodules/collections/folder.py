"""Any folder of radiographs with a table: radiographs without a nodule, or nodules with masks."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datamodules import tables
from datamodules.collections.lidc import read_table
from datamodules.collections.radiographs import RadiographCollection, RadiographRegions
from datamodules.identifiers import check_readings, identifiers
from datamodules.io.masks import read_mask
from datamodules.io.paths import name_of
from datamodules.io.radiographs import PICTURES
from datamodules.io.volumes import Volume, read_grid
from datamodules.splits import SPLITS, Split, check_no_patient_crosses
from datamodules.tables import empty_cells, raise_together, select_rows

COLUMNS = ("image", "patient_id", "spacing_mm")


class MaskedNodules(RadiographRegions):
    """Nodules with a mask on the radiograph's grid; rows also have `nodule_mask`, its file."""

    def facts(self) -> Iterable[str]:
        """List rows, files, their sizes and the ROI."""
        yield from self.settings()
        files = ["path", "nodule_mask"]
        yield self.table.drop(columns=files).to_json(orient="split")
        for path in (*self.table["path"], *self.table["nodule_mask"]):
            yield json.dumps([path.name, path.stat().st_size])

    def nodule(self, row: dict[str, Any]) -> tuple[Volume, NDArray[np.bool_], tuple[float, float]]:
        """Read a radiograph and its nodule.

        Raises:
            ValueError: If the mask is empty or of another size than the radiograph.
        """
        radiograph = self.radiograph(row)
        inside = read_mask(row["nodule_mask"]).array > 0
        if inside.shape != radiograph.array.shape or not inside.any():
            message = (
                f"{row['nodule_mask']} has {inside.shape} pixels, {inside.sum()} of them in the "
                f"nodule, and its radiograph {radiograph.array.shape}: give a mask on the "
                "radiograph's grid with the nodule in it"
            )
            raise ValueError(message)
        middle = [float(axis.mean()) for axis in np.nonzero(inside)]
        return radiograph, inside, (middle[0], middle[1])


class FolderCollection(RadiographCollection):
    """Radiographs without a nodule, or nodules with their masks, listed in a table.

    Of radiographs without one the table is `radiographs.csv`, with the columns `image` (file
    relative to the folder), `patient_id` and `spacing_mm` (distance between pixels); it may have
    `split` (train, val or test), which then decides. Of nodules it is `nodules.csv`, as inserting
    synthetic ones writes it: `nodule_id`, `patient_id`, `image` and `mask`, an image file on the
    radiograph's grid that says a picture's spacing too.
    """

    regions = MaskedNodules

    def __init__(
        self,
        root: Path,
        csv: str | None = None,
        select: str | None = None,
        lungs: Path | None = None,
    ) -> None:
        """Say what there is.

        Args:
            root: folder with the table and the radiographs, bone bright.
            csv: name of the table in `root`; null for `radiographs.csv` of radiographs without a
                nodule, and `nodules.csv` of nodules.
            select: an expression over the table's columns that says which rows to use.
            lungs: folder with lung masks named like the radiographs, where points without a nodule
                lie; without it they lie where upright radiographs have their lungs.
        """
        super().__init__(root, select, lungs)
        self.csv = csv

    def nodules(self) -> pd.DataFrame:
        """Read the table of nodules.

        Raises:
            FileNotFoundError: If the table or a mask is missing.
            ValueError: If the table is faulty, or a mask is not 2D.
        """
        table = read_table(self.root / (self.csv or "nodules.csv"), None, self.select)
        masks = [self.root / name for name in table["mask"]]
        radiographs = [self.root / name for name in table["image"]]
        spacings = [read_grid(mask).spacing_mm for mask in masks]
        raise_together(
            [
                f"{mask} has {len(spacing)} dimensions, expected a mask of a radiograph with 2"
                for mask, spacing in zip(masks, spacings, strict=True)
                if len(spacing) != 2
            ]
        )
        of_pictures: list[Any] = [
            spacing if radiograph.suffix.lower() in PICTURES else None
            for radiograph, spacing in zip(radiographs, spacings, strict=True)
        ]
        return table.assign(
            name=table["nodule_id"], path=radiographs, nodule_mask=masks, spacing_mm=of_pictures
        )

    def normal_radiographs(self) -> pd.DataFrame:
        """Read the table.

        Raises:
            FileNotFoundError: If there is no table.
            ValueError: If a column is missing or a value is out of its range.
        """
        path = self.root / (self.csv or "radiographs.csv")
        if not path.is_file():
            message = f"{path} does not exist: check root and the table's name"
            raise FileNotFoundError(message)
        texts = {"image": str, "patient_id": str, "split": str}
        table = tables.read_table(path, texts, COLUMNS)
        for name in {"patient_id", "split"} & {*table.columns}:
            table[name] = identifiers(table[name])
        spacing = pd.to_numeric(table["spacing_mm"], errors="coerce")
        errors = [
            f"{path}: spacing_mm of {row.image} is {row.spacing_mm!r}, expected a number above 0"
            for row in table[~((spacing > 0) & np.isfinite(spacing))].itertuples()
        ]
        errors += empty_cells(table, ("image", "patient_id"), path)
        if "split" in table:
            errors += [
                f"{path}: split of {row.image} is {row.split!r}, expected one of {SPLITS}"
                for row in table[~table["split"].isin(SPLITS)].itertuples()
            ]
        raise_together(errors)
        check_readings(table["patient_id"], str(path), "patient_id")
        table = table.assign(
            name=table["image"].map(
                lambda name: Path(name).with_name(name_of(Path(name))).as_posix()
            ),
            path=table["image"].map(lambda name: self.root / name),
            spacing_mm=spacing.map(lambda value: (value, value)),
        )
        return select_rows(table, self.select, str(path))

    def split(
        self, table: pd.DataFrame, fractions: tuple[float, float, float], split_seed: int
    ) -> dict[Split, pd.DataFrame]:
        """Divide as the table says, or by patient."""
        if "split" not in table:
            return super().split(table, fractions, split_seed)
        parts = {split: table[table["split"] == split] for split in SPLITS}
        check_no_patient_crosses({name: part["patient_id"] for name, part in parts.items()})
        return parts
