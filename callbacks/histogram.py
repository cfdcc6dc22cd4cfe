"""How well synthetic nodules keep to the histogram asked for, and how much they vary."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from callbacks.distributed import gather_rows
from callbacks.generation import Drawn, GenerationMetric
from datamodules.batch import SUBTYPES
from lightning_modules.core.histogram import wasserstein1
from noduleforge.evaluation.groups import GROUPS, LARGE_MM


class HistogramSums(Metric):
    """Sums from which fidelity, spread and intra-class variance are computed.

    - `w1`: mean Wasserstein-1 distance between requested and generated histogram.
    - `w1_of_means`: that between the mean requested and the mean generated histogram: what is wrong
      with a group as a whole.
    - `spread`: mean Wasserstein-1 distance between two samples of one request.
    - `variance_ratio`: for each subtype, the variance of generated histograms between nodules,
      summed over bins, relative to that of the requested ones; 1 is right, less is collapse.

    Args:
        bins: bins of the histograms.
        bin_width: width of a bin in image units (HU for CT).
    """

    full_state_update = False

    def __init__(self, bins: int, bin_width: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bin_width = bin_width
        groups = len(GROUPS)
        for name, shape in {
            "count": (groups,),
            "w1": (groups,),
            "spread": (groups,),
            "generated": (groups, bins),
            "generated_square": (groups, bins),
            "requested": (groups, bins),
            "requested_square": (groups, bins),
        }.items():
            zeros = torch.zeros(shape, dtype=torch.float64)
            self.add_state(name, zeros, dist_reduce_fx="sum")

    def update(
        self, requested: Tensor, generated: Tensor, subtype: Tensor, diameter_mm: Tensor
    ) -> None:
        """Add nodules.

        Args:
            requested: `(B, bins)`.
            generated: `(2, B, bins)`; two samples of each request.
            subtype: `(B,)` codes.
            diameter_mm: `(B,)`.
        """
        codes = torch.arange(len(SUBTYPES), device=subtype.device)
        member = torch.cat(
            [
                subtype == codes.unsqueeze(1),
                (diameter_mm > LARGE_MM).unsqueeze(0),
                torch.ones_like(subtype, dtype=torch.bool).unsqueeze(0),
            ]
        ).double()
        requested, first, second = requested.double(), *generated.double()
        states: dict[str, Tensor] = {
            "count": torch.ones_like(requested[:, 0]),
            "w1": wasserstein1(requested, first, self.bin_width),
            "spread": wasserstein1(first, second, self.bin_width),
            "generated": first,
            "generated_square": first.square(),
            "requested": requested,
            "requested_square": requested.square(),
        }
        for name, values in states.items():
            setattr(self, name, getattr(self, name) + member @ values)

    def compute(self) -> dict[str, float]:
        """Each figure by group, such as `w1/solid`; groups without a nodule are left out."""
        result = {}
        for row, group in enumerate(GROUPS):
            count = self._sum("count")[row]
            if count == 0:
                continue
            result[f"count/{group}"] = float(count)
            result[f"w1/{group}"] = float(self._sum("w1")[row] / count)
            requested, generated = (self._sum(k)[row] / count for k in ("requested", "generated"))
            of_means = wasserstein1(requested, generated, self.bin_width)
            result[f"w1_of_means/{group}"] = float(of_means)
            result[f"spread/{group}"] = float(self._sum("spread")[row] / count)
            if count > 1 and group in SUBTYPES:
                ratio = self._variance("generated", row) / self._variance("requested", row)
                result[f"variance_ratio/{group}"] = float(ratio)
        return result

    def _sum(self, name: str) -> Tensor:
        value: Tensor = getattr(self, name)
        return value

    def _variance(self, name: str, row: int) -> Tensor:
        count = self._sum("count")[row]
        mean = self._sum(name)[row] / count
        return (self._sum(f"{name}_square")[row] / count - mean.square()).sum()


class HistogramFidelity(GenerationMetric):
    """How far synthetic nodules are from the histogram asked for, and how much they vary."""

    draws = 2
    sums: HistogramSums | None = None

    @property
    def provenance(self) -> dict[str, str]:
        """How histograms are made."""
        return {"histogram": f"{len(self.centers)} soft bins inside the mask", "distance": "W1"}

    def begin(self, spatial_dims: int, device: torch.device) -> None:
        """Begin anew; the first synthesis says what the bins are."""
        self.device, self.sums = device, None

    def update(self, drawn: Drawn) -> dict[str, Tensor]:
        """Add two samples of each nodule."""
        if self.sums is None:
            self.sums = self._sums_over(drawn.syntheses[0].bin_centers)
        requested = drawn.syntheses[0].requested_histogram
        generated = torch.stack([s.generated_histogram for s in drawn.syntheses[:2]])
        diameter = drawn.batch["attributes"]["diameter_mm"]
        self.sums.update(requested, generated, drawn.batch["subtype"], diameter)
        first, second = wasserstein1(requested, generated, self.sums.bin_width)
        spread = wasserstein1(generated[0], generated[1], self.sums.bin_width)
        return {"w1_first": first, "w1_second": second, "spread": spread}

    def _sums_over(self, centers: Tensor) -> HistogramSums:
        self.centers = centers.cpu()
        width = float(self.centers[1] - self.centers[0])
        return HistogramSums(len(self.centers), width).to(self.device)

    def compute(self) -> dict[str, float]:
        """Figures by group; see `HistogramSums`."""
        # a process without nodules has seen no bins, but takes part in the sums
        known = gather_rows([] if self.sums is None else [self.centers])
        if self.sums is None:
            self.sums = self._sums_over(known[0])
        return self.sums.compute()
