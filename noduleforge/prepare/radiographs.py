"""JSRT and ChestX-ray14: check that all is there and readable, index it, and say what is wrong.

The datamodules read both sets as they are shipped: nothing is copied or changed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.collections.chestxray14 import SIDE, read_boxes, read_entries
from datamodules.collections.jsrt import JSRTCollection, read_table
from datamodules.io.radiographs import lies_on_its_side, read_grey, read_img
from datamodules.io.whole_files import written_whole
from datamodules.processes import processes
from datamodules.progress import Progress
from noduleforge.prepare.store import print_report, row, write_table

JSRT_NODULES, JSRT_NORMAL = 154, 93
CHESTXRAY14_IMAGES = 112_120


def prepare_jsrt(root: Path, out: Path, workers: int = 2) -> None:
    """Check JSRT's radiographs and index them.

    Writes `radiographs.csv` (one radiograph a row) and `report.csv` (everything that is wrong).

    Args:
        root: folder with the `.IMG` files and `CLNDAT_EN.txt`, as JSRTCollection reads it.
        out: folder for the two tables.
        workers: number of processes.

    Raises:
        FileNotFoundError: If the table or all radiographs are missing.
        ValueError: If a line of the table cannot be understood.
    """
    nodules = read_table(root / "CLNDAT_EN.txt").set_index("name")
    files = JSRTCollection(root).files()
    radiographs = pd.DataFrame({"name": list(files), "path": list(files.values())})
    if radiographs.empty:
        message = f"{root} holds no .IMG file: give the folder with JSRT's radiographs"
        raise FileNotFoundError(message)
    radiographs["patient_id"] = radiographs["name"]
    radiographs["nodules"] = radiographs["name"].isin(nodules.index).astype(int)
    report = [
        row("radiograph", name, "is in CLNDAT_EN.txt, but its file is missing")
        for name in nodules.index
        if name not in files
    ]
    report += [
        row(
            "radiograph",
            radiograph["name"],
            "shows a nodule by its name, but CLNDAT_EN.txt has no line of it",
        )
        for radiograph in radiographs.to_dict("records")
        if radiograph["name"].startswith("JPCLN") and not radiograph["nodules"]
    ]
    counts = {"JPCLN": JSRT_NODULES, "JPCNN": JSRT_NORMAL}
    for begin, expected in counts.items():
        number = int(radiographs["name"].str.startswith(begin).sum())
        if number != expected:
            report.append(row("set", begin, f"{number} radiographs, but JSRT has {expected}"))
    radiographs = radiographs.join(
        nodules[["subtlety", "size_mm", "x", "y", "malignant"]], on="name"
    )
    _write(root, radiographs, report, out, workers)


def prepare_chestxray14(
    root: Path,
    out: Path,
    entries: str = "Data_Entry_2017_v2020.csv",
    boxes: str = "BBox_List_2017.csv",
    workers: int = 2,
) -> None:
    """Check the images of ChestX-ray14 and index them.

    Writes `radiographs.csv` (one image a row) and `report.csv`: images that are missing, damaged,
    resized or lie on their side, and boxes without their image.

    Args:
        root: folder with the tables and images, as ChestXray14Collection reads it.
        out: folder for the two tables.
        entries: name of the table of images in `root`.
        boxes: name of the table of boxes in `root`.
        workers: number of processes.

    Raises:
        FileNotFoundError: If a table or all images are missing.
        ValueError: If a table is not the official one.
    """
    table = read_entries(root / entries)
    nodules = read_boxes(root / boxes).query("finding == 'Nodule'")["image"]
    files = {path.name: path for path in sorted(root.rglob("*.png"))}
    radiographs = table[table["image"].isin(files)]
    if radiographs.empty:
        message = f"{root} has none of the {len(table)} images of {entries}: add images_001 ..."
        raise FileNotFoundError(message)
    radiographs = radiographs.assign(
        name=radiographs["image"],
        path=radiographs["image"].map(files),
        nodules=radiographs["image"].map(nodules.value_counts()).fillna(0).astype(int),
    ).drop(columns=["image", "spacing_mm"])
    report = []
    if missing := len(table) - len(radiographs):
        report.append(row("set", entries, f"{missing} of {len(table)} images are not there"))
    if len(table) != CHESTXRAY14_IMAGES:
        what = f"{len(table)} lines, but ChestX-ray14 has {CHESTXRAY14_IMAGES}"
        report.append(row("set", entries, what))
    if lost := int((~nodules.isin(files)).sum()):
        what = f"{lost} of {len(nodules)} boxes of nodules are without their image"
        report.append(row("set", boxes, what))
    unknown = sorted(set(files) - set(table["image"]))
    report += [row("image", name, "is in no line of the table") for name in unknown]
    _write(root, radiographs, report, out, workers)


def _write(
    root: Path, radiographs: pd.DataFrame, report: list[dict[str, str]], out: Path, workers: int
) -> None:
    """Look at every radiograph; write both tables."""
    if workers < 1:
        message = f"workers is {workers}: give at least 1"
        raise ValueError(message)
    seen = pd.DataFrame(_look_at_all(list(radiographs["path"]), workers), index=radiographs.index)
    faults = seen["fault"].fillna("")
    report = report + [
        row("radiograph", name, fault)
        for name, fault in zip(radiographs["name"], faults, strict=True)
        if fault
    ]
    paths = radiographs["path"].map(lambda path: path.relative_to(root).as_posix())
    index = radiographs.assign(path=paths).join(seen).set_index("name")
    with written_whole(out / "radiographs.csv") as path:
        index.to_csv(path)
    write_table(out / "report.csv", report, ["kind", "name", "what"])
    print(
        f"{out}: {len(index)} radiographs of {index['patient_id'].nunique()} patients, "
        f"{int(index['nodules'].sum())} nodules, {int((faults != '').sum())} radiographs with a "
        f"fault."
    )
    print_report(report)


def _look_at_all(paths: Sequence[Path], workers: int) -> list[dict[str, Any]]:
    bar = Progress(total=len(paths), desc="radiographs", unit="radiograph")
    seen = []
    if workers == 1:
        for path in paths:
            seen.append(look(path))
            bar.update()
    else:
        with processes(workers) as pool:
            for found in pool.map(look, paths, chunksize=16):
                seen.append(found)
                bar.update()
    bar.close()
    return seen


def look(path: Path) -> dict[str, Any]:
    """Size and greatest value of one radiograph, and what is wrong with it."""
    try:
        pixels = read_img(path).array if path.suffix.lower() == ".img" else read_grey(path)
    except ValueError as error:
        return {"fault": str(error)}
    height, width = pixels.shape
    fault = ""
    if path.suffix.lower() != ".img" and pixels.shape != (SIDE, SIDE):
        fault = f"has {width} x {height} pixels: expected {SIDE} x {SIDE}, as shipped"
    elif pixels.min() == pixels.max():
        fault = "is of one grey"
    elif lies_on_its_side(pixels):
        fault = "lies on its side"
    return {"width": width, "height": height, "highest": int(pixels.max()), "fault": fault}
