"""A look at a data set of CT nodules before training: what there is, and what is wrong with it."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.batch import HEALTHY, SUBTYPES, subtype_name
from datamodules.digest import sha256
from datamodules.hounsfield import check_hu
from datamodules.io.volumes import Volume, equivalent_diameter_mm
from datamodules.io.whole_files import written_whole
from datamodules.ratings import RATINGS, characteristics, subtype_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

UNKNOWN = "unknown"
DIAMETER_MM = (3.0, 30.0)
"""What is called a nodule is neither smaller nor larger."""

BINS_HU = np.arange(-1050, 1051, 50)
SHEET = 12
"""Nodules of each subtype on the contact sheet."""


class Seen(NamedTuple):
    """What was found in one nodule's files.

    Attributes:
        facts: columns of `inspected.csv`.
        histogram: voxels of the nodule in each of `BINS_HU`.
        middle: image and mask in the slice where the nodule is largest.
        faults: sentences about what is wrong.
    """

    facts: dict[str, Any]
    histogram: NDArray[np.int64]
    middle: tuple[NDArray[Any], NDArray[Any]]
    faults: list[str]


def inspect(
    root: Path,
    csv: str = "nodules.csv",
    columns: dict[str, str] | None = None,
    select: str | None = None,
    out: Path | None = None,
) -> None:
    """Look at a data set as LIDCCollection reads it.

    Writes `summary.md` (counts by subtype, characteristic, size and patient), `overview.png` (the
    same as plots, and the HU histogram of each subtype), `contact_sheet.png` (nodules of every
    subtype with their outlines), `inspected.csv` (one nodule a row) and `faults.csv` (everything
    that is wrong).

    Args:
        root: folder with the table and the files it names.
        csv: name of the table in `root`.
        columns: our column names to the table's, where they differ.
        select: an expression that says which rows to use.
        out: folder to write; by default `inspect` in `root`.

    Raises:
        FileNotFoundError: If there is no such table.
        ValueError: If the table is faulty, or not one nodule can be read.
    """
    import matplotlib as mpl
    import pandas as pd

    from datamodules.collections.lidc import read_table
    from datamodules.progress import Progress

    table = read_table(root / csv, columns, select)
    seen: list[Seen] = []
    faults: list[tuple[str, str]] = []
    rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
    for row in Progress(rows, desc="nodules", unit="nodule"):
        try:
            found = look(root, row)
        except (FileNotFoundError, ValueError) as error:
            faults.append((row["nodule_id"], str(error)))
            continue
        seen.append(found)
        faults += [(row["nodule_id"], fault) for fault in found.faults]
    if not seen:
        message = f"Not one nodule of {root / csv} can be read; the first: {faults[0][1]}"
        raise ValueError(message)
    facts = pd.DataFrame([one.facts for one in seen])
    faults += twice(facts)
    out = out or root / "inspect"
    with written_whole(out / "inspected.csv") as path:
        facts.drop(columns="voxels").to_csv(path, index=False)
    with written_whole(out / "faults.csv") as path:
        pd.DataFrame(faults, columns=["nodule_id", "fault"]).to_csv(path, index=False)
    text = summary(facts, faults, len(table))
    with written_whole(out / "summary.md") as path:
        path.write_text(text)
    with mpl.rc_context({"font.size": 8}):
        with written_whole(out / "overview.png") as path:
            overview(facts, seen).savefig(path, dpi=110)
        with written_whole(out / "contact_sheet.png") as path:
            contact_sheet(facts, seen).savefig(path, dpi=110)
    print(text)
    print(f"See {out}: overview.png, contact_sheet.png, faults.csv")


def look(root: Path, row: dict[str, Any]) -> Seen:
    """Read one nodule and describe it.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file cannot be used at all; training would refuse it too.
    """
    from datamodules.collections.lidc import recent

    image, mask = recent(root / row["image"], "image"), recent(root / row["mask"], "mask")
    if not image.grid.matches(mask.grid):
        message = f"{row['mask']} lies on another grid than {row['image']}: resample it"
        raise ValueError(message)
    inside = mask.array != 0
    if not inside.any():
        message = f"{row['mask']} is empty: mark the nodule, or leave the row out"
        raise ValueError(message)
    if (mask.array[inside] != mask.array.max()).any():
        message = f"{row['mask']} has several labels: give each nodule a mask of its own"
        raise ValueError(message)
    if fault := check_hu(image.array):
        message = f"{row['image']} {fault}"
        raise ValueError(message)
    values = image.array[inside]
    known = row.get("subtype")
    if not isinstance(known, str):
        known = subtype_name(subtype_of(float(row.get("texture", np.nan)))) or UNKNOWN
    facts = {
        "nodule_id": row["nodule_id"],
        "patient_id": row["patient_id"],
        "subtype": known,
        "diameter_mm": equivalent_diameter_mm(inside, image.spacing_mm),
        "mean_hu": float(values.mean()),
        "sd_hu": float(values.std()),
        **(characteristics(row) if {*RATINGS} <= {*row} else {}),
        "voxels": sha256(np.ascontiguousarray(image.array).tobytes().hex()),
    }
    histogram = np.histogram(values, BINS_HU)[0].astype(np.int64)
    faults = list(doubts(image, inside, facts))
    return Seen(facts, histogram, middle(image.array, inside), faults)


def doubts(image: Volume, inside: NDArray[np.bool_], facts: dict[str, Any]) -> Iterator[str]:
    """What can be trained on, and still is likely wrong."""
    low, high = DIAMETER_MM
    if not low <= facts["diameter_mm"] <= high:
        yield f"has a diameter of {facts['diameter_mm']:.1f} mm, expected {low:g} to {high:g} mm"
    edges = [np.take(inside, side, axis).any() for axis in range(inside.ndim) for side in (0, -1)]
    if any(edges):
        yield "touches the edge of its image"
    if facts["mean_hu"] < -800:
        yield f"is as dark as lung ({facts['mean_hu']:.0f} HU): is its mask at the right place?"
    if max(image.spacing_mm) > 3:
        yield f"has voxels of {max(image.spacing_mm):g} mm: small nodules are lost"


def middle(image: NDArray[Any], inside: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Image and mask around the nodule, in the slice where it is largest."""
    if image.ndim == 3:
        largest = int(inside.sum((1, 2)).argmax())
        image, inside = image[largest], inside[largest]
    center = [int(np.mean(axis)) for axis in np.nonzero(inside)]
    box = tuple(slice(max(c - 24, 0), c + 24) for c in center)
    return image[box].copy(), inside[box].copy()


