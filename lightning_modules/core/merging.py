"""How several adapters take part together in synthesis: one interface, whatever the paper."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn

from datamodules.batch import NoduleBatch, Synthesizes
from lightning_modules.core.adapters import (
    activate,
    adapter_names,
    fuse,
    layers,
    merge_adapters,
    updates,
)
from lightning_modules.core.conditioning import Conditioning, Surroundings
from lightning_modules.core.denoiser import Denoiser

Kind = Literal["sum", "cat", "svd", "ties", "dare", "linear"]


class Merging(ABC):
    """A way to let adapters take part together."""

    @abstractmethod
    def merge(self, denoiser: Denoiser, strengths: Mapping[str, float]) -> nn.Module:
        """The network that synthesizes with the adapters.

        Args:
            denoiser: the base with its adapters; it is changed, give a copy.
            strengths: for each adapter that takes part its strength; none is the base.

        Returns:
            What answers like a `Denoiser`.

        Raises:
            ValueError: If an adapter is not there.
        """


class SynthesizesWithAdapters(Synthesizes, Protocol):
    """A model that synthesizes with adapters or labels; all that callbacks know of it."""

    def using(
        self, strengths: Mapping[str, float], merging: Merging | None = None
    ) -> AbstractContextManager[None]:
        """Let adapters take part in what is sampled meanwhile.

        Args:
            strengths: for each adapter that takes part its strength.
            merging: how they take part together; by default the model's own way.
        """


class Weighted(Merging):
    """One update made of all, fused into the base: a sample then costs what the base's does.

    Args:
        kind: `sum` adds up the updates, and `cat` is the same as one adapter of all ranks: both
            exact. `svd` cuts that sum to the rank of the largest adapter. `ties` (Yadav et al.
            2023) and `dare` (Yu et al. 2024) thin out each update before adding. `linear` is what
            peft calls so: it adds up A and B by themselves, which gives cross terms that no adapter
            has learned, and is here to be compared with, not to be used.
        density: share of the entries that `ties` and `dare` keep.
        seed: of what `dare` drops.
    """

    def __init__(self, kind: Kind = "sum", density: float = 0.5, seed: int = 0) -> None:
        if not 0 < density <= 1:
            message = f"density is {density}: give a share above 0 and up to 1."
            raise ValueError(message)
        self.kind, self.density, self.seed = kind, density, seed

    def merge(self, denoiser: Denoiser, strengths: Mapping[str, float]) -> nn.Module:
        """Merge and fuse."""
        merge_adapters(denoiser, strengths, self.kind, self.density, self.seed)
        fuse(denoiser)
        return denoiser


class _Several(nn.Module):
    """One network for each adapter; a rule says how their answers are weighed."""

    def __init__(self, denoiser: Denoiser, strengths: Mapping[str, float]) -> None:
        super().__init__()
        self.denoiser, self.strengths = denoiser, dict(strengths)

    @property
    def conditioners(self) -> nn.ModuleDict:
        """The base's, which the adapters share."""
        return self.denoiser.conditioners

    def condition(
        self,
        batch: NoduleBatch,
        surroundings: Surroundings,
        withheld: Mapping[str, Tensor] | None = None,
    ) -> Conditioning:
        """As `Denoiser.condition`."""
        return self.denoiser.condition(batch, surroundings, withheld)

    def alone(self, name: str, *inputs: object) -> Tensor:
        """The answer with one adapter."""
        activate(self.denoiser, {name: self.strengths[name]})
        return cast(Tensor, self.denoiser(*inputs))


