"""Nodules in CT from a table of images and masks, with LIDC-IDRI's ratings."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datamodules import tables
from datamodules.batch import HEALTHY, NO_NODULE, SUBTYPES, Roi, subtype_code
from datamodules.collections.base import NoduleCollection, NoduleSet, Patch
from datamodules.file_names import is_file_name
from datamodules.hounsfield import AIR_HU, check_hu, to_int16
from datamodules.identifiers import check_readings, identifiers
from datamodules.io.dicom import read_study, read_study_grid, study_files
from datamodules.io.masks import read_mask
from datamodules.io.volumes import Grid, Volume, equivalent_diameter_mm, resample, resample_mask
from datamodules.ratings import RATINGS, subtype_of
from datamodules.splits import SPLITS, Split, split_by_patient
from datamodules.tables import empty_cells, listed, raise_together, select_rows

REQUIRED = ("nodule_id", "patient_id", "image", "mask")


def read_table(path: Path, columns: dict[str, str] | None, select: str | None) -> pd.DataFrame:
    """Read a table of nodules and check everything that can be checked without the images.

    Args:
        path: a CSV file, one nodule a row.
        columns: our names to the table's; what is not named is looked for under our name.
        select: an expression in the table's own column names; the rows it leaves out are
            counted in the log.

    Returns:
        The rows with our column names: `nodule_id`, `patient_id`, `image` and `mask` as text,
        the ratings as floats (NaN where empty), `subtype` as text if the table has it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing, identifiers repeat or cannot be file names, a cell is
            empty or unreadable, or no row is left.
    """
    if not path.is_file():
        message = f"{path} does not exist: check root and the table's name"
        raise FileNotFoundError(message)
    columns = columns or {}
    texts = [columns.get(name, name) for name in (*REQUIRED, "subtype")]
    table = tables.read_table(path, dtype=dict.fromkeys(texts, str))
    found = ", ".join(map(str, table.columns))
    known = (*REQUIRED, "subtype", *RATINGS)
    for name in columns:
        if name not in known:
            message = f"columns names {name!r}, which is unknown: use names out of {known}"
            raise ValueError(message)
    wanted = {columns.get(name, name): name for name in known}
    missing = [
        theirs
        for theirs, ours in wanted.items()
        if theirs not in table and (ours in REQUIRED or ours in columns)
    ]
    if not missing and not {columns.get(n, n) for n in ("subtype", "texture")} & {*table.columns}:
        missing = ["subtype or texture"]
    if missing:
        message = (
            f"{path} lacks the column(s) {', '.join(missing)} (found: {found}): "
            "say with `columns` how the table names them"
        )
        raise ValueError(message)
    for name in ("nodule_id", "patient_id", "subtype"):
        if (theirs := columns.get(name, name)) in table:
            table[theirs] = identifiers(table[theirs])
    table = select_rows(table, select, str(path))
    table = table[[name for name in wanted if name in table]].rename(columns=wanted)
    _check_rows(table, path)
    return table.reset_index(drop=True)


def _check_rows(table: pd.DataFrame, path: Path) -> None:
    """Check the cells; ratings become floats in place."""
    errors = empty_cells(table, REQUIRED, path)
    try:
        check_readings(table["patient_id"].dropna(), str(path), "patient_id")
    except ValueError as error:
        errors.append(str(error))
    names = table["nodule_id"].dropna()
    # which name files, also where these do not tell large from small letters
    repeated = names[names.str.casefold().duplicated()].unique()
    if len(repeated):
        errors.append(f"{path}: nodule_id {listed(repeated)} occurs more than once: make it unique")
    errors += [
        f"{path}: nodule_id {name!r} cannot be a file name: use letters, digits, '.', '_' and '-'"
        for name in names
        if not is_file_name(name)
    ]
    for name, (low, high) in RATINGS.items():
        if name not in table:
            continue
        numbers = pd.to_numeric(table[name], errors="coerce").astype(float)
        bad = table[name].notna() & ~numbers.between(low, high)
        errors += [
            f"{path}: {name} of nodule {row.nodule_id} is {getattr(row, name)!r}: "
            f"expected a number from {low} to {high}, or nothing"
            for row in table[bad].itertuples()
        ]
        table[name] = numbers
    if "subtype" in table:
        bad = table["subtype"].notna() & ~table["subtype"].isin([*SUBTYPES, HEALTHY])
        errors += [
            f"{path}: subtype of nodule {row.nodule_id} is {row.subtype!r}: "
            f"expected one of {', '.join((*SUBTYPES, HEALTHY))}, or nothing"
            for row in table[bad].itertuples()
        ]
    raise_together(errors)


def every_subtype(table: pd.DataFrame) -> pd.DataFrame:
    """Each nodule once as every subtype, named so; its ratings are not those of another subtype."""
    copies = [
        table.drop(columns=[name for name in RATINGS if name in table]).assign(
            subtype=subtype, nodule_id=table["nodule_id"] + f"-{subtype}"
        )
        for subtype in SUBTYPES
    ]
    return pd.concat(copies, ignore_index=True)


@lru_cache(maxsize=2)
def _recent(path: Path, kind: str, changed_ns: int) -> Volume:
    del changed_ns  # only makes a file that was rewritten another key
    return read_mask(path) if kind == "mask" else read_study(path)


def recent(path: Path, kind: str) -> Volume:
    """Read an `image` or a `mask`, or give it again: copies of a nodule and neighbours share it.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it cannot be read; see `read_study` and `read_mask`.
    """
    return _recent(path, kind, path.stat().st_mtime_ns if path.exists() else 0)


class LIDCNodules(NoduleSet):
    """Nodules of a table, cut from patches or whole CT volumes; see `LIDCCollection`."""

    image_dtype = np.int16

    def __init__(self, root: Path, table: pd.DataFrame, subtypes: Sequence[int], roi: Roi) -> None:
        """Describe the nodules.

        Args:
            root: folder that the table's files are relative to.
            table: rows as `read_table` returns them.
            subtypes: of each row, the position in `SUBTYPES` or `UNKNOWN_SUBTYPE`.
            roi: the region that is read of each.
        """
        super().__init__(table, subtypes, roi.shape(_dimensions(root, table)))
        self.root = root
        self.rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
        self.roi, self.roi_spacing_mm = roi, roi.spacing_mm

    def without_healthy(self) -> "LIDCNodules":
        """The nodules without regions of healthy lung."""
        kept = [k for k, code in enumerate(self.subtypes) if code != NO_NODULE]
        codes = [self.subtypes[k] for k in kept]
        return LIDCNodules(self.root, self.table.iloc[kept], codes, self.roi)

    def facts(self) -> Iterable[str]:
        """List rows, files, their sizes and the ROI."""
        yield json.dumps([self.roi_spacing_mm, self.subtypes])
        yield self.table.to_json(orient="split")
        for name in (*self.table["image"], *self.table["mask"]):
            files = study_files(self.root / name)
            yield f"{name} {sum(file.stat().st_size for file in files)}"

    def check(self) -> None:
        """Check the files' headers and raise what is wrong with them together.

        Raises:
            ValueError: If a file is missing or damaged, a spacing is not above zero, an image and
                its mask lie on different grids, or the ROI has other dimensions; the first 10 such
                in words.
        """
        errors = []
        grid_of = cache(read_study_grid)  # a series takes long, and many rows may share one
        for row in self.rows:
            try:
                self._check_header(row, grid_of)
            except (FileNotFoundError, ValueError) as error:
                errors.append(str(error))
        raise_together(errors)

    def _check_header(self, row: dict[str, Any], grid_of: Callable[[Path], Grid]) -> None:
        try:
            image, mask = (grid_of(self.root / row[kind]) for kind in ("image", "mask"))
        except (FileNotFoundError, ValueError) as error:
            message = f"Nodule {row['nodule_id']}: {error}"
            raise type(error)(message) from error
        what = f"Nodule {row['nodule_id']}: {self.root / row['mask']}"
        if not image.matches(mask):
            message = (
                f"{what} lies on another grid than {row['image']} (voxels {mask.shape} and "
                f"{image.shape}, spacing {mask.spacing_mm} and {image.spacing_mm} mm, origin "
                f"{mask.origin_mm} and {image.origin_mm} mm): resample the mask onto the image"
            )
            raise ValueError(message)
        if len(image.shape) != len(self.roi_size):
            message = (
                f"Nodule {row['nodule_id']}: {self.root / row['image']} has {len(image.shape)} "
                f"dimensions, but the ROI has {len(self.roi_size)} ({list(self.roi_size)} voxels): "
                "give one number of voxels for each dimension"
            )
            raise ValueError(message)

    def read(self, nodule: int, size: Sequence[int]) -> Patch:
        """Read the ROI around the mask's centroid.

        The centre is the voxel of the image that holds the centroid, so that at the image's own
        spacing values are copied and not interpolated; interpolated ones are rounded to whole HU.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If a file is damaged, the mask is empty, holds several labels or lies on
                another grid, or values are not in HU; the message names file and nodule.
        """
        row = self.rows[nodule]
        image, mask = self._volume(row, "image"), self._volume(row, "mask")
        self._check_values(row, image, mask)
        inside = np.nonzero(mask.array)
        # up at one half, unlike rint: the same voxel wherever the array starts
        center = [float(np.floor(np.mean(axis) + 0.5)) for axis in inside]
        n = len(center)
        spacing = (self.roi_spacing_mm,) * n
        point = image.grid.world(center)
        roi = resample(image, point, size, spacing, fill=AIR_HU)
        roi_mask = resample_mask(mask, point, size, spacing)
        if not roi_mask.array.any():
            message = (
                f"Nodule {row['nodule_id']}: {self.root / row['mask']} has no voxel in the ROI of "
                f"{tuple(size)} voxels around its centroid: give one compact nodule a row, "
                "or a larger roi_size"
            )
            raise ValueError(message)
        diameter = equivalent_diameter_mm(mask.array, mask.spacing_mm)
        ratings = {name: float(row[name]) for name in RATINGS if name in row}
        values = to_int16(roi.array).astype(np.float32)
        return Patch(
            Volume(values, roi.spacing_mm, roi.origin_mm, roi.direction),
            roi_mask.array,
            {"diameter_mm": diameter, **ratings},
            row["nodule_id"],
            row["patient_id"],
            self.subtypes[nodule],
        )

    def _volume(self, row: dict[str, Any], which: str) -> Volume:
        path = self.root / row[which]
        try:
            return recent(path, which)
        except (FileNotFoundError, ValueError) as error:
            message = f"Nodule {row['nodule_id']}: {error}"
            raise type(error)(message) from error

    def _check_values(self, row: dict[str, Any], image: Volume, mask: Volume) -> None:
        what = f"Nodule {row['nodule_id']}: {self.root / row['mask']}"
        if not image.grid.matches(mask.grid):
            message = f"{what} lies on another grid than {row['image']}: resample it onto the image"
            raise ValueError(message)
        top = mask.array.max()
        if not mask.array.any():
            message = f"{what} is empty: mark the nodule with 1, or leave the row out with select"
            raise ValueError(message)
        if ((mask.array != 0) & (mask.array != top)).any():
            message = f"{what} has several labels: give each nodule a mask of its own, 0 and 1"
            raise ValueError(message)
        if fault := check_hu(image.array):
            message = f"Nodule {row['nodule_id']}: {self.root / row['image']} {fault}"
            raise ValueError(message)


class LIDCCollection(NoduleCollection):
    """Nodules in CT: a folder with a table, images and one binary mask for each nodule.

    Images may be patches or whole volumes (several rows may share one), in MetaImage, NIfTI, NRRD
    or a DICOM series (its folder, or one of its files), and 2D or 3D; a region of interest (ROI) is
    cut around each mask's centroid.
    """

    def __init__(
        self,
        root: Path,
        csv: str = "nodules.csv",
        columns: dict[str, str] | None = None,
        select: str | None = None,
        ground_glass_max: float = 2.0,
        solid_min: float = 4.5,
    ) -> None:
        """Say what there is.

        Args:
            root: folder with the table and the files it names.
            csv: name of the table in `root`, one nodule a row, with the columns `nodule_id`,
                `patient_id`, `image` and `mask` (files relative to `root`), `texture` or
                `subtype` (solid, part-solid or ground-glass), and any other LIDC rating.
            columns: our column names to the table's, where they differ.
            select: an expression that says which rows to use, for example "link_cost < 3".
            ground_glass_max: nodules of a texture up to this are ground-glass; LIDC's texture is
                1 for ground glass, 3 for part-solid and 5 for solid, the mean of its readers.
            solid_min: nodules of a texture from this on are solid, those between part-solid; at
                4.5 at least half of the readers must have said 5.

        Raises:
            ValueError: If `solid_min` is not above `ground_glass_max`.
        """
        if not ground_glass_max < solid_min:
            message = (
                f"ground_glass_max is {ground_glass_max} and solid_min is {solid_min}: "
                "the first must be the lower, part-solid lies between them"
            )
            raise ValueError(message)
        self.root = Path(root)
        self.csv = csv
        self.columns = columns
        self.select = select
        self.ground_glass_max = ground_glass_max
        self.solid_min = solid_min

    def splits(
        self, roi: Roi, fractions: tuple[float, float, float], split_seed: int
    ) -> Mapping[Split, LIDCNodules]:
        """Divide the nodules by patient and check all headers; see `NoduleCollection.splits`."""
        table = read_table(self.root / self.csv, self.columns, self.select)
        parts = split_by_patient(table, split_seed, fractions)
        self.nodules(table, roi).check()
        return {split: self.nodules(parts[split], roi) for split in SPLITS}

    def requests(self, csv: str, roi: Roi) -> LIDCNodules:
        """The rows of another table of the same form, with their headers checked.

        Args:
            csv: name of the table in `root`.
            roi: the region that is read of each.

        Raises:
            FileNotFoundError: If there is no such table.
            ValueError: If the table or the files are faulty.
        """
        wanted = self.nodules(read_table(self.root / csv, self.columns, None), roi)
        wanted.check()
        return wanted

    def nodules(self, table: pd.DataFrame, roi: Roi) -> LIDCNodules:
        """The nodules of some rows.

        Args:
            table: rows as `read_table` returns them.
            roi: the region that is read of each.
        """
        if "subtype" in table:
            subtypes = [subtype_code(name) for name in table["subtype"]]
        else:
            limits = self.ground_glass_max, self.solid_min
            subtypes = [subtype_of(texture, *limits) for texture in table["texture"]]
        return LIDCNodules(self.root, table, subtypes, roi)


def _dimensions(root: Path, table: pd.DataFrame) -> int:
    """Return the dimensions of the first image that can be read; `check` judges the rest."""
    for name in table["image"]:
        with suppress(FileNotFoundError, ValueError):
            return len(read_study_grid(root / name).shape)
    return 3
