"""Nodules that studies have already, where no other is to be placed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datamodules.identifiers import identifier
from datamodules.io.paths import real_path
from datamodules.tables import listed, raise_together, read_table

COLUMNS = ("study", "x_mm", "y_mm", "z_mm", "diameter_mm")

Taken = list[tuple[NDArray[Any], float]]
"""World positions (x, y, z, mm) of centres, and radii in mm."""


def nodules_there(avoid: Path | None, studies: Sequence[Path]) -> dict[str, Taken]:
    """Find the nodules of a table in the studies that they are of.

    A row is of the study that its path leads to, from the working directory or else from the
    table's folder, however either is spelled (`0001`, `./0001`, an absolute path, a link). Rows of
    none of the studies are reported.

    Args:
        avoid: a CSV table with `COLUMNS`; None for no nodule.
        studies: CT volumes.

    Returns:
        The nodules of each study, by its `real_path`.

    Raises:
        FileNotFoundError: If there is no such table.
        ValueError: If a column is missing or a cell is no number.
    """
    there: dict[str, Taken] = {real_path(study): [] for study in studies}
    if avoid is None:
        return there
    table = read_table(avoid, {"study": str}, COLUMNS, empty=True)
    numbers = table[list(COLUMNS[1:])].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    wrong = ~np.isfinite(numbers).all(axis=1) | ~(numbers[:, -1] > 0)
    cells = {name: table[name].tolist() for name in COLUMNS[1:]}
    raise_together(
        [
            f"{avoid}: line {line + 2} has "
            + ", ".join(f"{name} {texts[line]}" for name, texts in cells.items())
            + ": give numbers, the last above 0"
            for line in np.flatnonzero(wrong)
        ]
    )
    unknown = []
    for text, (*point, diameter) in zip(table["study"], numbers, strict=True):
        study = next((path for path in _paths(text, avoid.parent) if path in there), None)
        if study is None:
            unknown.append(text if isinstance(text, str) else "(empty)")
        else:
            there[study].append((np.array(point), float(diameter) / 2))
    if unknown:
        print(
            f"{avoid}: {len(unknown)} of {len(table)} row(s) are of no study that is given, and "
            f"were not avoided: {listed(dict.fromkeys(unknown))}"
        )
    return there


def _paths(text: object, folder: Path) -> list[str]:
    """The files that a cell may mean, the likelier ones first."""
    if not isinstance(text, str):
        return []
    spellings = [text, identifier(text)]
    return [real_path(root / one) for one in spellings for root in (Path(), folder)]
