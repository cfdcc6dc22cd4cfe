"""Whether two checkpoints are one, bit for bit."""

from typing import Any

import torch


def same(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two checkpoints differ."""
    if isinstance(one, dict):
        if set(one) != set(other):
            return [f"{path}: {set(one) ^ set(other)}"]
        return [w for key in one for w in same(one[key], other[key], f"{path}/{key}")]
    if isinstance(one, list | tuple):
        pairs = enumerate(zip(one, other, strict=True))
        return [where for k, (a, b) in pairs for where in same(a, b, f"{path}/{k}")]
    if torch.is_tensor(one):
        # what the autoencoder has not measured is not a number
        equal = torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    else:
        equal = one == other
    return [] if equal else [path]
