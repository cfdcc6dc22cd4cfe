"""Data modules of requests to put synthetic nodules into whole studies: CT, or radiographs."""

from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from datamodules.base import NoduleDataModule
from datamodules.batch import HEALTHY, SUBTYPES, Roi
from datamodules.dataset import NoduleDataset
from datamodules.hounsfield import AIR_HU, check_hu
from datamodules.insertion.reading import StudiesAhead
from datamodules.insertion.requests import (
    InsertionPlan,
    by_study,
    pseudonym,
    read_finished,
    read_requested_radiograph,
    read_requests,
    study_key,
)
from datamodules.insertion.rois import Places, Region, cut
from datamodules.insertion.rows import histogram_of
from datamodules.insertion.shares import Requests, parcels, shares, work_bytes
from datamodules.io.lazy_studies import open_study
from datamodules.io.same_form import check_ct, check_radiograph
from datamodules.io.volumes import Volume


class InsertionDataModule(NoduleDataModule):
    """Requests to put nodules into whole CT studies, for `lightning predict` alone.

    Studies are shared out to processes: see datamodules/insertion/shares.py. What cannot be
    fulfilled is said in `plan`, with the reason, and does not stop the others.

    Attributes:
        plan: what is to become of each request; complete once the loader has read the studies.
        parcels: the requests of this process' studies, by parcel.
    """

    plan: InsertionPlan
    parcels: list[list[Requests]]
    spatial_dims = 3
    allow_zero_length_dataloader_with_multiple_devices = True

    def __init__(
        self,
        requests: Path,
        roi: Roi | None = None,
        batch_size: int = 8,
        threads: int = 1,
    ) -> None:
        """Describe the requests.

        Args:
            requests: a CSV file, one nodule a row. `study` (MetaImage, NIfTI, NRRD or a folder with
                a DICOM series, relative to the table); `x_mm`, `y_mm`, `z_mm` (world, LPS) or `z`,
                `y`, `x` (voxel), unless the mask is on the study's grid; `diameter_mm` of a ball,
                or `mask`, a file with the shape; `subtype`, or `none` for healthy lung in the place
                of a nodule that is there; and where wanted `name`, `seed`,
                `copy` (nodules of the same study with another one go into a copy of it),
                `erase` (mask of a nodule, on the study's grid, that is first made healthy lung),
                `shape_patient_id` (whose nodule's outline the mask is: such a patient counts as one
                that the generator has seen),
                `patient_id` (a pseudonym), `histogram` (shares of the model's bins with spaces
                between; else that of a real training nodule is drawn) and LIDC ratings.
            roi: how regions are cut; null for the model's.
            batch_size: requests that are synthesized together.
            threads: of each process that read studies while nodules are synthesized, and as many
                that write them; each holds one study in memory where it is neither DICOM nor NIfTI.

        Raises:
            ValueError: If `batch_size` or `threads` is below 1.
        """
        super().__init__(roi, batch_size, cache_dir=None)
        if threads < 1:
            message = f"threads is {threads}: give at least 1, which reads studies"
            raise ValueError(message)
        self.threads = threads
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
        """Check the table and plan what this process does; studies are read later, by the loader.

        Raises:
            FileNotFoundError: If there is no such table.
            ValueError: If the table is faulty.
        """
        rows = read_requests(self.requests)
        trainer: Any = self.trainer
        studies, failed = by_study(rows, self.requests.parent, self.histogram_bins)
        done: dict[str, list[dict[str, Any]]] = {}
        for asked in studies:
            key, patient = study_key(asked), pseudonym(asked[0])
            for row in asked:
                row |= {"key": key, "patient_id": patient}
            if (finished := read_finished(Path(trainer.default_root_dir), key)) is not None:
                done[key] = finished
        self.plan = InsertionPlan(
            table=self.requests,
            names=tuple(row["name"] for row in rows),
            shape_patients=tuple(one for row in rows if (one := row.get("shape_patient_id"))),
            bins=max((len(histogram_of(row)) for asked in studies for row in asked), default=0),
            threads=self.threads,
            studies={asked[0]["key"]: [row["name"] for row in asked] for asked in studies},
            done=done,
            failed=failed,
        )
        rest = [
            parcel
            for parcel in parcels(studies, self.batch_size)
            if any(study[0]["key"] not in done for study in parcel)
        ]
        mine = shares([work_bytes(parcel) for parcel in rest], trainer.world_size)
        self.parcels = [rest[number] for number in mine[trainer.global_rank]]
        count = sum(map(len, studies))
        rank_zero_info(
            f"predict: {count} nodules in {len(studies)} studies, of which {len(done)} are done"
        )
        return {}

    def predict_dataloader(self) -> StudiesAhead | list[Any]:  # type: ignore[override]
        """Return the nodules of this process' studies; an empty list if all are done."""
        if self.plan.studies.keys() <= self.plan.done.keys():
            return []
        return StudiesAhead(
            self.parcels,
            self.read_regions,
            self.plan,
            self.roi.shape(self.spatial_dims),
            self.batch_size,
            self.threads,
        )

    def read_regions(self, asked: Requests) -> tuple[list[Region], dict[str, str]]:
        """Read a study and cut its regions.

        Args:
            asked: its requests.

        Returns:
            The regions, and by name why other requests cannot be fulfilled.
        """
        try:
            study = self.read(self.requests.parent / asked[0]["study"], asked[0])
        except (OSError, ValueError) as error:
            return [], dict.fromkeys([row["name"] for row in asked], str(error))
        regions: list[Region] = []
        failed: dict[str, str] = {}
        places = Places(min(self.roi.shape(self.spatial_dims)) * self.roi.spacing_mm)
        for row in asked:
            try:
                region = self.region(study, row)
                places.take(region)
                regions.append(region)
            except (OSError, ValueError) as error:
                failed[row["name"]] = str(error)
        return regions, failed

    def read(self, path: Path, row: dict[str, Any]) -> Volume:
        """Open a whole study, a CT in HU, and look at all of it.

        Args:
            path: of the study.
            row: the first of its requests.

        Raises:
            FileNotFoundError: If it is missing.
            ValueError: If it is damaged, not in HU, or could not be written again.
        """
        study = open_study(path)
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
        if (subtype := row.get("subtype")) not in (*SUBTYPES, HEALTHY):
            expected = ", ".join(SUBTYPES)
            message = f"subtype is {subtype!r}: expected one of {expected}, or {HEALTHY} to erase"
            raise ValueError(message)
        region = cut(study, row, self.requests.parent, self.roi, self.margin_voxels, AIR_HU)
        kept = region.mask if region.erased is None else region.mask * (1 - region.erased)
        mean = float(region.image.array[kept > 0].mean()) if kept.any() else AIR_HU
        if mean > 0 and subtype != HEALTHY:
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
