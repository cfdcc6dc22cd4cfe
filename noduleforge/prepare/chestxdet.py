"""Which of ChestX-ray14's images the films of ChestX-Det are, which have numbers of their own."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from datamodules.collections.origins import RENAMED
from datamodules.io.radiographs import read_grey
from datamodules.processes import processes
from datamodules.progress import Progress
from noduleforge.prepare.store import print_report, row, write_table

THUMBNAIL = 32
"""Pixels along each side of what is compared."""

SAME = 0.02
"""Distance of thumbnails of mean 0 and norm 1 up to which two are of one film, saved twice."""


def prepare_chestxdet(root: Path, films: Path, out: Path, workers: int = 2) -> None:
    """Find ChestX-Det's films among ChestX-ray14's images, by what they show.

    Writes `chestx_det.csv`, which ChestXray14Collection takes as `renamed`: `image` (the film) and
    `source_id` (ChestX-ray14's file), and `report.csv`: films that are like no image, or like
    several.

    Args:
        root: folder with ChestX-ray14's images, also in folders below.
        films: folder with ChestX-Det's films, also in folders below.
        out: folder for the two tables.
        workers: number of processes.

    Raises:
        FileNotFoundError: If a folder holds no PNG.
        ValueError: If `workers` is below 1, or not one film is found.
    """
    if workers < 1:
        message = f"workers is {workers}: give at least 1"
        raise ValueError(message)
    known, asked = _pictures(root), _pictures(films)
    report: list[dict[str, str]] = []
    names, shown = _thumbnails(known, workers, report)
    wanted, seen = _thumbnails(asked, workers, report)
    rows = []
    for name, near in zip(wanted, nearest(shown, seen), strict=True):
        if not near:
            report.append(row("film", name, "is like no image of ChestX-ray14"))
        elif len(near) > 1:
            what = f"is like several: {', '.join(names[k] for k in near)}"
            report.append(row("film", name, what))
        else:
            rows.append(dict(zip(RENAMED, (name, names[near[0]]), strict=True)))
    taken = pd.DataFrame(rows, columns=list(RENAMED))
    for image in taken["source_id"][taken["source_id"].duplicated()].unique():
        twice = ", ".join(taken["image"][taken["source_id"] == image])
        report.append(row("image", image, f"is what several films show: {twice}"))
    write_table(out / "report.csv", report, ["kind", "name", "what"])
    if not rows:
        message = f"Not one of {len(asked)} films is in {root}: {out / 'report.csv'} says why"
        raise ValueError(message)
    write_table(out / "chestx_det.csv", rows)
    print(f"{out}: {len(rows)} of {len(asked)} films are among {len(known)} images.")
    print_report(report)


def _pictures(folder: Path) -> list[Path]:
    """The PNG files of a folder.

    Raises:
        FileNotFoundError: If there is none.
    """
    found = sorted(folder.rglob("*.png"))
    if not found:
        message = f"{folder} holds no .png: give the folder with the images"
        raise FileNotFoundError(message)
    return found


def _thumbnails(
    paths: Sequence[Path], workers: int, report: list[dict[str, str]]
) -> tuple[list[str], NDArray[np.float32]]:
    """Names and thumbnails of the files that can be read; the others are reported."""
    names, found = [], []
    with processes(workers) as pool:
        made = pool.map(thumbnail, paths, chunksize=16)
        for path, seen in zip(paths, Progress(made, "films", total=len(paths)), strict=True):
            if isinstance(seen, str):
                report.append(row("image", path.name, seen))
            else:
                names.append(path.name)
                found.append(seen)
    return names, np.array(found, np.float32).reshape(-1, THUMBNAIL**2)


def nearest(shown: NDArray[np.float32], seen: NDArray[np.float32]) -> list[list[int]]:
    """Of each thumbnail which others are of the same film.

    Args:
        shown: `(n, pixels)`, among which they are looked for.
        seen: `(m, pixels)`.

    Returns:
        For each of `seen` the positions in `shown`.
    """
    if not len(shown) or not len(seen):
        return [[] for _ in seen]
    return [sorted(near) for near in cKDTree(seen).query_ball_tree(cKDTree(shown), SAME)]


def thumbnail(path: Path) -> NDArray[np.float32] | str:
    """A film made small, of mean 0 and norm 1, or what is wrong with it."""
    try:
        pixels = read_grey(path).astype(np.float32)
    except (OSError, ValueError) as error:
        return str(error)
    if min(pixels.shape) < THUMBNAIL:
        return f"has {pixels.shape[1]} x {pixels.shape[0]} pixels"
    height, width = (length // THUMBNAIL * THUMBNAIL for length in pixels.shape)
    blocks = pixels[:height, :width].reshape(
        THUMBNAIL, height // THUMBNAIL, THUMBNAIL, width // THUMBNAIL
    )
    small = blocks.mean(axis=(1, 3)).ravel()
    small -= small.mean()
    norm = float(np.linalg.norm(small))
    return "is of one grey" if norm < 1e-3 else (small / norm).astype(np.float32)
