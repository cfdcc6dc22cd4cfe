"""The patch store that `LIDCDataModule` reads: images, masks, and a table; made case by case."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datamodules.hounsfield import AIR_HU, to_int16
from datamodules.io.volumes import (
    Volume,
    equivalent_diameter_mm,
    resample,
    resample_mask,
    write_volume,
)
from datamodules.io.whole_files import LEFTOVER, remove_leftovers, written_whole
from datamodules.processes import processes
from datamodules.progress import Progress
from noduleforge.prepare.cases import Case, Records, Rows


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
    earlier: Sequence[Mapping[str, Any]],
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
        earlier: rows of the scan's nodules so far, of which one may have written the whole scan.

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
        image = Volume(to_int16(image.array), image.spacing_mm, image.origin_mm, image.direction)
        roi = resample_mask(box, middle, size, spacing)
    if all(files["image"] != row["image"] for row in earlier):
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


def make_store(
    out: Path,
    settings: dict[str, Any],
    cases: Sequence[Case],
    found: Iterable[dict[str, str]],
    workers: int,
) -> None:
    """Run all cases, a few at a time, and put their rows together.

    A case that is done is recorded in `out/cases`, under what it is made of: its rows, its
    settings, and the names, sizes and times of its files. The same command, run again, makes what
    is new, has changed or has failed, and touches nothing else; killed at any moment and run again
    it gives what one run gives. What no case has made, of those that are asked for now, is removed.

    Args:
        out: the store's folder.
        settings: what the store's content depends on.
        cases: all, in the order of their rows.
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
    remove_leftovers(out)
    records = Records(out, settings)
    keys = [records.key(case) for case in cases]
    made = [records.read(case, key) for case, key in zip(cases, keys, strict=True)]
    waiting = {number: cases[number] for number, rows in enumerate(made) if rows is None}
    parts = {number: rows for number, rows in enumerate(made) if rows is not None}
    with Progress(total=len(cases), initial=len(parts), desc="cases", unit="case") as bar:
        for number, rows in _run(waiting, workers):
            parts[number] = rows
            records.write(cases[number], keys[number], rows)
            bar.update()
    ordered = [parts[number] for number in range(len(cases))]
    report = [*found, *(line for rows in ordered for line in rows.report)]
    write_table(out / "report.csv", report, ["kind", "name", "what"])
    nodules = [line for rows in ordered for line in rows.nodules]
    if not nodules:
        message = f"Not one nodule could be prepared: {out / 'report.csv'} says why"
        raise ValueError(message)
    write_table(out / "nodules.csv", nodules)
    if outlines := [line for rows in ordered for line in rows.outlines]:
        write_table(out / "outlines.csv", outlines)
    else:
        (out / "outlines.csv").unlink(missing_ok=True)
    records.remove_others(cases, ordered)
    patients = len({line["patient_id"] for line in nodules})
    print(f"{out}: {len(nodules)} nodules of {patients} patients from {len(cases)} cases.")
    print_report(report)


def _run(waiting: Mapping[int, Case], workers: int) -> Iterator[tuple[int, Rows]]:
    """The results of all cases, in the order in which they are done."""
    if workers == 1:
        for number, case in waiting.items():
            yield number, case()
        return
    with processes(workers) as pool:
        running: dict[Future[Rows], int] = {
            pool.submit(case): number for number, case in waiting.items()
        }
        for future in as_completed(running):
            yield running[future], future.result()


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Take a new folder, or one that was begun with the same settings."""
    path = out / "settings.json"
    if path.is_file():
        if _settings(path) == settings:
            return
        message = f"{out} was begun with other settings: choose another folder, or remove it"
        raise FileExistsError(message)
    if out.exists() and any(not LEFTOVER.match(other.name) for other in out.iterdir()):
        message = f"{out} exists and holds something else: choose another folder"
        raise FileExistsError(message)
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=1) + "\n")


def _settings(path: Path) -> object:
    """What `settings.json` says; None if it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError:
        return None


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