def twice(facts: "pd.DataFrame") -> list[tuple[str, str]]:
    """Images that several patients share: one would be in training and test."""
    faults = []
    for _, same in facts.groupby("voxels"):
        if same["patient_id"].nunique() > 1:
            names = ", ".join(same["nodule_id"])
            what = f"has the same image as a nodule of another patient ({names})"
            faults.append((str(same["nodule_id"].iloc[0]), what))
    return faults


def summary(facts: "pd.DataFrame", faults: list[tuple[str, str]], rows: int) -> str:
    """Counts as Markdown."""
    patients = facts.groupby("patient_id").size()
    lines = [
        f"{rows} rows, {len(facts)} nodules of {len(patients)} patients can be read "
        f"({patients.mean():.1f} a patient, at most {patients.max()}).",
        "",
        "| subtype | nodules | patients | diameter, mm (median, range) | mean HU (median) |",
        "|---|---|---|---|---|",
    ]
    for name in (*SUBTYPES, HEALTHY, UNKNOWN):
        part = facts[facts["subtype"] == name]
        if len(part):
            size = part["diameter_mm"]
            lines.append(
                f"| {name} | {len(part)} | {part['patient_id'].nunique()} | {size.median():.1f}, "
                f"{size.min():.1f} to {size.max():.1f} | {part['mean_hu'].median():.0f} |"
            )
    named = [name for name in ("calcified", "irregular", "inhomogeneous") if name in facts]
    if named:
        lines += ["", "| characteristic | yes | no | left open |", "|---|---|---|---|"]
    for name in named:
        yes, no = int((facts[name] == 1).sum()), int((facts[name] == 0).sum())
        lines.append(f"| {name} | {yes} | {no} | {len(facts) - yes - no} |")
    lines += ["", f"{len(faults)} fault(s)" + (", the first:" if faults else "."), ""]
    lines += [f"- {name}: {fault}" for name, fault in faults[:10]]
    return "\n".join(lines) + "\n"


def overview(facts: "pd.DataFrame", seen: list[Seen]) -> "Figure":
    """Counts and histograms as plots."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    grid = figure.subplots(2, 2)
    present = [name for name in (*SUBTYPES, HEALTHY, UNKNOWN) if (facts["subtype"] == name).any()]
    grid[0, 0].bar(present, [(facts["subtype"] == name).sum() for name in present])
    grid[0, 0].set_title("nodules by subtype")
    grid[0, 1].hist(facts["diameter_mm"], bins=30)
    grid[0, 1].set(title="diameter", xlabel="mm")
    per_patient = facts.groupby("patient_id").size()
    grid[1, 0].hist(per_patient, bins=np.arange(0.5, per_patient.max() + 1.5))
    grid[1, 0].set(title="nodules of a patient", ylabel="patients")
    for name in present:
        counts = sum(one.histogram for one in seen if one.facts["subtype"] == name)
        share = counts / max(np.sum(counts), 1)
        grid[1, 1].stairs(share, BINS_HU, label=name)
    grid[1, 1].set(title="voxels inside the nodules", xlabel="HU", ylabel="share")
    grid[1, 1].legend()
    return figure


def contact_sheet(facts: "pd.DataFrame", seen: list[Seen]) -> "Figure":
    """Nodules of each subtype from small to large, with their outlines."""
    from matplotlib.figure import Figure

    present = [name for name in (*SUBTYPES, HEALTHY, UNKNOWN) if (facts["subtype"] == name).any()]
    figure = Figure(figsize=(SHEET, 1.25 * len(present)), layout="constrained")
    grid = figure.subplots(len(present), SHEET, squeeze=False)
    for line, name in zip(grid, present, strict=True):
        rows = facts[facts["subtype"] == name].sort_values("diameter_mm").index
        chosen = rows[np.unique(np.linspace(0, len(rows) - 1, SHEET).round().astype(int))]
        line[0].set_ylabel(name)
        for axes in line:
            axes.set(xticks=[], yticks=[], frame_on=False)
        for axes, number in zip(line, chosen, strict=False):
            image, mask = seen[number].middle
            axes.imshow(image, cmap="gray", vmin=-1000, vmax=400)
            axes.contour(mask, [0.5], colors="tab:orange", linewidths=0.8)
            axes.set_title(f"{seen[number].facts['diameter_mm']:.0f} mm")
    return figure
