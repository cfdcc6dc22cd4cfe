"""Requests to put synthetic nodules into whole studies: CT volumes, or radiographs."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import ndimage
from tqdm import tqdm

from datamodules.base import NoduleDataModule, NoduleDataset, sha256
from datamodules.batch import SUBTYPES, UNKNOWN_SUBTYPE, NoduleBatch, Roi
from datamodules.io.dicom import only_series, read_study
from datamodules.io.radiographs import read_radiograph, write_radiograph
from datamodules.io.synthetic_dicom import (
    DESCRIPTION,
    write_dicom_radiograph,
    write_segmentation,
    write_synthetic_series,
)
from datamodules.io.volumes import (
    WRITABLE,
    Volume,
    binarize,
    equivalent_diameter_mm,
    read_volume,
    resample,
    resample_mask,
    write_volume,
)
from datamodules.lidc import AIR_HU, check_hu
from datamodules.ratings import RATINGS

Placed = dict[str, tuple[tuple[slice, ...], NDArray[np.uint8]]]
"""For each nodule's name the box of the study that it lies in, and its mask there."""


@dataclass(frozen=True)
class Region:
    """A request that can be fulfilled: what the model sees of the study.

    Attributes:
        row: the request as its table has it, with `name`, `study` and `index`.
        image: the ROI, in HU or a radiograph's units.
        mask: on the ROI's grid, uint8, 1 inside the nodule that is asked for.
        histogram: the HU histogram that is asked for, if any.
    """

    row: dict[str, Any]
    image: Volume
    mask: NDArray[np.uint8]
    histogram: tuple[float, ...]


def read_requests(path: Path) -> pd.DataFrame:
    """Read a table of requests.

    Returns:
        One request a row, with a unique `name`, `study`, `copy`, `shape_patient_id` and `index`
        (the seed).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it has no study column, no request, or a name twice.
    """
    if not path.is_file():
        message = f"{path} does not exist: give a table of requests"
        raise FileNotFoundError(message)
    texts = ("name", "study", "copy", "patient_id", "subtype", "mask", "shape_patient_id")
    table = pd.read_csv(path, dtype=dict.fromkeys((*texts, "spacing_mm"), str))
    if "study" not in table or table.empty or table["study"].isna().any():
        message = f"{path} lacks the column study, or a cell of it: say which study each row is for"
        raise ValueError(message)
    numbered = pd.Series([f"nodule-{number:04}" for number in range(len(table))])
    table["name"] = table["name"].fillna(numbered) if "name" in table else numbered
    if table["name"].duplicated().any():
        message = f"{path} has requests of the same name: make names unique"
        raise ValueError(message)
    table["copy"] = table["copy"].fillna("") if "copy" in table else ""
    if "shape_patient_id" not in table:
        table["shape_patient_id"] = None
    seeds = table["seed"] if "seed" in table else pd.Series(np.nan, table.index)
    table["index"] = np.where(seeds.isna(), np.arange(len(table)), seeds.fillna(0)).astype(int)
    return table


def cut(
    study: Volume,
    row: dict[str, Any],
    root: Path,
    roi: Roi,
    margin: int,
    fill: float = AIR_HU,
) -> Region:
    """Cut the ROI of one request.

    Args:
        study: the whole study.
        row: the request.
        root: folder that the request's files are relative to.
        roi: the region that the model sees.
        margin: voxels around the nodule that must fit into the ROI.
        fill: what lies outside the study.

    Raises:
        FileNotFoundError: If the mask is missing.
        ValueError: If the request cannot be fulfilled; says why.
    """
    rank = study.array.ndim
    size, spacing_mm = roi.shape(rank), roi.spacing_mm
    shape = None
    if isinstance(row.get("mask"), str):
        shape = read_volume(root / row["mask"])
        if shape.array.ndim != rank or not shape.array.any():
            message = f"{row['mask']} is empty or not {rank}D: give a mask with the nodule in it"
            raise ValueError(message)
    point = position(study, row, shape)
    index = study.grid.index(point)
    if any(not -0.5 <= i <= n - 0.5 for i, n in zip(index, study.array.shape, strict=True)):
        message = f"its position {np.round(point, 1).tolist()} mm lies outside the study"
        raise ValueError(message)
    # the voxel of the study that holds the position, so that equal spacing copies values
    center = study.grid.world([float(np.floor(i + 0.5)) for i in index])
    image = resample(study, center, size, (spacing_mm,) * rank, fill=fill)
    mask = ball(row, size, spacing_mm) if shape is None else recentred(shape, size, spacing_mm)
    reach = np.argwhere(mask)
    if reach.min() < margin or (reach >= np.array(size) - margin).any():
        message = (
            f"the nodule and its margin of {margin * spacing_mm:g} mm do not fit into the ROI of "
            f"{min(size) * spacing_mm:g} mm: ask for a smaller one, or train with a larger ROI"
        )
        raise ValueError(message)
    corners = np.stack([reach.min(axis=0) - margin, reach.max(axis=0) + margin])
    places = np.array([study.grid.index(image.grid.world(corner.tolist())) for corner in corners])
    if (places < -0.5).any() or (places > np.array(study.array.shape) - 0.5).any():
        message = "the nodule and its margin reach beyond the study: give another position"
        raise ValueError(message)
    return Region(row, image, mask, histogram_of(row))


