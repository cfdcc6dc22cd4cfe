"""A compiled network answers as the eager one, and attention takes PyTorch's fused kernels."""

import copy
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.core.codec import LatentCodec
from lightning_modules.core.denoiser import Denoiser
from lightning_modules.core.unet import UNetConfig
from lightning_modules.core.window import IntensityWindow

TOLERANCE = 1e-4
"""Of answers and gradients, of the largest: kernels that are fused round in another order."""

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU: no g++"
)


def build(compile: Any) -> Denoiser:
    torch.manual_seed(0)
    codec = LatentCodec(2, channels=(4, 4), latent_channels=3, norm_num_groups=2)
    config = UNetConfig((8,), (True,), 1, 8, 4, 6, 10, compile=compile)
    denoiser = Denoiser(config, codec, {}, IntensityWindow(-1000, 400), 16)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return denoiser


def question(seed: int = 1) -> tuple[Tensor, ...]:
    stream = torch.Generator().manual_seed(seed)
    latent = torch.randn((2, 3, 8, 8), generator=stream)
    tokens = torch.randn((2, 5, 6), generator=stream)
    return latent, torch.tensor([5, 700]), tokens, torch.randn((2, 10), generator=stream)


def gradients(unet: nn.Module) -> list[Tensor]:
    unet.zero_grad()
    unet(*question()).square().mean().backward()
    return [parameter.grad.clone() for parameter in unet.parameters()]  # type: ignore[union-attr]


def assert_near(first: Tensor, second: Tensor, largest: float) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=TOLERANCE * largest)


def trained(unet: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        unet(*question(step)).square().mean().backward()
        optimizer.step()


def adamw(unet: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(unet.parameters(), 1e-2)


@needs_compiler
@pytest.mark.slow
def test_a_compiled_network_trains_samples_and_resumes_as_the_eager_one() -> None:
    compiled, eager = build("default").unet, build(None).unet
    answer = eager(*question()).detach()
    assert_near(compiled(*question()), answer, float(answer.abs().max()))
    wanted = gradients(eager)
    largest = max(float(gradient.abs().max()) for gradient in wanted)
    for found, expected in zip(gradients(compiled), wanted, strict=True):
        assert_near(found, expected, largest)
    with torch.no_grad():  # a graph of its own
        assert_near(compiled(*question()), answer, float(answer.abs().max()))

    optimizer = adamw(compiled)
    trained(compiled, optimizer, range(2))
    weights, state = copy.deepcopy((compiled.state_dict(), optimizer.state_dict()))
    trained(compiled, optimizer, range(2, 4))
    resumed = build("default").unet
    resumed.load_state_dict(weights)
    again = adamw(resumed)
    again.load_state_dict(state)
    trained(resumed, again, range(2, 4))
    for name, value in compiled.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_weights_have_the_names_of_the_eager_network() -> None:
    assert build("default").state_dict().keys() == build(None).state_dict().keys()


@pytest.mark.parametrize("mode", [True, "fast"])
def test_another_mode_is_refused(mode: Any) -> None:
    with pytest.raises(ValueError, match=rf"unet.compile is {mode!r}, expected null or one of"):
        UNetConfig(compile=mode)


def test_attention_takes_the_fused_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def spy(query: Tensor, key: Tensor, value: Tensor, **settings: Any) -> Tensor:
        asked.append((query.shape[2], key.shape[2]))
        return fused(query, key, value, **settings)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    unet = build(None).unet
    unet(*question())
    blocks = [m for m in unet.modules() if hasattr(m, "attn1")]
    # each block looks at its own 64 places, then at the 5 tokens
    assert asked.count((64, 64)) == asked.count((64, 5)) == len(blocks) > 0
