"""The conditions that there are: mask, background, subtype, intensity histogram, attributes."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.batch import NO_NODULE, SUBTYPES, NoduleBatch, subtype_name
from lightning_modules.core.conditioning import (
    Conditioner,
    Conditioning,
    LatentGeometry,
    Slot,
    Surroundings,
)
from lightning_modules.core.histogram import masked_histogram
from lightning_modules.core.histogram_bank import HistogramBank, joined, wanted_of
from lightning_modules.core.inpainting import occupancy

CLASSES = (*range(len(SUBTYPES)), NO_NODULE)
"""Codes of what a region can show."""


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

    @property
    def settings(self) -> dict[str, Any]:
        """See `Conditioner`."""
        return {**super().settings, "embedding_channels": self.embedding_channels}

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
    """The surroundings as channels: the latent outside the region, and the region itself.

    Args:
        dropout: see `Conditioner`.
        guided: see `Conditioner`.
        through: show the image without the nodule inside the region too, as on radiographs, where
            ribs and vessels are seen through it. Training data have to have it (nodules that were
            projected into radiographs, `SuperimposedDataModule`); so do requests.
    """

    def __init__(self, dropout: float = 0.0, guided: bool = False, through: bool = False) -> None:
        super().__init__(dropout, guided)
        self.through = through

    @property
    def settings(self) -> dict[str, Any]:
        """See `Conditioner`."""
        return {**super().settings, "through": self.through}

    def build(self, geometry: LatentGeometry) -> None:
        """Take the number of channels from the latent."""
        self.channels = geometry.latent_channels + 1

    def encode(self, batch: NoduleBatch, surroundings: Surroundings) -> Conditioning:
        """What is known, and the region, `(B, C + 1, *latent)`."""
        context, region = surroundings
        known = context if self.through else context * (1 - region)
        return Conditioning(channels=torch.cat([known, region], 1))

    def absent(self, given: Conditioning) -> Conditioning:
        """No background, and everything to be synthesized."""
        assert given.channels is not None
        nothing = torch.zeros_like(given.channels)
        nothing[:, -1:] = 1
        return Conditioning(channels=nothing)


class VectorConditioner(Conditioner):
    """A condition that is one vector for each nodule, encoded by a small network.

    Args:
        slots: where the encoded vector goes. `channels` spreads it over the mask, voxel by voxel,
            the strongest binding; `tokens` is one cross-attention token; `embedding` is added to
            the timestep's.
        spread_channels: channels of the `channels` slot.
        dropout: see `Conditioner`.
        guided: see `Conditioner`.
    """

    def __init__(
        self,
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
        self.slots, self.spread_channels = tuple(slots), spread_channels
        self.channels = spread_channels if "channels" in slots else 0

    @property
    def settings(self) -> dict[str, Any]:
        """See `Conditioner`."""
        own = {"slots": list(self.slots), "spread_channels": self.spread_channels}
        return {**super().settings, **own}

    @property
    @abstractmethod
    def width(self) -> int:
        """Length of the vector; known after `build`."""

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
    """The nodule's subtype (solid, part-solid, ground-glass) or none; all zero if unknown.

    Attributes:
        trained: `(4,)` boolean, of which there were any in training.
    """

    trained: Tensor

    @property
    def width(self) -> int:
        """One value for each subtype, and one for healthy tissue."""
        return len(CLASSES)

    def build(self, geometry: LatentGeometry) -> None:
        """Create the encoder."""
        super().build(geometry)
        self.register_buffer("trained", torch.zeros(self.width, dtype=torch.bool))

    def prepare(self, batches: Iterable[NoduleBatch]) -> None:
        """Note which subtypes there are."""
        for batch in batches:
            self.trained |= self.vector(batch).any(0).to(self.trained.device)

    def check(self, batch: NoduleBatch) -> None:
        """Refuse what training has shown nothing of; see `Conditioner`."""
        for code in sorted({*batch["subtype"].tolist()}):
            if code in CLASSES and not self.trained[CLASSES.index(code)]:
                message = (
                    f"The subtype {subtype_name(code)} is asked for, which the model was not "
                    "trained on: ask for others, or train on data that has it (`noduleforge "
                    "prepare healthy` for none)."
                )
                raise ValueError(message)

    def vector(self, batch: NoduleBatch) -> Tensor:
        """One-hot subtype, `(B, 4)`."""
        codes = torch.tensor(CLASSES, device=batch["subtype"].device)
        return (batch["subtype"].unsqueeze(1) == codes).float()


class HistogramConditioner(VectorConditioner):
    """The intensity histogram inside the mask, over the model's window.

    It is that of the nodule in the batch, or `batch["histogram"]` where a histogram is requested.
    The network sees the histogram and its cumulative sum: the first says which intensities occur,
    the second changes smoothly when they shift.

    Args:
        slots: see `VectorConditioner`.
        spread_channels: see `VectorConditioner`.
        dropout: see `Conditioner`.
        guided: see `Conditioner`.
    """

    def __init__(
        self,
        slots: Sequence[Slot] = ("channels", "tokens", "embedding"),
        spread_channels: int = 16,
        dropout: float = 0.1,
        guided: bool = True,
    ) -> None:
        super().__init__(slots, spread_channels, dropout, guided)

    @property
    def width(self) -> int:
        """Histogram and cumulative histogram."""
        return 2 * self.bins

    def build(self, geometry: LatentGeometry) -> None:
        """Take bins and range from the model, and create bank and encoder."""
        self.bins, self.window = geometry.histogram_bins, geometry.window
        self.bank = HistogramBank(self.bins)
        super().build(geometry)

    def prepare(self, batches: Iterable[NoduleBatch]) -> None:
        """Fill the bank with the histograms of the training nodules."""
        measured = [(self._own(batch), wanted_of(batch)) for batch in batches]
        histograms, nodules = zip(*measured, strict=True)
        self.bank.fill(torch.cat(histograms), joined(nodules))

    def requested(self, batch: NoduleBatch) -> Tensor:
        """The histogram that the batch asks for, `(B, bins)`; each sums to one."""
        return batch["histogram"] if "histogram" in batch else self._own(batch)

    def _own(self, batch: NoduleBatch) -> Tensor:
        """Histograms of the batch's nodules, `(B, bins)`."""
        return masked_histogram(batch["image"], batch["mask"], self.bins, self.window)

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
        super().__init__(slots, spread_channels, dropout, guided)
        self.ranges = {name: (float(low), float(high)) for name, (low, high) in ranges.items()}

    @property
    def settings(self) -> dict[str, Any]:
        """See `Conditioner`."""
        return {**super().settings, "ranges": self.ranges}

    @property
    def width(self) -> int:
        """Each value, and a flag that says whether it is known."""
        return 2 * len(self.ranges)

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
