"""The patch store that `LIDCDataModule` reads: images, masks, and a table; made case by case."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from datamodules.hounsfield import AIR_HU
from datamodules.io.volumes import (
    Volume,
    equivalent_diameter_mm,
    resample,
    resample_mask,
    write_volume,
)
from datamodules.io.whole_files import written_whole

Rows = dict[str, list[dict[str, Any]]]
"""Rows of the tables `nodules`, `outlines` and `report`."""

Case = Callable[[], Rows]
"""Writes the files of one case; picklable."""


@dataclass(frozen=True)
class Cut:
    """How nodules are cut out.

    Attributes:
        size: voxels along each edge of a patch; less where the scan ends.
        spacing_mm: of a patch.
        whole: write whole volumes instead, at their own spacing.
    """

    size: int = 64
    spacing_mm: float = 1.0
    whole: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that no patch can have.

        Raises:
            ValueError: If `size` is below 8, or `spacing_mm` not above 0.
        """
        if self.size < 8:
            message = f"size is {self.size}: give at least 8 voxels"
            raise ValueError(message)
        if not 0 < self.spacing_mm < np.inf:
            message = f"spacing_mm is {self.spacing_mm}: give a number above 0"
            raise ValueError(message)


def write_nodule(
    out: Path,
    name: str,
    scan: Volume,
    scan_name: str,
    mask: NDArray[np.bool_],
    start: Sequence[int],
    cut: Cut,
) -> dict[str, Any]:
    """Write image and mask of one nodule.

    Args:
        out: the store's folder.
        name: of the nodule.
        scan: the CT, in HU.
        scan_name: under which a whole scan is written, once for all its nodules.
        mask: a box `(z, y, x)` around the nodule.
        start: index of the box's first voxel in the scan.
        cut: what to write.

    Returns:
        The paths of both, relative to `out`, and the nodule's centre and diameter.

    Raises:
        ValueError: If the mask has no voxel in the scan.
    """
    low = np.maximum(start, 0)
    high = np.minimum(np.add(start, mask.shape), scan.array.shape)
    inner = mask[tuple(map(slice, low - start, np.maximum(high - start, 0)))]
    if not inner.any():
        message = "has no voxel in the scan"
        raise ValueError(message)
    box = Volume(
        inner.astype(np.uint8), scan.spacing_mm, scan.grid.world(low.tolist()), scan.direction
    )
    center = [float(np.floor(np.mean(axis) + 0.5)) for axis in np.nonzero(inner)]
    point = box.grid.world(center)
    files: dict[str, Any] = {
        "image": f"images/{scan_name if cut.whole else name}.mha",
        "mask": f"masks/{name}.mha",
        "diameter_mm": round(equivalent_diameter_mm(inner, scan.spacing_mm), 2),
        **{f"{axis}_mm": round(at, 2) for axis, at in zip("xyz", point, strict=True)},
    }
    if cut.whole:
        full = np.zeros(scan.array.shape, np.uint8)
        full[tuple(map(slice, low, high))] = inner
        image = scan
        roi = Volume(full, scan.spacing_mm, scan.origin_mm, scan.direction)
    else:
        middle, size = _within(scan, point, cut)
        spacing = (cut.spacing_mm,) * 3
        image = resample(scan, middle, size, spacing, fill=AIR_HU)
        whole = np.rint(image.array).astype(np.int16)
        image = Volume(whole, image.spacing_mm, image.origin_mm, image.direction)
        roi = resample_mask(box, middle, size, spacing)
    if not (cut.whole and (out / files["image"]).exists()):
        write_volume(out / files["image"], image)
    write_volume(out / files["mask"], roi)
    return files


