"""Random numbers that depend on what they are for, not on when or where they are drawn."""

import hashlib
import math

import torch
from torch import Tensor

GAMMA, FIRST, SECOND = (
    constant - 2**64 for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
"""Constants of SplitMix64, as int64."""


def key(*keys: int | str) -> int:
    """63 bits that depend on `keys` alone, the same on every machine."""
    digest = hashlib.sha256(repr(keys).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(*keys: int | str) -> torch.Generator:
    """A CPU generator whose stream depends on `keys` alone, for what takes no other numbers."""
    return torch.Generator().manual_seed(key(*keys))


def mix(word: Tensor) -> Tensor:
    """The output of SplitMix64 (Steele, Lea and Flood 2014) at a state, both int64.

    A generator that begins at s gives mix(s + n * GAMMA) as its n-th number, n = 1, 2, ...: each
    number is there at once, without those before it.
    """
    word = (word ^ _shifted(word, 30)) * FIRST
    word = (word ^ _shifted(word, 27)) * SECOND
    return word ^ _shifted(word, 31)


def _shifted(word: Tensor, bits: int) -> Tensor:
    """Shifted to the right as an unsigned number."""
    return (word >> bits) & ((1 << (64 - bits)) - 1)


class SampleStreams:
    """A stream of random numbers for each sample of a batch.

    What a sample draws depends on the keys and its number alone, not on the other samples of its
    batch, on the process or the device (but for rounding of logarithms and cosines). The numbers
    are computed where the samples' numbers are, all samples at once and with nothing read back.

    Args:
        numbers: `(B,)` int64; of each sample, 0 or more.
        keys: what the numbers are for, and the seed.
    """

    def __init__(self, numbers: Tensor, *keys: int | str) -> None:
        self.states = mix(key(*keys) + (numbers + 1) * GAMMA)
        self.taken = 0

    def words(self, count: int) -> Tensor:
        """The next int64 words of each stream, all bits random, `(B, count)`."""
        places = torch.arange(self.taken, self.taken + count, device=self.states.device)
        self.taken += count
        return mix(self.states[:, None] + (places + 1) * GAMMA)

    def uniform(self) -> Tensor:
        """Numbers uniform in [0, 1), `(B,)` float32."""
        return _shifted(self.words(1)[:, 0], 40).float() * 2**-24

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape `(B, ...)` and type of `like`.

        Each word gives two (Box and Muller 1958).
        """
        count = math.prod(like.shape[1:])
        words = self.words((count + 1) // 2)
        # in (0, 1]: the smallest word gives 6.8 standard deviations
        radius = ((_shifted(words, 32).float() + 0.5) * 2**-32).log_().mul_(-2).sqrt_()
        angle = (words & 0xFFFFFFFF).float() * (2 * math.pi * 2**-32)
        pairs = torch.cat([radius * angle.cos(), radius * angle.sin()], 1)
        return pairs[:, :count].reshape(like.shape).to(like)
