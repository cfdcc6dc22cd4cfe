"""The outlines that ChestX-Det (Lian et al. 2021) drew on films of ChestX-ray14."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from datamodules.collections.radiographs import RadiographRegions
from datamodules.io.paths import name_of
from datamodules.io.volumes import Volume
from datamodules.tables import raise_together, read_text

COLUMNS = ("image", "finding", "outline", "x", "y", "width", "height")

LIKE_NODULES = ("Nodule", "Diffuse Nodule", "Mass")
"""Findings that a film without a nodule must not have."""


def read_outlines(path: Path, renamed: Mapping[str, str], side: int) -> pd.DataFrame:
    """Read `ChestX_Det_train.json` or `ChestX_Det_test.json`.

    ChestX-Det numbers its films itself (`36199.png`).

    Args:
        path: a list of films, each with `file_name`, and of each finding its name in `syms`, its
            box in `boxes` and its outline, `x, y` points in pixels, in `polygons`.
        renamed: of such film names, in capitals and without ending, those in ChestX-ray14; what is
            not there keeps its name.
        side: pixels along each side of a film.

    Returns:
        One finding a row: `image`, `finding`, `outline` (points x, y), and the box around it: `x`,
        `y` (upper left corner), `width`, `height`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such list, or an outline is not within its film.
    """
    try:
        films = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        message = f"{path} is no JSON ({error}): copy it again"
        raise ValueError(message) from error
    rows, errors = [], []
    for film in films if isinstance(films, list) else [films]:
        try:
            rows += list(_findings(film, renamed, side))
        except (KeyError, TypeError, ValueError) as error:
            name = film.get("file_name", "a film") if isinstance(film, dict) else "a film"
            errors.append(f"{path}: {name} has no findings of ChestX-Det's form ({error})")
    raise_together(errors)
    return pd.DataFrame(rows, columns=COLUMNS)


def _findings(
    film: Mapping[str, Any], renamed: Mapping[str, str], side: int
) -> Iterable[dict[str, Any]]:
    """The rows of one film; raises ValueError if it is faulty."""
    name = name_of(Path(film["file_name"]))
    image = renamed.get(name.upper(), name) + ".png"
    for finding, _, polygon in zip(film["syms"], film["boxes"], film["polygons"], strict=True):
        points = np.array(polygon, dtype=float)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
            message = f"an outline of {finding} has no three points x, y"
            raise ValueError(message)
        low, high = points.min(axis=0), points.max(axis=0)
        if not (low >= 0).all() or not (high < side).all():
            message = f"an outline of {finding} leaves the {side} x {side} pixels"
            raise ValueError(message)
        width, height = high - low + 1
        yield {
            "image": image,
            "finding": finding,
            "outline": [tuple(point) for point in points.tolist()],
            "x": low[0],
            "y": low[1],
            "width": width,
            "height": height,
        }


def without_outlined(boxes: pd.DataFrame, outlines: pd.DataFrame) -> pd.DataFrame:
    """The boxes that no outline on their film overlaps: where both are, the outline is the nodule.

    Args:
        boxes: of nodules, `image`, `x`, `y`, `width`, `height`.
        outlines: of nodules, likewise.
    """
    pairs = boxes.reset_index().merge(outlines, on="image", suffixes=("", "_other"))
    overlap = pd.Series(data=True, index=pairs.index)
    for at, length in (("x", "width"), ("y", "height")):
        overlap &= pairs[at] < pairs[f"{at}_other"] + pairs[f"{length}_other"]
        overlap &= pairs[f"{at}_other"] < pairs[at] + pairs[length]
    return boxes[~boxes.index.isin(pairs["index"][overlap])]


class OutlinedNodules(RadiographRegions):
    """Nodules of which some rows have an `outline`; the others are ellipses."""

    def nodule(self, row: dict[str, Any]) -> tuple[Volume, NDArray[np.bool_], tuple[float, float]]:
        """Read a radiograph and fill its nodule's outline; see `RadiographRegions`."""
        if not isinstance(row["outline"], list):
            return super().nodule(row)
        radiograph = self.radiograph(row)
        inside = filled(row["outline"], radiograph.array.shape)
        return radiograph, inside, (row["y"], row["x"])


def filled(outline: list[tuple[float, float]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The pixels within a closed line, and those of the line.

    Args:
        outline: points x, y.
        shape: pixels along y and x.
    """
    picture = Image.new("1", (shape[1], shape[0]))
    ImageDraw.Draw(picture).polygon(outline, fill=1, outline=1)
    return np.array(picture)
