"""NODE21's radiographs with boxes around nodules, without those of JSRT and ChestX-ray14."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.collections.radiographs import RadiographCollection
from datamodules.identifiers import check_readings, identifiers
from datamodules.io.paths import name_of
from datamodules.io.volumes import read_grid
from datamodules.tables import (
    check_numbers,
    empty_cells,
    listed,
    raise_together,
    read_table,
    select_rows,
)

log = logging.getLogger(__name__)

BOX = ("x", "y", "width", "height")
COLUMNS = ("img_name", "label", *BOX)
"""Columns of `metadata.csv`; `x`, `y` are the upper left corner, in pixels."""

SOURCES = ("node21_img_id", "orig_dataset")
"""Columns of NODE21's lists of where its radiographs are from."""

OTHERS = ("jsrt", "chestxray14")
"""What has collections of its own, as NODE21's lists call it."""


def read_metadata(path: Path) -> pd.DataFrame:
    """Read `metadata.csv`.

    Returns:
        One nodule, or one radiograph without any, a row: `image`, `label` (1 or 0), `x`, `y`,
        `width`, `height`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a label is neither 1 nor 0, a box is none, or a radiograph is listed both
            with and without a nodule.
    """
    if not path.is_file():
        message = f"{path} does not exist: give NODE21's folder cxr_images, or csv"
        raise FileNotFoundError(message)
    table = read_table(path, {"img_name": str}, COLUMNS)[list(COLUMNS)]
    raise_together(empty_cells(table, ("img_name", "label"), path))
    check_numbers(table, ("label",), path)
    check_numbers(table[table["label"] == 1], BOX, path)
    table = table.rename(columns={"img_name": "image"})
    nodules = table["label"] == 1
    errors = [
        f"{path}: label is {table['label'].iloc[at]!r} in line {at + 2}: expected 1 or 0"
        for at in np.flatnonzero(~table["label"].isin([0, 1]))
    ]
    empty = nodules & ~((table["width"] > 0) & (table["height"] > 0))
    errors += [
        f"{path}: the box in line {at + 2} has no width or height: correct it"
        for at in np.flatnonzero(empty)
    ]
    both = {*table["image"][nodules]} & {*table["image"][~nodules]}
    errors += [f"{path}: {name} is listed both with and without a nodule" for name in sorted(both)]
    errors += [
        f"{path}: line {at + 2} repeats a line before: remove one"
        for at in np.flatnonzero(table.duplicated())
    ]
    raise_together(errors)
    return table