def position(study: Volume, row: dict[str, Any], shape: Volume | None) -> Sequence[float]:
    """World position of a request: millimetres, voxel, or where a mask on the study's grid is."""
    rank = study.array.ndim
    world, voxel = ("x_mm", "y_mm", "z_mm")[:rank], ("z", "y", "x")[-rank:]
    point = [float(row.get(name, np.nan)) for name in world]
    if np.isfinite(point).all():
        return point
    index = [float(row.get(name, np.nan)) for name in voxel]
    if np.isfinite(index).all():
        return study.grid.world(index)
    if shape is not None and shape.grid.matches(study.grid):
        return study.grid.world([float(axis.mean()) for axis in np.nonzero(shape.array)])
    message = (
        f"has no position: give {', '.join(world)} or {', '.join(voxel)}, or a mask on the "
        "study's grid"
    )
    raise ValueError(message)


def ball(row: dict[str, Any], shape: tuple[int, ...], spacing_mm: float) -> NDArray[np.uint8]:
    """A ball (in 2D a disc) of the diameter that is asked for, in the ROI's middle."""
    diameter = float(row.get("diameter_mm", np.nan))
    if not 0 < diameter < np.inf:
        message = f"diameter_mm is {diameter}: give a number above 0, or a mask"
        raise ValueError(message)
    axes = np.meshgrid(*[(np.arange(n) - n // 2) * spacing_mm for n in shape], indexing="ij")
    distance = np.sqrt(sum(axis**2 for axis in axes))
    mask: NDArray[np.uint8] = (distance <= diameter / 2).astype(np.uint8)
    return mask


def recentred(shape: Volume, size: tuple[int, ...], spacing_mm: float) -> NDArray[np.uint8]:
    """A mask's nodule on the ROI's grid, its centre in the middle."""
    center = shape.grid.world([float(axis.mean()) for axis in np.nonzero(shape.array)])
    array: NDArray[np.uint8] = resample_mask(shape, center, size, (spacing_mm,) * len(size)).array
    return array


def histogram_of(row: dict[str, Any]) -> tuple[float, ...]:
    """The histogram that is asked for: shares with spaces between; empty where there is none."""
    text = row.get("histogram")
    if not isinstance(text, str) or not text.strip():
        return ()
    try:
        shares = np.array([float(word) for word in text.split()])
    except ValueError as error:
        message = f"histogram is {text!r}: give numbers with spaces between"
        raise ValueError(message) from error
    if (shares < 0).any() or abs(shares.sum() - 1) > 1e-3:
        message = f"histogram sums to {shares.sum():g}: give shares of at least 0 that sum to 1"
        raise ValueError(message)
    return tuple((shares / shares.sum()).tolist())


def check_apart(region: Region, others: Sequence[Region]) -> None:
    """Refuse a nodule whose box meets that of an earlier one of the same study.

    Raises:
        ValueError: If they meet; names the other one.
    """
    low, high = extent(region)
    for other in others:
        lower, higher = extent(other)
        if (low <= higher).all() and (lower <= high).all():
            message = f"is at the place of {other.row['name']}: give another position"
            raise ValueError(message)


def extent(region: Region) -> tuple[NDArray[Any], NDArray[Any]]:
    """World positions of opposite corners of a nodule's box, lower and higher."""
    reach = np.argwhere(region.mask)
    corners = [region.image.grid.world(end(axis=0).tolist()) for end in (reach.min, reach.max)]
    return np.min(corners, axis=0), np.max(corners, axis=0)


class InsertionDataset(NoduleDataset):
    """The regions of all requests that can be fulfilled."""

    def __init__(self, regions: Sequence[Region], roi_size: Sequence[int]) -> None:
        """Describe the regions."""
        codes = [code_of(region.row.get("subtype")) for region in regions]
        super().__init__(codes, roi_size)
        self.regions = list(regions)
        self.table = pd.DataFrame([region.row for region in regions])

    def facts(self) -> Iterable[str]:
        """List the requests."""
        yield self.table.to_json(orient="split")

    def read(self, nodule: int, size: Sequence[int]) -> NoduleBatch:
        """One region; `size` is that of the ROI."""
        region = self.regions[nodule]
        row, image = region.row, region.image
        known = {name: float(row.get(name, np.nan)) for name in RATINGS}
        known["diameter_mm"] = equivalent_diameter_mm(region.mask, image.spacing_mm)
        item: NoduleBatch = {
            "image": torch.from_numpy(np.rint(image.array).astype(np.float32))[None],
            "mask": torch.from_numpy(region.mask.astype(np.float32))[None],
            "subtype": torch.tensor(self.subtypes[nodule]),
            "attributes": {name: torch.tensor(value) for name, value in known.items()},
            "spacing_mm": torch.tensor(image.spacing_mm, dtype=torch.float32),
            "origin_mm": torch.tensor(image.origin_mm, dtype=torch.float64),
            "direction": torch.from_numpy(image.direction.copy()),
            "name": row["name"],
            "patient_id": row["patient_id"],
            "index": torch.tensor(row["index"]),
        }
        if any(other.histogram for other in self.regions):
            length = max(len(other.histogram) for other in self.regions)
            item["histogram"] = torch.tensor(region.histogram or (np.nan,) * length)
        return item

    def __getitem__(self, index: int) -> NoduleBatch:
        """Return one region; its `index` is the request's seed."""
        item = super().__getitem__(index)
        item["index"] = torch.tensor(self.regions[index].row["index"])
        return item


def code_of(subtype: Any) -> int:
    """The code of a request's subtype, which only CT has."""
    return SUBTYPES.index(subtype) if subtype in SUBTYPES else UNKNOWN_SUBTYPE


class InsertionDataModule(NoduleDataModule):
    """Requests to put nodules into whole CT studies, for `lightning predict` alone.

    What cannot be fulfilled is kept in `failed`, with the reason, and does not stop the others.
    Studies that an earlier, interrupted run has finished are left out.

    Attributes:
        failed: for each request that cannot be fulfilled why, by name.
        done: rows of the manifest of studies that were finished before.
    """

    spatial_dims = 3

    def __init__(
        self,
        requests: Path,
        roi: Roi | None = None,
        batch_size: int = 8,
    ) -> None:
        """Describe the requests.

        Args:
            requests: a CSV file, one nodule a row. `study` (MetaImage, NIfTI, NRRD or a folder with
                a DICOM series, relative to the table); `x_mm`, `y_mm`, `z_mm` (world, LPS) or `z`,
                `y`, `x` (voxel), unless the mask is on the study's grid; `diameter_mm` of a ball,
                or `mask`, a file with the shape; `subtype`; and where wanted `name`, `seed`,
                `copy` (nodules of the same study with another one go into a copy of it),
                `shape_patient_id` (whose nodule's outline the mask is: such a patient counts as one
                that the generator has seen),
                `patient_id` (a pseudonym), `histogram` (shares of the model's bins with spaces
                between; else that of a real training nodule is drawn) and LIDC ratings.
            roi: how regions are cut; null for the model's.
            batch_size: requests that are synthesized together.
        """
        super().__init__(roi, batch_size, cache_dir=None)
        self.requests = requests
        self.failed: dict[str, str] = {}
        self.done: list[dict[str, Any]] = []

    @property
    def margin_voxels(self) -> int:
        """How far beyond a nodule's mask the model changes the image, in voxels of the ROI.

        Raises:
            ValueError: If there is no model to say it.
        """
        model: Any = None if self.trainer is None else self.trainer.lightning_module
        if not hasattr(model, "margin_voxels"):
            message = "Nodules are inserted by a diffusion model: use `lightning predict` with one"
            raise ValueError(message)
        margin: int = model.margin_voxels
        return margin

    def build(self) -> dict[str, NoduleDataset]:
        """Read every study once and cut its regions.

        Raises:
            FileNotFoundError: If there is no such table.
            ValueError: If the table is faulty, or there is nothing to be done.
        """
        table = read_requests(self.requests)
        root = self.requests.parent
        regions: list[Region] = []
        studies = list(table.groupby(["study", "copy"], sort=False))
        for (name, _), rows in tqdm(studies, desc="studies", unit="study"):
            key = case_key(str(name), rows)
            if (finished := self.finished(key)) is not None:
                self.done += finished
                continue
            path = root / str(name)
            try:
                study = self.read(path, {str(k): v for k, v in rows.iloc[0].items()})
            except (FileNotFoundError, ValueError) as error:
                self.failed |= dict.fromkeys(rows["name"], str(error))
                continue
            for row in rows.to_dict("records"):
                given: dict[str, Any] = {str(column): value for column, value in row.items()}
                given |= {"key": key, "patient_id": pseudonym(given)}
                try:
                    region = self.region(study, given)
                    check_apart(region, [one for one in regions if one.row["key"] == key])
                    regions.append(region)
                except (FileNotFoundError, ValueError) as error:
                    self.failed[given["name"]] = str(error)
        return {"predict": InsertionDataset(regions, self.roi.shape(self.spatial_dims))}

    def read(self, path: Path, row: dict[str, Any]) -> Volume:
        """Read a whole study, a CT in HU.

        Args:
            path: of the study.
            row: the first of its requests.

        Raises:
            FileNotFoundError: If it is missing.
            ValueError: If it is damaged or not in HU.
        """
        study = read_study(path)
        if fault := check_hu(study.array):
            message = f"{path} {fault}"
            raise ValueError(message)
        return study

    def region(self, study: Volume, row: dict[str, Any]) -> Region:
        """Cut the ROI of one request.

        Raises:
            FileNotFoundError: If the mask is missing.
            ValueError: If the request cannot be fulfilled; says why.
        """
        if row.get("subtype") not in SUBTYPES:
            message = f"subtype is {row.get('subtype')!r}: expected one of {', '.join(SUBTYPES)}"
            raise ValueError(message)
        region = cut(study, row, self.requests.parent, self.roi, self.margin_voxels)
        mean = float(region.image.array[region.mask > 0].mean())
        if mean > 0:
            message = f"its place is no lung (mean {mean:.0f} HU): give another position"
            raise ValueError(message)
        return region

    def write(
        self, source: Path, study: Volume, root: Path, name: str, placed: Placed, key: str, who: str
    ) -> str:
        """Write a study with its nodules as its source is; with DICOM also their masks as SEG.

        Args:
            source: the study without nodules.
            study: with them.
            root: the run's folder.
            name: of the study in it.
            placed: the nodules.
            key: stands for the study and its requests.
            who: the patient's pseudonym.

        Returns:
            The path of the study in `root`.
        """
        if source.is_dir():
            path = f"studies/{name}"
            slices = write_synthetic_series(only_series(source), study.array, root / path, who, key)
            shape = study.array.shape[1:]
            write_segmentation(root / f"masks/{name}.dcm", slices, placed, shape, key)
            return path
        path = f"studies/{name}{ending(source, WRITABLE)}"
        write_volume(root / path, study, DESCRIPTION)
        return path

    def finished(self, key: str) -> list[dict[str, Any]] | None:
        """Rows of the manifest of a study that was finished before; None if it was not."""
        folder = Path(self.trainer.default_root_dir if self.trainer else ".")
        path = folder / "finished" / f"{key}.json"
        rows: list[dict[str, Any]] | None = json.loads(path.read_text()) if path.is_file() else None
        return rows


def case_key(study: str, rows: pd.DataFrame) -> str:
    """Stands for a study with its requests."""
    return sha256(study, rows.to_json(orient="split"))[:16]


def pseudonym(row: dict[str, Any]) -> str:
    """The request's patient, or a name made of the study's path that says nothing about it."""
    given = row.get("patient_id")
    return given if isinstance(given, str) and given else f"study-{sha256(row['study'])[:10]}"


class RadiographInsertionDataModule(InsertionDataModule):
    """Requests to put nodules into whole radiographs: pictures, DICOM, or JSRT's `.IMG`.

    As for CT, but the table has `x_mm`, `y_mm` or `y`, `x` (pixel), and for pictures `spacing_mm`
    (one number, or two, along y and x, with a space between); subtypes and histograms are not asked
    for. Which characteristics nodules have, and how strongly, is said by the model (`strengths`).
    Radiographs must have the units that the model was trained on.
    """

    spatial_dims = 2

    def read(self, path: Path, row: dict[str, Any]) -> Volume:
        """Read a whole radiograph, bone bright.

        Raises:
            FileNotFoundError: If it is missing.
            ValueError: If it is damaged, or its spacing is not known.
        """
        radiograph = read_radiograph(path, radiograph_spacing(row.get("spacing_mm")))
        return Volume(
            radiograph.array.copy(),
            radiograph.spacing_mm,
            radiograph.origin_mm,
            radiograph.direction,
        )

    def region(self, study: Volume, row: dict[str, Any]) -> Region:
        """Cut the ROI of one request; raises as `cut` does."""
        fill = float(study.array.min())
        return cut(study, row, self.requests.parent, self.roi, self.margin_voxels, fill)

    def write(
        self, source: Path, study: Volume, root: Path, name: str, placed: Placed, key: str, who: str
    ) -> str:
        """Write a radiograph with its nodules as its source is."""
        path = f"studies/{name}{source.suffix}"
        if source.suffix.lower() == ".dcm":
            write_dicom_radiograph(source, study.array, root / path, who, key)
        else:
            write_radiograph(root / path, study, DESCRIPTION)
        return path


def radiograph_spacing(text: Any) -> tuple[float, float] | None:
    """A picture's spacing along y and x in mm, from a cell of the table; None where it is empty.

    Raises:
        ValueError: If it is not one number above 0, or two.
    """
    if not isinstance(text, str) or not text.strip():
        return None
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not min(numbers) > 0:
        message = f"spacing_mm is {text!r}: give a number above 0, or two, along y and x"
        raise ValueError(message)
    return numbers[0], numbers[-1]


def ending(path: Path, known: Sequence[str]) -> str:
    """The ending of a file, out of those that are known."""
    return next((one for one in known if path.name.lower().endswith(one)), path.suffix)


@dataclass(frozen=True)
class Edit:
    """What one synthetic nodule changes in a study.

    Attributes:
        row: the request.
        change: what to add, on the ROI's grid; exactly 0 beyond the nodule's margin.
        mask: uint8, on the ROI's grid.
    """

    row: dict[str, Any]
    change: Volume
    mask: NDArray[np.uint8]


def box_of(study: Volume, roi: Volume) -> tuple[slice, ...]:
    """The voxels of a study whose centres lie in an ROI."""
    first = np.asarray(study.grid.index(roi.origin_mm))
    steps = np.asarray(study.spacing_mm) / roi.spacing_mm
    last = first + (np.asarray(roi.array.shape) - 1) / steps
    low = np.clip(np.ceil(first - 1e-6), 0, None).astype(int)
    high = np.minimum(np.floor(last + 1e-6).astype(int) + 1, study.array.shape)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def apply(study: Volume, edit: Edit) -> tuple[tuple[slice, ...], NDArray[np.uint8]]:
    """Add one nodule to a study, in place.

    The difference between synthetic and real ROI is interpolated onto the study's voxels and added,
    so that the study keeps its own noise and what is finer than the ROI. Where the difference is 0
    no voxel changes.

    Args:
        study: of an integer type; its voxels are overwritten.
        edit: what to add.

    Returns:
        The box of the study that the ROI covers, and the nodule's mask in it.
    """
    roi, box = edit.change, box_of(study, edit.change)
    steps = np.asarray(study.spacing_mm) / roi.spacing_mm
    shape = tuple(side.stop - side.start for side in box)
    low = np.array([side.start for side in box])
    offset = (low - np.asarray(study.grid.index(roi.origin_mm))) * steps

    def onto_study(values: NDArray[Any]) -> NDArray[np.float32]:
        moved: NDArray[np.float32] = ndimage.affine_transform(
            values.astype(np.float32), np.diag(steps), offset, shape, output=np.float32, order=1
        )
        return moved

    added = np.rint(onto_study(roi.array))
    voxels = study.array[box]
    changed = voxels.astype(np.float32) + added
    limits = np.iinfo(study.array.dtype)
    study.array[box] = np.clip(changed, limits.min, limits.max).astype(study.array.dtype)
    return box, binarize(onto_study(edit.mask))
