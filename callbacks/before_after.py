"""Inserted nodules for people to look at: before and after, and a page of all of them."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from callbacks.planes import plane_of
from datamodules.batch import PLANES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LUNG_WINDOW_HU = (-1000.0, 400.0)

FACTS = ("subtype", "diameter_mm", "x_mm", "y_mm", "z_mm", "seed", "image")
"""Columns of the manifest that the page shows."""


def before_and_after(
    before: NDArray[Any],
    after: NDArray[Any],
    mask: NDArray[Any],
    spacing_mm: Sequence[float],
    title: str,
) -> "Figure":
    """Planes through the middle of a nodule without and with it, and with its outline.

    Args:
        before: part of the study around the nodule, `(z, y, x)` in HU, or `(y, x)` of a radiograph.
        after: the same with the nodule.
        mask: the nodule on the same grid, not empty.
        spacing_mm: distance between voxels along each axis.
        title: stands above.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    middle = [round(float(axis.mean())) for axis in np.nonzero(mask)]
    flat = before.ndim == 2
    names = ("",) if flat else PLANES
    low, high = np.percentile(before, (1, 99)) if flat else LUNG_WINDOW_HU
    with mpl.rc_context({"font.size": 8}):
        lines = len(names)
        figure = Figure(figsize=(6.3, 2.1 * lines + 0.5), layout="constrained")
        figure.suptitle(title)
        grid = figure.subplots(lines, 3, squeeze=False)
        for axis, (line, name) in enumerate(zip(grid, names, strict=True)):
            cut = [plane_of(array, axis, middle) for array in (before, after, mask)]
            down, across = np.delete(spacing_mm, [] if flat else axis)
            for axes, shown in zip(line, (cut[0], cut[1], cut[1]), strict=True):
                axes.imshow(shown, cmap="gray", vmin=low, vmax=high, aspect=down / across)
                axes.set_xticks([])
                axes.set_yticks([])
            if cut[2].min() != cut[2].max():
                line[2].contour(cut[2], [0.5], colors="tab:orange", linewidths=0.8)
            line[0].set_ylabel(name)
        for axes, column in zip(grid[0], ("before", "synthetic", "outline"), strict=True):
            axes.set_title(column)
    return figure


def index_page(rows: Sequence[Mapping[str, Any]], root: Path) -> str:
    """A page in HTML with the facts of every inserted nodule, and the picture where there is one.

    Args:
        rows: of the manifest.
        root: the run's folder; pictures lie at `pictures/<nodule_id>.png`.
    """
    cells = []
    for row in rows:
        name = escape(str(row["nodule_id"]))
        known = {key: row[key] for key in FACTS if row.get(key, "") != ""}
        facts = "<br>".join(f"{key}: {escape(str(value))}" for key, value in known.items())
        picture = f"pictures/{name}.png"
        shown = f'<a href="{picture}"><img src="{picture}" alt="{name}" loading="lazy"></a>'
        if not (root / f"pictures/{row['nodule_id']}.png").is_file():
            shown = ""
        cells.append(f"<figure>{shown}<figcaption><b>{name}</b><br>{facts}</figcaption></figure>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Synthetic nodules'
        "</title><style>body{font-family:sans-serif}main{display:flex;flex-wrap:wrap}"
        "figure{width:30em;margin:1em}img{width:100%}</style></head>\n"
        f"<body><h1>{len(rows)} synthetic nodules</h1>\n"
        "<p>None of these nodules is real; not for diagnosis.</p>\n<main>\n"
        + "\n".join(cells)
        + "\n</main></body></html>\n"
    )
