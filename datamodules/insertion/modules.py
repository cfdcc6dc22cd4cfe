"""Data modules of requests to put synthetic nodules into whole studies: CT, or radiographs."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from datamodules.base import NoduleDataModule
from datamodules.batch import SUBTYPES, NoduleBatch, Roi
from datamodules.collections.base import NoduleSet, Patch
from datamodules.dataset import NoduleDataset
from datamodules.hounsfield import AIR_HU, check_hu
from datamodules.insertion.requests import (
    InsertionPlan,
    by_study,
    code_of,
    pseudonym,
    read_finished,
    read_requested_radiograph,
    read_requests,
    study_key,
)
from datamodules.insertion.rois import Places, Region, cut
from datamodules.io.dicom import read_study
from datamodules.io.same_form import check_ct, check_radiograph
from datamodules.io.volumes import Volume, equivalent_diameter_mm
from datamodules.progress import Progress
from datamodules.ratings import RATINGS


class RequestedNodules(NoduleSet):
    """The regions of all requests that can be fulfilled."""

    def __init__(self, regions: Sequence[Region], roi_size: Sequence[int]) -> None:
        """Describe the regions."""
        codes = [code_of(region.row.get("subtype")) for region in regions]
        super().__init__(pd.DataFrame([region.row for region in regions]), codes, roi_size)
        self.regions = list(regions)

    def facts(self) -> Iterable[str]:
        """List the requests."""
        yield self.table.to_json(orient="split")

    def read(self, nodule: int, size: Sequence[int]) -> Patch:
        """One region; `size` is that of the ROI."""
        region = self.regions[nodule]
        row, image = region.row, region.image
        known = {name: float(row.get(name, np.nan)) for name in RATINGS}
        known["diameter_mm"] = equivalent_diameter_mm(region.mask, image.spacing_mm)
        whole = np.rint(image.array).astype(np.float32)
        return Patch(
            Volume(whole, image.spacing_mm, image.origin_mm, image.direction),
            region.mask,
            known,
            row["name"],
            row["patient_id"],
            self.subtypes[nodule],
        )


class InsertionDataset(NoduleDataset):
    """Requested nodules; an item's `index` is the request's seed."""

    def __init__(self, nodules: RequestedNodules) -> None:
        """Describe the items."""
        super().__init__(nodules)
        self.regions = nodules.regions
        self.bins = max((len(region.histogram) for region in self.regions), default=0)

    def __getitem__(self, index: int) -> NoduleBatch:
        """Return one region, with the histogram that is asked for where any is."""
        item = super().__getitem__(index)
        region = self.regions[index]
        item["index"] = torch.tensor(region.row["index"])
        if self.bins:
            item["histogram"] = torch.tensor(region.histogram or (np.nan,) * self.bins)
        return item


class InsertionDataModule(NoduleDataModule):
    """Requests to put nodules into whole CT studies, for `lightning predict` alone.

    What cannot be fulfilled is said in `plan`, with the reason, and does not stop the others.
    Studies that an earlier, interrupted run in the same folder has finished are left out.

    Attributes:
        plan: what is to become of each request; there once `setup` has read the studies.
    """

    plan: InsertionPlan
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

    @property
    def histogram_bins(self) -> int:
        """How many shares a histogram has in the model; 0 if it does not say it."""
        model: Any = None if self.trainer is None else self.trainer.lightning_module
        return int(getattr(model, "histogram_bins", 0))

    def build(self) -> dict[str, NoduleDataset]:
        """Read every study once and cut its regions.

        Raises:
            FileNotFoundError: If there is no such table.
            ValueError: If the table is faulty, or there is nothing to be done.
        """
        rows = read_requests(self.requests)
        run = Path(self.trainer.default_root_dir if self.trainer else ".")
        studies, failed = by_study(rows, self.requests.parent, self.histogram_bins)
        regions: list[Region] = []
        done: list[dict[str, Any]] = []
        for asked in Progress(studies, desc="studies", unit="study"):
            key, patient = study_key(asked), pseudonym(asked[0])
            if (finished := read_finished(run, key)) is not None:
                done += finished
                continue
            try:
                study = self.read(self.requests.parent / asked[0]["study"], asked[0])
            except (OSError, ValueError) as error:
                failed |= dict.fromkeys([row["name"] for row in asked], str(error))
                continue
            places = Places(min(self.roi.shape(self.spatial_dims)) * self.roi.spacing_mm)
            for row in asked:
                given = {**row, "key": key, "patient_id": patient}
                try:
                    region = self.region(study, given)
                    places.take(region)
                    regions.append(region)
                except (OSError, ValueError) as error:
                    failed[row["name"]] = str(error)
        self.plan = InsertionPlan(
            table=self.requests,
            names=tuple(row["name"] for row in rows),
            shape_patients=tuple(one for row in rows if (one := row.get("shape_patient_id"))),
            waiting=tuple(region.row for region in regions),
            failed=failed,
            done=tuple(done),
        )
        nodules = RequestedNodules(regions, self.roi.shape(self.spatial_dims))
        return {"predict": InsertionDataset(nodules)}

    def read(self, path: Path, row: dict[str, Any]) -> Volume:
        """Read a whole study, a CT in HU.

        Args:
            path: of the study.
            row: the first of its requests.

        Raises:
            FileNotFoundError: If it is missing.
            ValueError: If it is damaged, not in HU, or could not be written again.
        """
        study = read_study(path)
        if study.array.ndim != self.spatial_dims:
            message = f"{path} has {study.array.ndim} dimensions, expected 3: give a whole CT study"
            raise ValueError(message)
        check_ct(path)
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
        region = cut(study, row, self.requests.parent, self.roi, self.margin_voxels, AIR_HU)
        mean = float(region.image.array[region.mask > 0].mean())
        if mean > 0:
            message = f"its place is no lung (mean {mean:.0f} HU): give another position"
            raise ValueError(message)
        return region


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
            ValueError: If it is damaged, its spacing is not known, or it could not be written
                again.
        """
        radiograph = read_requested_radiograph(path, row)
        check_radiograph(path)
        return radiograph

    def region(self, study: Volume, row: dict[str, Any]) -> Region:
        """Cut the ROI of one request; raises as `cut` does."""
        fill = float(study.array.min())
        return cut(study, row, self.requests.parent, self.roi, self.margin_voxels, fill)
