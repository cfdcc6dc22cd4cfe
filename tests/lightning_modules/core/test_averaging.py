"""The moving average of weights, against PyTorch's for one weight at a time."""

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lightning_modules.core.averaging import MovingAverage

DECAY = 0.3


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.PReLU())


def one_at_a_time(ema: Tensor, value: Tensor, updates: Tensor | int) -> Tensor:
    warm = min(DECAY, (1 + int(updates)) / (10 + int(updates)))
    return warm * ema + (1 - warm) * value


def test_it_is_the_average_of_one_weight_at_a_time() -> None:
    """Until long after the warm-up, with buffers that follow; a checkpoint in between."""
    torch.manual_seed(0)
    trained = network()
    ours = MovingAverage(trained, DECAY)
    theirs = AveragedModel(trained, avg_fn=one_at_a_time)
    for step in range(12):
        for value in (*trained.parameters(), *trained.buffers()):
            value.data.copy_((10 * torch.rand(value.shape)).to(value.dtype))
        ours.update(trained)
        theirs.update_parameters(trained)
        expected = theirs.module.state_dict()
        for name, value in ours.module.state_dict().items():
            torch.testing.assert_close(value, expected[name], msg=f"{name} in step {step}")
        saved, ours = ours.state_dict(), MovingAverage(network(), DECAY)
        ours.load_state_dict(saved)
    assert ours.updates == 12
    assert not any(parameter.requires_grad for parameter in ours.parameters())
    assert all(parameter.requires_grad for parameter in trained.parameters())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=f"ema_decay is {decay}"):
        MovingAverage(network(), decay)
