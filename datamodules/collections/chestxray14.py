"""The NIH's ChestX-ray14 (Wang et al., CVPR 2017) as it is shipped."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from datamodules.collections.chestxdet import (
    COLUMNS,
    LIKE_NODULES,
    OutlinedNodules,
    read_outlines,
    without_outlined,
)
from datamodules.collections.origins import read_source_ids
from datamodules.collections.radiographs import RadiographCollection
from datamodules.identifiers import check_readings, identifiers
from datamodules.io.radiographs import lies_on_its_side, read_grey
from datamodules.progress import Progress
from datamodules.splits import Split, check_no_patient_crosses, split_by_patient
from datamodules.tables import (
    check_numbers,
    empty_cells,
    raise_together,
    read_table,
    read_text,
    select_rows,
)

log = logging.getLogger(__name__)

SIDE = 1024
"""Pixels along each side of the images, which radiographs of any size were resized to."""

ENTRIES = {
    "Image Index": "image",
    "Finding Labels": "findings",
    "Patient ID": "patient_id",
    "OriginalImage[Width": "width",
    "Height]": "height",
    "OriginalImagePixelSpacing[x": "spacing_x",
    "y]": "spacing_y",
}
"""Columns of the table of images, whose header has commas inside brackets."""

BOXES = ("image", "finding", "x", "y", "width", "height")
"""Columns of the table of boxes, whose header has `Bbox [x,y,w,h]` and three empty names."""

NODULAR = ("Nodule", "Mass")
"""Findings that an image without a nodule must not have."""


def read_entries(path: Path) -> pd.DataFrame:
    """Read `Data_Entry_2017_v2020.csv` (or `Data_Entry_2017.csv`).

    Returns:
        One image a row: `image`, `patient_id` (text), `findings`, and `spacing_mm` (y, x) of the
        pixels as they are shipped.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If columns are missing or a size or spacing is not above zero.
    """
    table = _read(path, {"Patient ID": str, "Image Index": str}, required=tuple(ENTRIES))
    table = table[list(ENTRIES)].rename(columns=ENTRIES)
    for name in ("image", "patient_id"):
        table[name] = identifiers(table[name])
    raise_together(empty_cells(table, ("image", "patient_id"), path))
    check_readings(table["patient_id"], str(path), "Patient ID")
    errors = []
    for name in ("width", "height", "spacing_x", "spacing_y"):
        numbers = pd.to_numeric(table[name], errors="coerce")
        errors += [
            f"{path}: {name} of {row.image} is {getattr(row, name)!r}, expected a number above 0"
            for row in table[~(numbers > 0)].itertuples()
        ]
        table[name] = numbers
    raise_together(errors)
    along_y = table["spacing_y"] * table["height"] / SIDE
    along_x = table["spacing_x"] * table["width"] / SIDE
    table["spacing_mm"] = list(zip(along_y, along_x, strict=True))
    return table[["image", "patient_id", "findings", "spacing_mm"]]


def read_boxes(path: Path) -> pd.DataFrame:
    """Read `BBox_List_2017.csv`.

    Returns:
        One box a row: `image`, `finding`, and `x`, `y` (upper left corner), `width`, `height` in
        pixels.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a box is not inside the image.
    """
    table = _read(path, names=BOXES, dtype={"image": str})
    check_numbers(table, ("x", "y", "width", "height"), path)
    left, top = table["x"], table["y"]
    right, bottom = left + table["width"], top + table["height"]
    inside = (left >= 0) & (top >= 0) & (right <= SIDE) & (bottom <= SIDE)
    inside &= (table["width"] > 0) & (table["height"] > 0)
    raise_together(
        [
            f"{path}: a box of {row['image']} is {row['x']}, {row['y']}, {row['width']}, "
            f"{row['height']} (x, y, width, height), expected pixels of a {SIDE} x {SIDE} image"
            for row in table[~inside].to_dict("records")
        ]
    )
    return table


def _read(
    path: Path,
    dtype: Mapping[str, type],
    required: Sequence[str] = (),
    names: Sequence[str] | None = None,
) -> pd.DataFrame:
    if not path.is_file():
        message = f"{path} does not exist: it comes with ChestX-ray14, put it into root"
        raise FileNotFoundError(message)
    return read_table(path, dtype, required, names)


class ChestXray14Collection(RadiographCollection):
    """ChestX-ray14: the boxes labelled Nodule, or radiographs without nodule and mass.

    A nodule's mask is the ellipse that its box encloses; with `outlines`, those of ChestX-Det are
    nodules too, and where an outline overlaps a box it stands for both. Images are found by name,
    in `images_001` to `images_012` or in one folder. Where `test_list.txt` is there, its patients
    are the test split, and the others are divided by hash; otherwise all are.

    Some images in circulation lie on their side, where boxes and masks mean nothing: every image
    that is used is looked at once, and what lies on its side is named in the log and left out.
    """

    regions = OutlinedNodules

    def __init__(
        self,
        root: Path,
        entries: str = "Data_Entry_2017_v2020.csv",
        boxes: str = "BBox_List_2017.csv",
        sideways: Literal["leave_out", "keep"] = "leave_out",
        select: str | None = None,
        lungs: Path | None = None,
        outlines: list[str] | None = None,
        renamed: str | None = None,
    ) -> None:
        """Say what there is.

        Args:
            root: folder with the tables and images.
            entries: name of the table of images in `root`.
            boxes: name of the table of boxes in `root`.
            sideways: what to do with images that lie on their side; where `leave_out` is wrong
                about some, turn those that are wrong upright, and `keep` all.
            select: an expression that says which rows to use, over the columns of the table of
                nodules, or of the one of radiographs where these are what is looked at.
            lungs: folder with lung masks named like the radiographs, where points without a nodule
                lie; without it they lie where upright radiographs have their lungs.
            outlines: names of ChestX-Det's files in `root`, such as [ChestX_Det_train.json,
                ChestX_Det_test.json].
            renamed: name of the table in `root` that says which of ChestX-ray14's images its films
                are, as `noduleforge prepare chestxdet` writes it.
        """
        super().__init__(root, select, lungs)
        self.entries = entries
        self.boxes = boxes
        self.sideways = sideways
        self.outlines = outlines or []
        self.renamed = renamed

    def nodules(self) -> pd.DataFrame:
        """The boxes labelled Nodule, and the outlines, whose image is there; others are counted.

        Raises:
            ValueError: If there is none.
        """
        boxes = read_boxes(self.root / self.boxes).query("finding == 'Nodule'").assign(outline=None)
        outlines = self._outlines().query("finding == 'Nodule'")
        both = without_outlined(boxes, outlines)
        log.info("%d box(es) are of nodules that have an outline", len(boxes) - len(both))
        both = pd.concat([both, outlines], ignore_index=True) if len(outlines) else both
        table = both.merge(self._images(), on="image", how="inner")
        log.info("%s: %d of %d nodules have their image", self.boxes, len(table), len(both))
        if table.empty:
            message = (
                f"{self.root} has none of the {len(both)} images with a nodule's box or outline: "
                "add images_001 to images_012"
            )
            raise ValueError(message)
        number = table.groupby("image").cumcount().astype(str)
        table = table.assign(
            name=table["image"].str.removesuffix(".png") + "-" + number,
            half_y=table["height"] / 2,
            half_x=table["width"] / 2,
            y=table["y"] + table["height"] / 2,
            x=table["x"] + table["width"] / 2,
        )
        return self._upright(select_rows(table, self.select, str(self.root / self.boxes)))

    def normal_radiographs(self) -> pd.DataFrame:
        """The images whose findings name neither nodule nor mass, in ChestX-Det neither.

        Raises:
            ValueError: If there is none.
        """
        table = self._images()
        table = table[~table["findings"].str.contains("|".join(NODULAR))]
        outlines = self._outlines()
        seen = outlines["image"][outlines["finding"].isin(LIKE_NODULES)]
        table = table[~table["image"].isin(seen)]
        if table.empty:
            message = f"{self.root} has no image without nodule and mass: add images"
            raise ValueError(message)
        table = table.assign(name=table["image"].str.removesuffix(".png"))
        return self._upright(select_rows(table, self.select, str(self.root / self.entries)))

    def split(
        self, table: pd.DataFrame, fractions: tuple[float, float, float], split_seed: int
    ) -> dict[Split, pd.DataFrame]:
        """Divide by the official list of test images, if it is there.

        Raises:
            ValueError: If a patient is in the list with some images and out of it with others, or
                `fractions` has nothing for train and val, which share the rest.
        """
        official = self.root / "test_list.txt"
        if not official.is_file():
            return super().split(table, fractions, split_seed)
        tested = set(read_text(official).split())
        is_test = table["path"].map(lambda path: path.name in tested)
        train, val, _ = fractions
        if not train + val:
            message = (
                f"fractions is {fractions}, but test_list.txt says what the test split is: "
                "give train and val the shares of the rest"
            )
            raise ValueError(message)
        rest = split_by_patient(
            table[~is_test], split_seed, (train / (train + val), val / (train + val), 0.0)
        )
        parts = {**rest, "test": table[is_test]}
        check_no_patient_crosses({name: part["patient_id"] for name, part in parts.items()})
        return parts

    def _outlines(self) -> pd.DataFrame:
        """The findings of ChestX-Det, if they are asked for."""
        renamed = {} if self.renamed is None else read_source_ids(self.root / self.renamed)
        found = [read_outlines(self.root / name, renamed, SIDE) for name in self.outlines]
        return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=COLUMNS)

    def _images(self) -> pd.DataFrame:
        """The table of images, of those that are there."""
        files = {path.name: path for path in sorted(self.root.rglob("*.png"))}
        table = read_entries(self.root / self.entries)
        table = table[table["image"].isin(files)]
        return table.assign(path=table["image"].map(files))

    def _upright(self, table: pd.DataFrame) -> pd.DataFrame:
        """Leave out what lies on its side, and refuse images that were resized.

        Raises:
            ValueError: If an image has not 1024 x 1024 pixels.
        """
        errors, turned = [], set()
        paths = table["path"].unique()
        for path in Progress(paths, "Looking at images", disable=len(paths) < 1000):
            pixels = read_grey(path)
            if pixels.shape != (SIDE, SIDE):
                errors.append(
                    f"{path} has {pixels.shape[1]} x {pixels.shape[0]} pixels, expected {SIDE} x "
                    f"{SIDE}, for which NIH's boxes and spacings hold: use the images as shipped"
                )
            elif self.sideways == "leave_out" and lies_on_its_side(pixels):
                turned.add(path)
        raise_together(errors)
        if turned:
            names = ", ".join(sorted(path.name for path in turned))
            log.warning("%d image(s) lie on their side and are left out: %s", len(turned), names)
        return table[~table["path"].isin(turned)]
