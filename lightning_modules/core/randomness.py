"""Random numbers that depend on what they are for, not on when or where they are drawn."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def generator(*keys: int | str) -> torch.Generator:
    """A CPU generator whose stream depends on `keys` alone.

    Training draws from one keyed by seed, step and rank: a resumed run continues bit for bit, with
    no generator state to save.
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
