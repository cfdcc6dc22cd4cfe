"""ZipLoRA (Shah et al. 2023): adapters joined by learning which inputs each of them reads.

In the merged network an adapter's update is B A diag(m), with one merger coefficient for each value
that the layer reads, 1 at first. A and B stay as they are.
"""

from collections.abc import Sequence
from copy import deepcopy
from itertools import combinations
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_modules.core.adapters import adapter_names, layers, updates
from lightning_modules.core.denoiser import Denoiser


class MergerCoefficients(nn.Module):
    """Scales the columns of A, `(rank, in)`, as long as it is on."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.ones(width))
        self.on = True

    def forward(self, a: Tensor) -> Tensor:
        """A diag(m), or A."""
        return a * self.values if self.on else a


def add_coefficients(denoiser: Denoiser) -> None:
    """Give every adapter merger coefficients; from now on only they are trained."""
    for name in adapter_names(denoiser):
        for low in updates(denoiser, name):
            for weight in (low.a, low.b):
                weight.requires_grad_(False).fixed = True  # type: ignore[attr-defined]
        for layer in layers(denoiser).values():
            part = cast(nn.Linear, layer.lora_A[name])
            parametrize.register_parametrization(
                part, "weight", MergerCoefficients(part.in_features).to(part.weight)
            )


def coefficients(denoiser: Denoiser, name: str) -> list[MergerCoefficients]:
    """An adapter's merger coefficients, layer by layer."""
    return [
        cast(MergerCoefficients, layer.lora_A[name].parametrizations.weight[0])  # type: ignore[union-attr, index]
        for layer in layers(denoiser).values()
    ]


def use_coefficients(denoiser: Denoiser, on: bool) -> None:
    """Let the merger coefficients take part, or not."""
    for name in adapter_names(denoiser):
        for coefficient in coefficients(denoiser, name):
            coefficient.on = on


def coefficient_overlap(adapters: Sequence[Sequence[MergerCoefficients]]) -> Tensor:
    """Mean of |m_i m_j| over inputs, summed over pairs and layers (ZipLoRA, eq. 4), a scalar."""
    products = [
        (first.values * second.values).abs().mean()
        for layer in zip(*adapters, strict=True)
        for first, second in combinations(layer, 2)
    ]
    return torch.stack(products).sum()


def with_coefficients(denoiser: Denoiser) -> Denoiser:
    """A copy whose adapters have the coefficients in their A: plain adapters, to be added up."""
    plain = deepcopy(denoiser)
    for layer in layers(plain).values():
        for name in layer.lora_A:
            weight = cast(Tensor, layer.lora_A[name].weight).detach().clone()
            linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            linear.weight = nn.Parameter(weight, requires_grad=False)
            layer.lora_A[name] = linear
    return plain