class _Switching(_Several):
    def __init__(
        self, denoiser: Denoiser, strengths: Mapping[str, float], bands: int, timesteps: int
    ) -> None:
        super().__init__(denoiser, strengths)
        self.bands, self.timesteps = bands, timesteps

    def forward(self, latent: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        band = int(timestep[0]) * self.bands // self.timesteps
        names = list(self.strengths)
        return self.alone(names[-1 - band % len(names)], latent, timestep, conditioning)


class _Averaging(_Several):
    def forward(self, latent: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        answers = [self.alone(name, latent, timestep, conditioning) for name in self.strengths]
        return torch.stack(answers).mean(0)


class _Choosing(_Several):
    def __init__(
        self,
        denoiser: Denoiser,
        strengths: Mapping[str, float],
        shape: tuple[float, float],
        timesteps: int,
    ) -> None:
        super().__init__(denoiser, strengths)
        self.shape, self.timesteps = shape, timesteps
        activate(denoiser, strengths)
        first, second = (list(updates(denoiser, name)) for name in strengths)
        rank = first[0].a.shape[0] * second[0].a.shape[0]
        dense = [
            [(low.factor * low.b @ low.a).detach().abs() for low in x] for x in (first, second)
        ]
        balance = sum(d.sum() for d in dense[0]) / sum(d.sum() for d in dense[1])
        self.scores = {
            low.site: (_largest(a, rank), float(balance) * _largest(b, rank))
            for low, a, b in zip(first, *dense, strict=True)
        }

    def forward(self, latent: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        passed = 1 - float(timestep[0]) / self.timesteps
        weight = self.shape[0] * passed + self.shape[1]
        one, other = self.strengths.items()
        activate(self.denoiser, self.strengths)
        for site, layer in layers(self.denoiser).items():
            ours, theirs = self.scores[site]
            name, _ = other if ours >= weight * theirs else one
            layer.set_scale(name, 0.0)
        return cast(Tensor, self.denoiser(latent, timestep, conditioning))


def _largest(values: Tensor, number: int) -> float:
    """Sum of the largest entries."""
    return float(values.flatten().topk(min(number, values.numel())).values.sum())


class Switch(Merging):
    """LoRA Switch (Zhong et al. 2024): one adapter at a time, in turns along the noise levels.

    The first adapter has the strongest noise. It follows from the timestep alone which adapter is
    on, so that a sample does not depend on what else is drawn.

    Args:
        bands: number of turns.
        timesteps: training timesteps of the process.
    """

    def __init__(self, bands: int = 20, timesteps: int = 1000) -> None:
        if bands < 1:
            message = f"bands is {bands}: give one turn or more."
            raise ValueError(message)
        self.bands, self.timesteps = bands, timesteps

    def merge(self, denoiser: Denoiser, strengths: Mapping[str, float]) -> nn.Module:
        """A network that switches."""
        if not strengths:
            return Weighted().merge(denoiser, strengths)
        # bands counted so that the first adapter has the last, noisiest one
        turns = -(-self.bands // len(strengths)) * len(strengths)
        return _Switching(denoiser, strengths, turns, self.timesteps)


class Composite(Merging):
    """LoRA Composite (Zhong et al. 2024): the mean of what each adapter answers alone.

    It costs one network evaluation for each adapter at every step.
    """

    def merge(self, denoiser: Denoiser, strengths: Mapping[str, float]) -> nn.Module:
        """A network that averages."""
        if not strengths:
            return Weighted().merge(denoiser, strengths)
        return _Averaging(denoiser, strengths)


class KLoRA(Merging):
    """K-LoRA (Ouyang et al. 2025): in each layer the adapter whose largest entries weigh more.

    Compared are the sums of the r1 r2 largest absolute entries; those of the second adapter are
    brought to the first's size and multiplied by alpha (1 - t/T) + beta, so that the second gets
    more layers as the noise goes.

    Args:
        alpha: how much the second gains along the way.
        beta: its weight at the beginning.
        timesteps: training timesteps of the process.
    """

    def __init__(self, alpha: float = 1.5, beta: float = 0.5, timesteps: int = 1000) -> None:
        self.alpha, self.beta, self.timesteps = alpha, beta, timesteps

    def merge(self, denoiser: Denoiser, strengths: Mapping[str, float]) -> nn.Module:
        """A network that chooses.

        Raises:
            ValueError: If more than two adapters take part, for which it is not defined.
        """
        if len(strengths) > 2:
            message = (
                f"KLoRA chooses between two adapters, but {list(strengths)} take part: use another "
                "merging."
            )
            raise ValueError(message)
        if len(strengths) < 2:
            return Weighted().merge(denoiser, strengths)
        if unknown := set(strengths) - set(adapter_names(denoiser)):
            message = f"There is no adapter {sorted(unknown)[0]!r}: load it first."
            raise ValueError(message)
        return _Choosing(denoiser, strengths, (self.alpha, self.beta), self.timesteps)
