"""What the denoiser is told about the nodule that it is to synthesize.

A conditioner turns a batch into one or more slots of the denoiser: `channels` beside the noisy
latent, `tokens` for cross-attention, and an `embedding` that is added to that of the timestep.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from datamodules.batch import SUBTYPES, NoduleBatch
from lightning_modules.core.histogram import bin_centers, soft_histogram
from lightning_modules.core.histogram_bank import HistogramBank
from lightning_modules.core.inpainting import occupancy

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
    """

    spatial_dims: int
    compression: int
    latent_channels: int
    token_dim: int
    embedding_dim: int


class Surroundings(NamedTuple):
    """What is known where a nodule is to be synthesized.

    Attributes:
        context: `(B, C, *latent)`; standardized latent of the image with the region filled in.
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

    def __init__(self, dropout: float, guided: bool) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            message = f"A conditioner's dropout is {dropout}, expected at least 0 and below 1."
            raise ValueError(message)
        self.dropout = dropout
        self.guided = guided

    def build(self, geometry: LatentGeometry) -> None:
        """Create the layers that depend on the model's geometry; called once, before training."""

    def prepare(self, batches: Iterable[NoduleBatch]) -> None:
        """Gather statistics of the training set; called once, before the first training step."""

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


class MaskConditioner(Conditioner):
    """The nodule's mask as channels: its occupancy of each latent voxel and a learned embedding.

    Args:
        embedding_channels: channels of the strided convolution that sees the mask at full
            resolution, so that sub-voxel shape is not lost.
        dropout: see `Conditioner`.
        guided: see `Conditioner`.
    """

    def __init__(
        self, embedding_channels: int = 4, dropout: float = 0.0, guided: bool = False
    ) -> None:
        super().__init__(dropout, guided)
        self.embedding_channels = embedding_channels
        self.channels = 1 + embedding_channels

    def build(self, geometry: LatentGeometry) -> None:
        """Create the strided convolution."""
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[geometry.spatial_dims]
        self.compression = geometry.compression
        self.embedder = convolution(
            1, self.embedding_channels, geometry.compression, geometry.compression, bias=False
        )

    def encode(self, batch: NoduleBatch, surroundings: Surroundings) -> Conditioning:
        """Occupancy and embedding, `(B, 1 + embedding_channels, *latent)`."""
        mask = batch["mask"]
        parts = [occupancy(mask, self.compression), self.embedder(mask)]
        return Conditioning(channels=torch.cat(parts, 1))

    def absent(self, given: Conditioning) -> Conditioning:
        """An empty mask."""
        assert given.channels is not None
        return Conditioning(channels=torch.zeros_like(given.channels))


class BackgroundConditioner(Conditioner):
    """The surroundings as channels: the latent outside the region, and the region itself."""

    def __init__(self, dropout: float = 0.0, guided: bool = False) -> None:
        super().__init__(dropout, guided)

    def build(self, geometry: LatentGeometry) -> None:
        """Take the number of channels from the latent."""
        self.channels = geometry.latent_channels + 1

    def encode(self, batch: NoduleBatch, surroundings: Surroundings) -> Conditioning:
        """Masked latent and region, `(B, C + 1, *latent)`."""
        context, region = surroundings
        return Conditioning(channels=torch.cat([context * (1 - region), region], 1))

    def absent(self, given: Conditioning) -> Conditioning:
        """No background, and everything to be synthesized."""
        assert given.channels is not None
        nothing = torch.zeros_like(given.channels)
        nothing[:, -1:] = 1
        return Conditioning(channels=nothing)