def _within(
    scan: Volume, point_mm: Sequence[float], cut: Cut
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Centre and size of the part of a patch around a point that lies in the scan."""
    middle, size = [], []
    for at, spacing, length in zip(
        scan.grid.index(point_mm), scan.spacing_mm, scan.array.shape, strict=True
    ):
        step = cut.spacing_mm / spacing
        places = at + (np.arange(cut.size) - cut.size // 2) * step
        inside = places[(places > -1e-6) & (places < length - 1 + 1e-6)]
        middle.append(float(inside[len(inside) // 2]))
        size.append(len(inside))
    return scan.grid.world(middle), tuple(size)


def file_name(text: str) -> str:
    """A text with what cannot stand in a file's name replaced."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)


def case_key(text: str) -> str:
    """Six letters that stand for a long identifier."""
    return sha256(text.encode()).hexdigest()[:6]


def make_store(
    out: Path,
    settings: dict[str, Any],
    cases: Mapping[str, Case],
    found: Iterable[dict[str, str]],
    workers: int,
) -> None:
    """Run all cases, a few at a time, and put their rows together.

    A case that is done is kept in `out/cases`, so that the same command, run again, goes on where
    it was stopped.

    Args:
        out: the store's folder.
        settings: what the store's content depends on.
        cases: by their identifiers.
        found: rows of the report that belong to no case.
        workers: number of processes.

    Raises:
        FileExistsError: If the folder holds something else, or was made with other settings.
        ValueError: If `workers` is below 1, or there is not one nodule.
    """
    if workers < 1:
        message = f"workers is {workers}: give at least 1"
        raise ValueError(message)
    _claim(out, settings)
    parts: dict[str, Rows] = {}
    waiting = {}
    for name, case in cases.items():
        done = out / "cases" / f"{file_name(name)}.json"
        if done.is_file():
            parts[name] = json.loads(done.read_text())
        else:
            waiting[name] = case
    bar = tqdm(total=len(cases), initial=len(parts), desc="cases", unit="case")
    for name, rows_of_case in _run(waiting, workers):
        parts[name] = rows_of_case
        with written_whole(out / "cases" / f"{file_name(name)}.json") as path:
            path.write_text(json.dumps(rows_of_case))
        bar.update()
    bar.close()
    rows = [line for name in cases for line in parts[name]["nodules"]]
    report = [*found, *(line for name in cases for line in parts[name]["report"])]
    write_table(out / "report.csv", report, ["kind", "name", "what"])
    if not rows:
        message = f"Not one nodule could be prepared: {out / 'report.csv'} says why"
        raise ValueError(message)
    write_table(out / "nodules.csv", rows)
    outlines = [line for name in cases for line in parts[name]["outlines"]]
    if outlines:
        write_table(out / "outlines.csv", outlines)
    patients = len({line["patient_id"] for line in rows})
    print(f"{out}: {len(rows)} nodules of {patients} patients from {len(cases)} cases.")
    print_report(report)


def _run(waiting: Mapping[str, Case], workers: int) -> Iterator[tuple[str, Rows]]:
    """The results of all cases, in the order in which they are done."""
    if workers == 1:
        for name, case in waiting.items():
            yield name, case()
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        running: dict[Future[Rows], str] = {
            pool.submit(case): name for name, case in waiting.items()
        }
        for future in as_completed(running):
            yield running[future], future.result()


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Take a new folder, or one that was begun with the same settings."""
    path = out / "settings.json"
    if path.is_file():
        if json.loads(path.read_text()) == settings:
            return
        message = f"{out} was begun with other settings: choose another folder, or remove it"
        raise FileExistsError(message)
    if out.exists() and any(out.iterdir()):
        message = f"{out} exists and holds something else: choose another folder"
        raise FileExistsError(message)
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=1) + "\n")


def row(kind: str, name: str, what: str) -> dict[str, str]:
    """A line of a report."""
    return {"kind": kind, "name": name, "what": what}


def print_report(report: Sequence[Mapping[str, str]]) -> None:
    """Say how often each thing was reported."""
    for what, number in pd.Series([line["what"] for line in report]).value_counts().items():
        print(f"  {number} x {what}")


def write_table(
    path: Path, rows: Sequence[Mapping[str, Any]], columns: list[str] | None = None
) -> None:
    """Write a CSV file whole."""
    with written_whole(path) as temporary:
        pd.DataFrame(rows, columns=columns).to_csv(temporary, index=False)


def settings_of(cut: Cut, **more: Any) -> dict[str, Any]:
    """Settings as they are written down."""
    return {**asdict(cut), **more}
