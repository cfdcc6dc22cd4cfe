"""The radiographs of the Japanese Society of Radiological Technology (Shiraishi et al. 2000)."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datamodules.collections.radiographs import RadiographCollection
from datamodules.io.radiographs import JSRT_SIDE, JSRT_SPACING_MM
from datamodules.tables import raise_together, read_text, select_rows

COLUMNS = (
    "file", "subtlety", "size_mm", "age", "sex", "x", "y", "malignancy", "location", "diagnosis",
)  # fmt: skip
"""The columns of `CLNDAT_EN.txt` as they really are; the data set's guide has them otherwise."""

MISSING = ("", "?", "-", "unknown")


def read_table(path: Path) -> pd.DataFrame:
    """Read `CLNDAT_EN.txt`: tab-separated, without a header, blank lines between.

    Returns:
        One nodule a row: `name`, `subtlety`, `size_mm`, `x`, `y` (pixels) and `malignant`
        (1 or 0), `age` (years); NaN where the file says nothing. Sex and diagnosis are not kept.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line cannot be understood; all such lines together.
    """
    if not path.is_file():
        message = f"{path} does not exist: it comes with JSRT's images, put it into root"
        raise FileNotFoundError(message)
    rows, errors = [], []
    for number, line in enumerate(read_text(path, "latin-1").splitlines(), 1):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        cells += [""] * (len(COLUMNS) - len(cells))
        row = dict(zip(COLUMNS, cells, strict=False))
        try:
            rows.append(_row(row))
        except ValueError as error:
            errors.append(f"{path}, line {number}: {error}")
    raise_together(errors)
    return pd.DataFrame(rows)


def _row(row: dict[str, str]) -> dict[str, Any]:
    if not re.fullmatch(r"JPC[LN]N\d{3}\.IMG", row["file"], re.IGNORECASE):
        message = f"{row['file']!r} is no name such as JPCLN001.IMG"
        raise ValueError(message)
    limits = {
        "subtlety": (1, 5),
        "size_mm": (1, 100),
        "age": (0, 120),
        "x": (0, JSRT_SIDE),
        "y": (0, JSRT_SIDE),
    }
    values: dict[str, Any] = {}
    for name, (low, high) in limits.items():
        text = row[name].lower()
        if text in MISSING and name in ("age", "subtlety"):
            values[name] = np.nan
            continue
        try:
            values[name] = float(text)
        except ValueError:
            values[name] = np.nan
        if not low <= values[name] <= high:
            message = f"{name} is {row[name]!r}, expected a number from {low} to {high}"
            raise ValueError(message)
    kinds = {"malignant": 1.0, "benign": 0.0}
    malignant = kinds.get(row["malignancy"].lower(), np.nan)
    stem = row["file"].split(".")[0].upper()
    return {"name": stem, "malignant": malignant, **values}


class JSRTCollection(RadiographCollection):
    """JSRT's 247 radiographs: 154 with a nodule, 93 without.

    `root` has the `.IMG` files, in whatever subfolders, and `CLNDAT_EN.txt`. They are used as they
    are shipped. A nodule's mask is the disc of the table's diameter; in
    14 radiographs it lies outside the lung field, behind heart or diaphragm. Each radiograph is of
    another patient.
    """

    attributes = ("subtlety", "malignant", "age")

    def nodules(self) -> pd.DataFrame:
        """The rows of `CLNDAT_EN.txt`."""
        path = self.root / "CLNDAT_EN.txt"
        table = select_rows(read_table(path), self.select, str(path))
        radius = table["size_mm"] / 2 / JSRT_SPACING_MM
        files = self.files()
        table["path"] = table["name"].map(lambda name: files.get(name, self.root / f"{name}.IMG"))
        return table.assign(patient_id=table["name"], spacing_mm=None, half_y=radius, half_x=radius)

    def normal_radiographs(self) -> pd.DataFrame:
        """The radiographs named JPCNN.

        Raises:
            FileNotFoundError: If there is none.
        """
        files = {name: path for name, path in self.files().items() if name.startswith("JPCNN")}
        if not files:
            message = (
                f"{self.root} has no JPCNN*.IMG, JSRT's radiographs without a nodule: add them"
            )
            raise FileNotFoundError(message)
        table = pd.DataFrame(
            {"name": list(files), "patient_id": list(files), "path": list(files.values())}
        )
        return select_rows(table.assign(spacing_mm=None), self.select, f"{self.root}/JPCNN*.IMG")

    def files(self) -> dict[str, Path]:
        """The `.IMG` files by their names without ending, in capitals."""
        paths = sorted(path for path in self.root.rglob("*") if path.suffix.lower() == ".img")
        return {path.stem.upper(): path for path in paths}
