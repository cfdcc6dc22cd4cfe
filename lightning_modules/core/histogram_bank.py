"""Real intensity histograms for nodules that are asked for without one: those of like nodules."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.batch import NoduleBatch, subtype_name
from datamodules.patients import patient_key
from lightning_modules.core.inpainting import dilate
from lightning_modules.core.randomness import SampleStreams

NEAREST = 5
"""Of so many nodules that are most alike one is drawn."""

TISSUE_HU = -300.0
"""Above this a voxel of a nodule's surroundings is soft tissue: chest wall, vessel, diaphragm."""

TISSUE_AT_MM = 3.0
"""So far from the mask surroundings are looked at: beyond what partial volume blurs."""

CONTENTS = ("histograms", "subtypes", "measures", "ratings", "patients")
"""What a bank holds of each nodule."""

SHAPE = ("log_diameter", "log_surface_to_volume", "contact")
"""Measures of `shape_measures`."""


def shape_measures(image: Tensor, mask: Tensor, spacing_mm: Tensor) -> Tensor:
    """What a nodule's histogram depends on besides its subtype.

    A small or ragged nodule's histogram is mostly its blurred rim, and where a nodule touches soft
    tissue it has no dark rim.

    Args:
        image: `(B, 1, *spatial)` in HU.
        mask: `(B, 1, *spatial)`, 1 inside the nodule.
        spacing_mm: `(B, axes)`, the same for all of a batch.

    Returns:
        `(B, 3)`, as `SHAPE` names them: logarithm of the diameter in mm of the ball (in 2D the
        disc) with the mask's volume, logarithm of surface to volume in 1/mm, and the share of
        voxels above -300 HU in the layer at 3 mm from the mask.
    """
    rank = mask.ndim - 2
    inside = mask > 0
    spacing = spacing_mm.double()
    # an empty mask, of an image without a nodule, is as one voxel
    volume = inside.flatten(1).sum(1).clamp(min=1) * spacing.prod(1)
    padded = F.pad(inside, [1] * (2 * rank))
    surface = torch.zeros_like(volume)
    for axis in range(rank):
        crossings = padded.diff(dim=axis + 2).flatten(1).sum(1)
        surface = surface + crossings * spacing.prod(1) / spacing[:, axis]
    unit_ball = {1: 2.0, 2: torch.pi, 3: 4 * torch.pi / 3}[rank]
    diameter = 2 * (volume / unit_ball) ** (1 / rank)
    reach = max(round(TISSUE_AT_MM / float(spacing.min())), 1)
    layer = dilate(mask, reach) - dilate(mask, reach - 1)
    tissue = (layer * (image > TISSUE_HU)).flatten(1).sum(1) / layer.flatten(1).sum(1).clamp(min=1)
    surface = surface.clamp(min=spacing.min() ** (rank - 1))
    return torch.stack([diameter.log(), (surface / volume).log(), tissue.double()], 1).float()


class Wanted(NamedTuple):
    """What requests without a histogram are known to want.

    Attributes:
        subtypes: `(B,)` codes of the subtypes.
        measures: `(B, 3)`, see `shape_measures`.
        ratings: LIDC ratings that are asked for, `(B,)` each; NaN where one is not.
        patients: of each the key of the patient whose image it is for.
        numbers: `(B,)` of the requests.
    """

    subtypes: Tensor
    measures: Tensor
    ratings: Mapping[str, Tensor]
    patients: Sequence[str]
    numbers: Tensor

    def of(self, chosen: Tensor) -> "Wanted":
        """Some of the requests.

        Args:
            chosen: `(B,)` booleans.
        """
        return Wanted(
            self.subtypes[chosen],
            self.measures[chosen],
            {name: values[chosen] for name, values in self.ratings.items()},
            [who for who, one in zip(self.patients, chosen.tolist(), strict=True) if one],
            self.numbers[chosen],
        )


def wanted_of(batch: NoduleBatch) -> Wanted:
    """What is known of a batch's nodules."""
    return Wanted(
        batch["subtype"],
        shape_measures(batch["image"], batch["mask"], batch["spacing_mm"]),
        {name: value for name, value in batch["attributes"].items() if name != "diameter_mm"},
        [patient_key(patient) for patient in batch["patient_id"]],
        batch["index"],
    )


