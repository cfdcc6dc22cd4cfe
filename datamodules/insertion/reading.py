"""Regions of studies that threads read while the device works."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import default_collate

from datamodules.batch import NoduleBatch, subtype_code
from datamodules.collections.base import NoduleSet, Patch
from datamodules.dataset import NoduleDataset
from datamodules.insertion.requests import InsertionPlan
from datamodules.insertion.rois import Region
from datamodules.insertion.shares import Requests
from datamodules.io.volumes import Volume, equivalent_diameter_mm
from datamodules.ratings import RATINGS

AHEAD = 2
"""Parcels that are read ahead of the one that is synthesized."""

Read = Callable[[Requests], tuple[list[Region], dict[str, str]]]
"""Cuts the regions of a study's requests, and says by name why others cannot be fulfilled."""


class RequestedNodules(NoduleSet):
    """Regions that were cut for requests."""

    def __init__(self, regions: Sequence[Region], roi_size: Sequence[int]) -> None:
        """Describe the regions."""
        codes = [subtype_code(region.row.get("subtype")) for region in regions]
        super().__init__(pd.DataFrame([region.row for region in regions]), codes, roi_size)
        self.regions = list(regions)

    def facts(self) -> Iterator[str]:
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
            whole,
        )


class InsertionDataset(NoduleDataset):
    """Requested nodules; an item's `index` is the request's seed."""

    def __init__(self, nodules: RequestedNodules, bins: int) -> None:
        """Describe the items.

        Args:
            nodules: that can be inserted.
            bins: of the histograms that the table asks for; 0 where it asks for none.
        """
        super().__init__(nodules)
        self.regions, self.bins = nodules.regions, bins
        self.erases = any(region.erased is not None for region in self.regions)

    def __getitem__(self, index: int) -> NoduleBatch:
        """Return one region, with a histogram, and what is erased, where any region has it."""
        item = super().__getitem__(index)
        region = self.regions[index]
        item["index"] = torch.tensor(region.row["index"])
        if self.bins:
            item["histogram"] = torch.tensor(region.histogram or (np.nan,) * self.bins)
        if self.erases:
            erased = np.zeros_like(region.mask) if region.erased is None else region.erased
            item["erased"] = torch.from_numpy(erased.astype(np.float32))[None]
        return item


class StudiesAhead:
    """Batches of requested nodules, each with those of one parcel alone.

    While one parcel is synthesized the next `AHEAD` are read; of a study its regions alone are
    kept. What becomes of a study's requests is put into the plan before its first batch is given.
    """

    def __init__(
        self,
        parcels: Sequence[Sequence[Requests]],
        read: Read,
        plan: InsertionPlan,
        roi_size: Sequence[int],
        batch_size: int,
        threads: int,
    ) -> None:
        """Describe the batches.

        Args:
            parcels: of this process, in their order.
            read: reads a study.
            plan: what becomes of the requests.
            roi_size: voxels of a region.
            batch_size: nodules of a batch.
            threads: that read.
        """
        self.parcels, self.read, self.plan = parcels, read, plan
        self.roi_size, self.batch_size, self.threads = roi_size, batch_size, threads

    def __len__(self) -> int:
        """Return the number of batches if all requests can be fulfilled."""
        nodules = [sum(map(len, parcel)) for parcel in self.parcels]
        return sum(-(-count // self.batch_size) for count in nodules)

    def __iter__(self) -> Iterator[NoduleBatch]:
        """Read, and yield the batches."""
        pool = ThreadPoolExecutor(self.threads, "read")
        rest = iter(self.parcels)
        coming: deque[list[Future[Any]]] = deque()
        try:
            while True:
                for parcel in islice(rest, 1 + AHEAD - len(coming)):
                    coming.append([pool.submit(self.read, study) for study in parcel])
                if not coming:
                    return
                yield from self._batches([study.result() for study in coming.popleft()])
        finally:
            pool.shutdown(cancel_futures=True)

    def _batches(
        self, studies: Sequence[tuple[list[Region], dict[str, str]]]
    ) -> Iterator[NoduleBatch]:
        """The batches of one parcel's studies."""
        regions: list[Region] = []
        for cut, failed in studies:
            regions += cut
            self.plan.failed |= failed
        self.plan.waiting |= {region.row["name"]: region.row for region in regions}
        items = InsertionDataset(RequestedNodules(regions, self.roi_size), self.plan.bins)
        for first in range(0, len(items), self.batch_size):
            last = min(first + self.batch_size, len(items))
            yield default_collate([items[number] for number in range(first, last)])
