"""What the denoiser is told about the nodule that it is to synthesize.

A conditioner turns a batch into one or more slots of the denoiser: `channels` beside the noisy
latent, `tokens` for cross-attention, and an `embedding` that is added to that of the timestep.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from datamodules.batch import NoduleBatch
from lightning_modules.core.window import IntensityWindow

Slot = Literal["channels", "tokens", "embedding"]


class Conditioning(NamedTuple):
    """The denoiser's slots; None where nothing is given.

    Attributes:
        channels: `(B, C, *latent)`.
        tokens: `(B, N, token_dim)`.
        embedding: `(B, embedding_dim)`.
    """

    channels: Tensor | None = None
    tokens: Tensor | None = None
    embedding: Tensor | None = None


@dataclass(frozen=True)
class LatentGeometry:
    """What a conditioner has to know of the model that it is built into.

    Attributes:
        spatial_dims: 2 or 3.
        compression: voxels of the image along one side of a latent voxel.
        latent_channels: channels of the latent.
        token_dim: width of a cross-attention token.
        embedding_dim: width of the embedding.
        window: intensities that the model sees, and that its histograms cover.
        histogram_bins: bins of these histograms.
    """

    spatial_dims: int
    compression: int
    latent_channels: int
    token_dim: int
    embedding_dim: int
    window: IntensityWindow
    histogram_bins: int


class Surroundings(NamedTuple):
    """What is known where a nodule is to be synthesized.

    Attributes:
        context: `(B, C, *latent)`; standardized latent of `known_image`.
        region: `(B, 1, *latent)`; 1 where the latent is to be synthesized.
    """

    context: Tensor
    region: Tensor


class Conditioner(nn.Module, ABC):
    """One condition: its slots, its dropout and what stands for its absence.

    Args:
        dropout: probability, for each sample by itself, that the condition is withheld in training.
        guided: whether classifier-free guidance contrasts with this condition withheld.
    """

    channels: int = 0
    """Number of channels given to the denoiser; known after `build`."""

    through: bool = False
    """Whether it shows what lies under the nodule, so that this has to be known."""

    slots: Sequence[Slot] = ("channels",)
    """Which slots it fills."""

    def __init__(self, dropout: float, guided: bool) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            message = f"A conditioner's dropout is {dropout}, expected at least 0 and below 1."
            raise ValueError(message)
        self.dropout = dropout
        self.guided = guided

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that make another like it, as plain data."""
        return {"dropout": self.dropout, "guided": self.guided}

    def build(self, geometry: LatentGeometry) -> None:
        """Create the layers that depend on the model's geometry; called once, before training."""

    def prepare(self, batches: Iterable[NoduleBatch]) -> None:
        """Gather statistics of the training set; called once, before the first training step."""

    def check(self, batch: NoduleBatch) -> None:
        """Refuse a request that training has said nothing about.

        Raises:
            ValueError: If so.
        """

    @abstractmethod
    def encode(self, batch: NoduleBatch, surroundings: Surroundings) -> Conditioning:
        """The condition in its slots."""

    @abstractmethod
    def absent(self, given: Conditioning) -> Conditioning:
        """What stands in each slot of `given` where the condition is withheld; broadcastable."""

    def forward(
        self, batch: NoduleBatch, surroundings: Surroundings, withheld: Tensor
    ) -> Conditioning:
        """The condition, or its absence where `withheld`, a `(B,)` boolean, is true."""
        given = self.encode(batch, surroundings)
        absent = self.absent(given)
        # torch.where keeps both sides in the graph: under DDP no parameter is ever unused
        mixed = [
            None
            if value is None or null is None
            else torch.where(withheld.view(-1, *(1,) * (value.ndim - 1)), null, value)
            for value, null in zip(given, absent, strict=True)
        ]
        return Conditioning(*mixed)


def sees_through(conditioners: nn.ModuleDict) -> bool:
    """Whether a network with these is shown what lies under the nodule."""
    return any(cast(Conditioner, one).through for one in conditioners.values())


def stack_conditions(conditions: Sequence[Conditioning]) -> Conditioning:
    """Join what several conditioners give: channels and tokens in order, embeddings added."""
    channels = [c.channels for c in conditions if c.channels is not None]
    tokens = [c.tokens for c in conditions if c.tokens is not None]
    embeddings = [c.embedding for c in conditions if c.embedding is not None]
    return Conditioning(
        torch.cat(channels, 1) if channels else None,
        torch.cat(tokens, 1) if tokens else None,
        torch.stack(embeddings).sum(0) if embeddings else None,
    )


def interleave_conditions(conditions: Sequence[Conditioning]) -> Conditioning:
    """Put several conditions of each sample into one batch, those of one sample together."""
    slots = (
        None if slot[0] is None else torch.stack(slot, 1).flatten(0, 1)
        for slot in zip(*conditions, strict=True)
    )
    return Conditioning(*slots)