def joined(parts: Sequence[Wanted]) -> Wanted:
    """The nodules of several batches, one after the other."""
    return Wanted(
        torch.cat([part.subtypes for part in parts]),
        torch.cat([part.measures for part in parts]),
        {name: torch.cat([part.ratings[name] for part in parts]) for name in parts[0].ratings},
        [patient for part in parts for patient in part.patients],
        torch.cat([part.numbers for part in parts]),
    )


class HistogramBank(nn.Module):
    """Histograms of the training nodules, and what they depend on; kept in the checkpoint.

    Args:
        bins: number of bins of each histogram.
    """

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.histograms = torch.zeros(0, bins)
        self.subtypes = torch.zeros(0, dtype=torch.int64)
        self.measures = torch.zeros(0, len(SHAPE))
        self.ratings: dict[str, Tensor] = {}
        self.patients: list[str] = []

    def fill(self, histograms: Tensor, nodules: Wanted) -> None:
        """Replace the contents.

        Args:
            histograms: `(N, bins)`, each sums to one.
            nodules: whose they are; `numbers` do not count.
        """
        self.histograms = histograms.detach().float().cpu()
        self.subtypes = nodules.subtypes.detach().cpu()
        self.measures = nodules.measures.detach().float().cpu()
        self.ratings = {n: v.detach().float().cpu() for n, v in nodules.ratings.items()}
        self.patients = list(nodules.patients)

    def draw(self, wanted: Wanted, seed: int) -> Tensor:
        """A real histogram for each request, `(B, bins)`: that of a like nodule of somebody else.

        Of the training nodules of the subtype the 5 that are most alike are found, by the mean
        squared difference of `SHAPE` plus that of the ratings that are asked for, each over its
        variance in the subtype; one of them is drawn. The patient whose image the nodule is for is
        left out where the bank has nodules of others. The draw depends on the seed and the
        request's number.

        Args:
            wanted: the requests.
            seed: the sampling seed.

        Raises:
            ValueError: If the bank holds no nodule of a subtype.
        """
        rows = []
        chances = SampleStreams(wanted.numbers, "library", seed).uniform().tolist()
        for row, (code, chance) in enumerate(zip(wanted.subtypes.tolist(), chances, strict=True)):
            candidates = self._candidates(code, wanted.patients[row])
            distance = self._distance(candidates, wanted, row)
            nearest = candidates[distance.argsort(stable=True)[:NEAREST]]
            rows.append(self.histograms[nearest[int(chance * len(nearest))]])
        return torch.stack(rows).to(wanted.subtypes.device)

    def _candidates(self, code: int, patient: str) -> Tensor:
        """Positions of the nodules of a subtype, of other patients if there are such."""
        same = torch.nonzero(self.subtypes == code).flatten()
        if len(same) == 0:
            name = subtype_name(code) or "unknown"
            message = (
                f"The histogram bank holds no {name} nodule among {len(self.subtypes)}: give the "
                "request its own histogram, or train on data that has some."
            )
            raise ValueError(message)
        others = [k for k in same.tolist() if self.patients[k] != patient]
        return torch.tensor(others) if others else same

    def _distance(self, candidates: Tensor, wanted: Wanted, row: int) -> Tensor:
        """How unlike a request the candidates are, `(candidates,)`."""
        distance = self._scaled(self.measures[candidates], wanted.measures[row].cpu()).mean(1)
        ratings = []
        for name, asked in wanted.ratings.items():
            if name in self.ratings and torch.isfinite(asked[row]):
                known = self.ratings[name][candidates, None]
                # an unknown rating is as far as that of another nodule is on average
                ratings.append(self._scaled(known, asked[row, None].cpu()).nan_to_num(2.0))
        return distance + torch.cat(ratings, 1).mean(1) if ratings else distance

    @staticmethod
    def _scaled(known: Tensor, asked: Tensor) -> Tensor:
        """Squared differences over the variance, `(candidates, values)`."""
        finite = torch.where(known.isnan(), known.nanmean(0), known)
        variance = finite.var(0, correction=0)
        # what all candidates have alike tells none from another, and would drown what does
        return torch.where(variance > 0, (known - asked).square() / variance, 0.0)

    def get_extra_state(self) -> dict[str, Any]:
        """The contents, whose size is not known before training."""
        return {name: getattr(self, name) for name in CONTENTS}

    def set_extra_state(self, state: Any) -> None:
        """Restore the contents from a checkpoint."""
        for name in CONTENTS:
            setattr(self, name, state[name])
