"""Random numbers that depend on what they are for, not on when or where they are drawn."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def generator(*keys: int | str) -> torch.Generator:
    """A CPU generator whose stream depends on `keys` alone.

    Training draws from generators keyed by seed, epoch, batch and place: a resumed run continues
    bit for bit, with no generator state to save.
    """
    digest = hashlib.sha256(repr(keys).encode()).digest()
    # manual_seed takes 63 bits
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def sample_noise(index: Tensor, shape: Sequence[int], seed: int) -> Tensor:
    """Standard normal noise for each sample, `(B, *shape)`.

    It depends on the seed and the sample's index alone, not on the batch, the rank or the device.

    Args:
        index: `(B,)` numbers of the samples.
        shape: shape of one sample.
        seed: the sampling seed.
    """
    noise = [torch.randn(shape, generator=generator("noise", seed, i)) for i in index.tolist()]
    return torch.stack(noise).to(index.device)


class SampleGenerators:
    """A stream of random numbers for each sample of a batch.

    What a sample draws does not depend on which other samples share its batch or its process:
    training on several processes is training on one with the same global batch.

    Args:
        keys: of each sample.
    """

    def __init__(self, keys: Sequence[tuple[int | str, ...]]) -> None:
        self.generators = [generator(*each) for each in keys]

    @classmethod
    def of_step(cls, size: int, rank: int, world_size: int, *keys: int | str) -> "SampleGenerators":
        """SampleGenerators of a training step, in which process `rank` has every n-th sample."""
        return cls([(*keys, place) for place in range(rank, size * world_size, world_size)])

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape `(B, ...)` and on the device of `like`."""
        drawn = [torch.randn(like.shape[1:], generator=stream) for stream in self.generators]
        return torch.stack(drawn).to(like)

    def uniform(self) -> Tensor:
        """Numbers uniform in [0, 1), `(B,)` on the CPU."""
        return torch.cat([torch.rand(1, generator=stream) for stream in self.generators])
