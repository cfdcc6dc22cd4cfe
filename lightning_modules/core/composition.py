"""Several adapters on one denoiser: how far their updates overlap, and a loss against it.

With dW = f B A, the overlap of input subspaces |dW1 dW2^T|^2 vanishes where A1 A2^T does, that of
output subspaces |dW1^T dW2|^2 where B1^T B2 does. Both are traces of rank x rank matrices: no dense
update is ever built.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from lightning_modules.core.adapters import LowRank

Subspace = Literal["input", "output"]
SUBSPACES: tuple[Subspace, ...] = ("input", "output")
Form = Literal["input", "output", "both", "a_only"]


def squared_norm(update: LowRank) -> Tensor:
    """Squared Frobenius norm of f B A, a scalar."""
    return update.factor**2 * ((update.b.T @ update.b) * (update.a @ update.a.T)).sum()


def overlap(first: LowRank, second: LowRank, subspace: Subspace) -> Tensor:
    """|dW1 dW2^T|^2 (`input`; paper A, eq. 4) or |dW1^T dW2|^2 (`output`; eq. 8), a scalar."""
    if subspace == "input":
        cross = first.a @ second.a.T
        ours, theirs = first.b.T @ first.b, second.b.T @ second.b
    else:
        cross = first.b.T @ second.b
        ours, theirs = first.a @ first.a.T, second.a @ second.a.T
    # tr(cross theirs cross^T ours), all rank x rank
    trace = ((ours @ cross) * (cross @ theirs)).sum()
    return (first.factor * second.factor) ** 2 * trace


def normalized_overlap(first: LowRank, second: LowRank, subspace: Subspace) -> Tensor:
    """The overlap over the product of the squared norms, in [0, 1]; 0 where an update is zero.

    The overlap itself also falls when the updates shrink; this does not.
    """
    product = squared_norm(first) * squared_norm(second)
    share = overlap(first, second, subspace) / product.clamp(min=torch.finfo(product.dtype).tiny)
    return torch.where(product > 0, share, 0.0)


FORMS: dict[Form, Callable[[LowRank, LowRank], list[Tensor]]] = {
    "input": lambda one, other: [overlap(one, other, "input")],
    "output": lambda one, other: [overlap(one, other, "output")],
    "both": lambda one, other: [overlap(one, other, subspace) for subspace in SUBSPACES],
    "a_only": lambda one, other: [(one.a @ other.a.T).square().sum()],
}
"""What is summed for a pair of updates; see `orthogonality_loss`."""


def orthogonality_loss(adapters: Sequence[Sequence[LowRank]], form: Form = "input") -> Tensor:
    """Overlap of every pair of adapters, summed over pairs, mean over layers (paper A, 4.4).

    Args:
        adapters: of each adapter its updates, all of the same layers in the same order.
        form: `input` is eq. 4, `output` eq. 8, `both` their sum. Their gradient is zero as long
            as B is, so they bite only once the updates have grown; `a_only`, |A1 A2^T|^2 (O-LoRA,
            Wang et al. 2023), has one from the first step.

    Returns:
        A scalar.

    Raises:
        ValueError: If there are fewer than two adapters, or they adapt different layers.
    """
    if len(adapters) < 2:
        message = f"{len(adapters)} adapter(s) cannot overlap: give two or more."
        raise ValueError(message)
    sites = [[update.site for update in adapter] for adapter in adapters]
    if any(other != sites[0] for other in sites):
        message = "The adapters adapt different layers: train them with the same targets."
        raise ValueError(message)
    losses = [
        loss
        for layer in zip(*adapters, strict=True)
        for first, second in combinations(layer, 2)
        for loss in FORMS[form](first, second)
    ]
    return torch.stack(losses).sum() / len(sites[0])