class VectorConditioner(Conditioner):
    """A condition that is one vector for each nodule, encoded by a small network.

    Args:
        width: length of the vector.
        slots: where the encoded vector goes. `channels` spreads it over the mask, voxel by voxel,
            the strongest binding; `tokens` is one cross-attention token; `embedding` is added to
            the timestep's.
        spread_channels: channels of the `channels` slot.
        dropout: see `Conditioner`.
        guided: see `Conditioner`.
    """

    def __init__(
        self,
        width: int,
        slots: Sequence[Slot] = ("tokens", "embedding"),
        spread_channels: int = 8,
        dropout: float = 0.1,
        guided: bool = True,
    ) -> None:
        super().__init__(dropout, guided)
        unknown = set(slots) - {"channels", "tokens", "embedding"}
        if unknown or not slots:
            message = (
                f"The slots of {type(self).__name__} are {list(slots)}, expected one or more of "
                "channels, tokens and embedding."
            )
            raise ValueError(message)
        self.width = width
        self.slots = tuple(slots)
        self.channels = spread_channels if "channels" in slots else 0

    def build(self, geometry: LatentGeometry) -> None:
        """Create the encoder, one output for each slot, and the absent vector."""
        hidden = geometry.embedding_dim
        self.compression = geometry.compression
        self.encoder = nn.Sequential(
            nn.Linear(self.width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()
        )
        sizes = {
            "channels": self.channels,
            "tokens": geometry.token_dim,
            "embedding": geometry.embedding_dim,
        }
        self.outputs = nn.ModuleDict({slot: nn.Linear(hidden, sizes[slot]) for slot in self.slots})
        # withheld channels are zero, like everything outside the mask
        self.nothing = nn.ParameterDict(
            {slot: torch.zeros(sizes[slot]) for slot in self.slots if slot != "channels"}
        )

    @abstractmethod
    def vector(self, batch: NoduleBatch) -> Tensor:
        """The condition itself, `(B, width)`."""

    def encode(self, batch: NoduleBatch, surroundings: Surroundings) -> Conditioning:
        """The encoded vector in its slots."""
        hidden = self.encoder(self.vector(batch))
        parts = {slot: output(hidden) for slot, output in self.outputs.items()}
        if "tokens" in parts:
            parts["tokens"] = parts["tokens"].unsqueeze(1)
        if "channels" in parts:
            inside = occupancy(batch["mask"], self.compression)
            spread = parts["channels"].view(*parts["channels"].shape, *(1,) * (inside.ndim - 2))
            parts["channels"] = spread * inside
        return Conditioning(**parts)

    def absent(self, given: Conditioning) -> Conditioning:
        """A learned vector for tokens and embedding, and empty channels."""
        parts: dict[str, Tensor] = dict(self.nothing.items())
        if given.channels is not None:
            parts["channels"] = torch.zeros_like(given.channels)
        return Conditioning(**parts)


class SubtypeConditioner(VectorConditioner):
    """The nodule's subtype (solid, part-solid, ground-glass); all zero where it is unknown."""

    def __init__(
        self,
        slots: Sequence[Slot] = ("tokens", "embedding"),
        spread_channels: int = 8,
        dropout: float = 0.1,
        guided: bool = True,
    ) -> None:
        super().__init__(len(SUBTYPES), slots, spread_channels, dropout, guided)

    def vector(self, batch: NoduleBatch) -> Tensor:
        """One-hot subtype, `(B, 3)`."""
        codes = torch.arange(len(SUBTYPES), device=batch["subtype"].device)
        return (batch["subtype"].unsqueeze(1) == codes).float()


class HistogramConditioner(VectorConditioner):
    """The intensity histogram inside the mask.

    It is that of the nodule in the batch, or `batch["histogram"]` where a histogram is requested.
    The network sees the histogram and its cumulative sum: the first says which intensities occur,
    the second changes smoothly when they shift.

    Args:
        bins: number of bins; LeFusion (Zhang et al., ICLR 2025) uses 16.
        low: left edge of the first bin in image units (HU for CT).
        high: right edge of the last bin.
        slots: see `VectorConditioner`.
        spread_channels: see `VectorConditioner`.
        dropout: see `Conditioner`.
        guided: see `Conditioner`.
    """

    def __init__(
        self,
        bins: int = 16,
        low: float = -1000.0,
        high: float = 400.0,
        slots: Sequence[Slot] = ("channels", "tokens", "embedding"),
        spread_channels: int = 16,
        dropout: float = 0.1,
        guided: bool = True,
    ) -> None:
        super().__init__(2 * bins, slots, spread_channels, dropout, guided)
        self.bins, self.low, self.high = bins, low, high
        self.library = HistogramBank(bins)

    @property
    def bin_centers(self) -> Tensor:
        """Centres of the bins in image units, `(bins,)`."""
        return bin_centers(self.bins, self.low, self.high)

    def measure(self, image: Tensor, mask: Tensor) -> Tensor:
        """Histograms `(B, bins)` of images `(B, 1, *spatial)` inside masks of the same shape."""
        return soft_histogram(image.flatten(1), mask.flatten(1), self.bins, self.low, self.high)

    def prepare(self, batches: Iterable[NoduleBatch]) -> None:
        """Fill the library with the histograms of the training nodules."""
        measured = [(self.measure(b["image"], b["mask"]), b["subtype"]) for b in batches]
        histograms, subtypes = zip(*measured, strict=True)
        self.library.fill(torch.cat(histograms), torch.cat(subtypes))

    def requested(self, batch: NoduleBatch) -> Tensor:
        """The histogram that the batch asks for, `(B, bins)`; each sums to one."""
        if "histogram" in batch:
            return batch["histogram"]
        return self.measure(batch["image"], batch["mask"])

    def vector(self, batch: NoduleBatch) -> Tensor:
        """Histogram and cumulative histogram, `(B, 2 * bins)`, scaled to order one."""
        histogram = self.requested(batch)
        return torch.cat([histogram * self.bins / 4, 2 * histogram.cumsum(1) - 1], 1)


class AttributeConditioner(VectorConditioner):
    """Continuous attributes: diameter, spacing, LIDC ratings.

    Args:
        ranges: for each attribute of the batch the values that are mapped to -1 and 1, such as
            `{diameter_mm: [3, 30], malignancy: [1, 5]}`. `spacing_mm` is the mean spacing.
        slots: see `VectorConditioner`.
        spread_channels: see `VectorConditioner`.
        dropout: see `Conditioner`.
        guided: see `Conditioner`.
    """

    def __init__(
        self,
        ranges: Mapping[str, tuple[float, float]],
        slots: Sequence[Slot] = ("embedding",),
        spread_channels: int = 8,
        dropout: float = 0.1,
        guided: bool = False,
    ) -> None:
        # a value and a flag that says whether it is known
        super().__init__(2 * len(ranges), slots, spread_channels, dropout, guided)
        self.ranges = {name: (float(low), float(high)) for name, (low, high) in ranges.items()}

    def vector(self, batch: NoduleBatch) -> Tensor:
        """Scaled values and flags of what is known, `(B, 2 * len(ranges))`.

        Raises:
            KeyError: If the batch has no attribute of that name.
        """
        columns = []
        for name, (low, high) in self.ranges.items():
            if name == "spacing_mm":
                value = batch["spacing_mm"].mean(1)
            elif name in batch["attributes"]:
                value = batch["attributes"][name]
            else:
                message = (
                    f"The batch has no attribute {name!r}, only {sorted(batch['attributes'])}: "
                    "correct the conditioner's ranges or add the column to the data."
                )
                raise KeyError(message)
            columns.append(2 * (value - low) / (high - low) - 1)
        values = torch.stack(columns, 1)
        known = torch.isfinite(values)
        return torch.cat([torch.where(known, values, 0.0), known.float()], 1)


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
