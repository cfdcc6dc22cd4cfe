"""What a computation keeps for its backward pass."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def saved_bytes(function: Callable[[], Any], besides: Iterable[Tensor] = ()) -> int:
    """Bytes of the tensors that a function keeps for its backward pass, each counted once.

    Args:
        function: that is called.
        besides: tensors that are there anyhow and are not counted, such as weights.
    """
    known = {tensor.untyped_storage()._cdata for tensor in besides}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            seen[storage._cdata] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        kept = function()
    del kept
    return sum(seen.values())