class Node21Collection(RadiographCollection):
    """NODE21 (Sogancioglu et al. 2024): 4882 radiographs, 1134 of them with 1476 nodules.

    `root` is its folder `cxr_images`. It contains radiographs of JSRT and ChestX-ray14, which its
    lists of sources (`filenames_orig_and_new.csv` and `non_nodule_filenames_orig_and_new.csv`)
    name: these are left out, since they have collections of their own, and their patients would
    stand in two splits. NODE21 does not say who is who: each radiograph is of a patient of its own,
    unless `patients` says otherwise. A nodule's mask is the ellipse that its box encloses.
    """

    def __init__(
        self,
        root: Path,
        csv: str = "proccessed_data/metadata.csv",
        patients: str | None = None,
        select: str | None = None,
        lungs: Path | None = None,
    ) -> None:
        """Say what there is.

        Args:
            root: NODE21's folder `cxr_images`, with the lists of sources in whatever folders.
            csv: table of the radiographs in `root`, which lie in `images` beside it.
            patients: table in `root` with `img_name` and `patient_id`, where it is known.
            select: an expression that says which rows to use, over the table's columns.
            lungs: folder with lung masks named like the radiographs, where points without a nodule
                lie; without it they lie where upright radiographs have their lungs.
        """
        super().__init__(root, select, lungs)
        self.csv = csv
        self.patients = patients

    def nodules(self) -> pd.DataFrame:
        """The boxes of radiographs that are no other collection's.

        Raises:
            ValueError: If there is none, or a box leaves its radiograph.
        """
        table = self._table(1)
        number = table.groupby("image").cumcount().astype(str)
        table = table.assign(
            name=table["image"].map(Path).map(name_of) + "-" + number,
            half_y=table["height"] / 2,
            half_x=table["width"] / 2,
        )
        raise_together([fault for row in table.itertuples() if (fault := _leaves(row))])
        return table.assign(y=table["y"] + table["height"] / 2, x=table["x"] + table["width"] / 2)

    def normal_radiographs(self) -> pd.DataFrame:
        """The radiographs labelled 0 that are no other collection's.

        Raises:
            ValueError: If there is none.
        """
        table = self._table(0)
        return table.assign(name=table["image"].map(Path).map(name_of))

    def _table(self, label: int) -> pd.DataFrame:
        """The rows of a label, without other collections' radiographs."""
        path = self.root / self.csv
        table = read_metadata(path)
        sources = self._sources()
        names = table["image"].map(Path).map(name_of)
        if unknown := sorted({*names} - {*sources}):
            message = (
                f"{path}: NODE21's lists of sources do not name {listed(unknown)}: add "
                "filenames_orig_and_new.csv and non_nodule_filenames_orig_and_new.csv"
            )
            raise ValueError(message)
        own = ~names.map(sources).isin(OTHERS)
        counts = names[~own].drop_duplicates().map(sources).value_counts()
        told = ", ".join(f"{number} of {name}" for name, number in counts.items())
        log.info("%s: left out %s", self.csv, told or "none of other collections")
        table = table[own & (table["label"] == label)].reset_index(drop=True)
        table = select_rows(table, self.select, str(path))
        if table.empty:
            message = f"{path} has no radiograph labelled {label} of its own: add some"
            raise ValueError(message)
        files = (path.parent / "images").resolve()
        return table.assign(
            path=[files / name for name in table["image"]],
            patient_id=self._patients(table["image"]),
            spacing_mm=None,
        )

    def _sources(self) -> dict[str, str]:
        """From which data set each radiograph is, by its name without ending."""
        paths = sorted(self.root.rglob("*filenames_orig_and_new.csv"))
        if not paths:
            message = (
                f"{self.root} has no list of sources (filenames_orig_and_new.csv), without which "
                "JSRT's and ChestX-ray14's radiographs cannot be left out: add NODE21's own"
            )
            raise FileNotFoundError(message)
        found: dict[str, str] = {}
        for path in paths:
            table = read_table(path, dict.fromkeys(SOURCES, str), SOURCES)
            raise_together(empty_cells(table, SOURCES, path))
            names = table[SOURCES[0]].map(Path).map(name_of)
            found |= dict(zip(names, table[SOURCES[1]].str.strip().str.lower(), strict=True))
        return found

    def _patients(self, images: pd.Series) -> list[str]:
        """Whose each radiograph is."""
        names = [name_of(Path(name)) for name in images]
        if self.patients is None:
            return names
        path, columns = self.root / self.patients, ("img_name", "patient_id")
        table = read_table(path, dict.fromkeys(columns, str), columns)
        raise_together(empty_cells(table, columns, path))
        owners = identifiers(table["patient_id"])
        check_readings(owners, str(path), "patient_id")
        keys = table["img_name"].map(Path).map(name_of)
        known = dict(zip(keys, owners, strict=True))
        if missing := sorted({*names} - {*known}):
            message = f"{path} does not say whose {listed(missing)} are: add them"
            raise ValueError(message)
        return [known[name] for name in names]


def _leaves(row: object) -> str | None:
    """What is wrong with a box that is not within its radiograph."""
    path, x, y, width, height = (
        getattr(row, name) for name in ("path", "x", "y", "width", "height")
    )
    if not path.is_file():
        return f"{path} does not exist: check the table and the root folder"
    rows, columns = read_grid(path).shape[-2:]
    if min(x, y) < 0 or x + width > columns or y + height > rows:
        return f"{path}: a box {x}, {y}, {width}, {height} leaves its {columns} x {rows} pixels"
    return None
