"""The optimizer of every stage."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from torch import nn

from lightning_modules.optimization import adamw


def optimizer(precision: Any, layer: nn.Module) -> torch.optim.Optimizer:
    trainer: Any = SimpleNamespace(precision_plugin=precision, max_steps=10)
    made: Any = adamw(layer.parameters(), trainer, 0.1, 2, 0.3)
    return made["optimizer"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("precision", "fused"),
    [
        (Precision(), True),
        (MixedPrecision("bf16-mixed", "cpu"), True),
        (MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu")), False),
    ],
)
def test_adamw_is_one_kernel_where_gradients_can_be_clipped_before_it(
    precision: MixedPrecision, fused: bool
) -> None:
    """It does what the plain one does, and Lightning lets its gradients be clipped."""
    torch.manual_seed(0)
    layer, plain = nn.Linear(37, 3), nn.Linear(37, 3)
    layer.bias.requires_grad_(False)
    plain.load_state_dict(layer.state_dict())
    ours = optimizer(precision, layer)
    assert ours.defaults["fused"] == fused
    theirs = torch.optim.AdamW([plain.weight], 0.05, weight_decay=0.3)  # half-way to the peak
    for _ in range(3):
        gradient = torch.randn(3, 37)
        layer.weight.grad, plain.weight.grad = gradient.clone(), gradient
        ours.step()
        theirs.step()
    precision.clip_gradients(ours, 1.0)
    torch.testing.assert_close(layer.weight, plain.weight)
    assert torch.equal(layer.bias, plain.bias)
