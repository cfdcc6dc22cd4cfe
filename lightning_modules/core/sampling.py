"""How nodules are sampled: the settings, and guidance of the network's answers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from datamodules.batch import NoduleBatch
from lightning_modules.core.conditioning import Conditioning, Surroundings, interleave_conditions
from lightning_modules.core.denoiser import Denoiser
from lightning_modules.core.process import Predict, Solver

Meeting = Literal["none", "final", "guided"]
"""How a requested histogram is met; see `SamplingConfig.histogram`."""

Branch = tuple[Conditioning, float]
"""A condition that the network is asked under, and the weight of its answer."""


@dataclass
class SamplingConfig:
    """How nodules are synthesized.

    Attributes:
        evaluations: network evaluations for each sample; guidance spends two at each step.
        solver: the solver of the reverse process.
        guidance_scale: classifier-free guidance (Ho and Salimans 2022); 1 is none.
        seed: seed of the samples.
        histogram: how the histogram that is asked for is met. `none`: as well as the network heeds
            it. `final`: the nodule's voxels are moved to it when all is done. `guided`: the
            estimates of the second half of the steps are moved to it as well, so that the network
            still smooths what that leaves.
    """

    evaluations: int = 20
    solver: Solver = "dpm-solver++"
    guidance_scale: float = 1.0
    seed: int = 0
    histogram: Meeting = "none"

    def __post_init__(self) -> None:
        """Refuse another way to meet a histogram.

        Raises:
            ValueError: If `histogram` is none of these.
        """
        if self.histogram not in get_args(Meeting):
            message = (
                f"sampling.histogram is {self.histogram!r}, expected one of "
                f"{', '.join(get_args(Meeting))}."
            )
            raise ValueError(message)


class Guidance(ABC):
    """Which questions are asked at each step, and how their answers make one."""

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that make another like it, as plain data."""
        return {}

    @abstractmethod
    def branches(
        self, network: Denoiser, batch: NoduleBatch, surroundings: Surroundings, scale: float
    ) -> list[Branch]:
        """The conditions that the network is asked under at each step; their weights sum to one.

        Args:
            network: that is asked.
            batch: the nodules wanted.
            surroundings: what is known around them.
            scale: `SamplingConfig.guidance_scale`.
        """


class ClassifierFreeGuidance(Guidance):
    """Away from the answer without the guided conditions (Ho and Salimans 2022).

    The answer e_0 + s (e - e_0) has the weights 1 - s and s.
    """

    def branches(
        self, network: Denoiser, batch: NoduleBatch, surroundings: Surroundings, scale: float
    ) -> list[Branch]:
        """Without the guided conditions and with them; the latter alone at scale 1."""
        given = network.condition(batch, surroundings)
        if scale == 1:
            return [(given, 1.0)]
        everywhere = torch.ones_like(batch["index"], dtype=torch.bool)
        withheld = {n: everywhere for n, c in network.conditioners.items() if c.guided}
        return [(network.condition(batch, surroundings, withheld), 1 - scale), (given, scale)]


class LabelGuidance(Guidance):
    """Labels composed by guidance (composable diffusion, Liu et al. 2022, eq. 11).

    Mask and background are kept in every answer: e = e_0 + sum over labels of s_i (e_i - e_0), with
    e_i the answer for label i alone and e_0 that for none.

    Args:
        labels: for each label, a conditioner's name and an attribute of the batch, what is asked
            for.
        strengths: the scale s_i of each label that takes part.
    """

    def __init__(self, labels: Mapping[str, float], strengths: Mapping[str, float]) -> None:
        self.labels, self.strengths = dict(labels), dict(strengths)

    @property
    def settings(self) -> dict[str, Any]:
        """Labels and strengths."""
        return {"labels": self.labels, "strengths": self.strengths}

    def branches(
        self, network: Denoiser, batch: NoduleBatch, surroundings: Surroundings, scale: float
    ) -> list[Branch]:
        """No label, and each one alone; each has its strength in the place of `scale`."""
        size, device = len(batch["index"]), batch["index"].device
        asked = {
            name: torch.full((size,), value if name in self.strengths else torch.nan, device=device)
            for name, value in self.labels.items()
        }
        wanted: NoduleBatch = {**batch, "attributes": {**batch["attributes"], **asked}}
        everywhere = torch.ones(size, dtype=torch.bool, device=device)

        def alone(label: str | None) -> Conditioning:
            withheld = {other: everywhere for other in self.labels if other != label}
            return network.condition(wanted, surroundings, withheld)

        return [
            (alone(None), 1 - sum(self.strengths.values())),
            *[(alone(label), strength) for label, strength in self.strengths.items()],
        ]


def guided(network: Denoiser, branches: Sequence[Branch]) -> Predict:
    """The network with the answers of several branches added up, one call for all of them."""
    number = len(branches)
    together = interleave_conditions([conditioning for conditioning, _ in branches])
    weights = torch.tensor([weight for _, weight in branches])

    def predict(x_t: Tensor, timestep: Tensor) -> Tensor:
        repeated = (value.repeat_interleave(number, 0) for value in (x_t, timestep))
        output: Tensor = network(*repeated, together)
        if number == 1:
            return output
        answers = output.view(-1, number, *x_t.shape[1:])
        return torch.einsum("a,ba...->b...", weights.to(x_t.device), answers)

    return predict
