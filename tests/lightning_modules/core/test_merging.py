"""Merging: each strategy against its definition."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from adapted import BOTH, added_densely, answer, build, with_two
from torch import Tensor

from lightning_modules.core.adapters import updates
from lightning_modules.core.conditioning import Conditioning
from lightning_modules.core.denoiser import Denoiser
from lightning_modules.core.merging import Composite, KLoRA, Merging, Switch, Weighted

EVERY = [*[Weighted(kind) for kind in ("sum", "cat", "svd", "ties", "dare", "linear")]]  # type: ignore[arg-type]
EVERY += [Switch(), Composite(), KLoRA()]  # type: ignore[list-item]


def at(network: Any, timestep: int) -> Tensor:
    stream = torch.Generator().manual_seed(1)
    channels = torch.randn(2, 5, 4, 4, generator=stream)
    latent = torch.randn(2, 3, 4, 4, generator=stream)
    with torch.no_grad():
        result: Tensor = network(latent, torch.full((2,), timestep), Conditioning(channels))
    return result


def densely(strengths: dict[str, float], timestep: int) -> Tensor:
    """With the updates added to a plain network's weights."""
    trained, plain = with_two(), build()
    layers = dict(plain.unet.named_modules())
    with torch.no_grad():
        for name, strength in strengths.items():
            for low in updates(trained, name):
                site = low.site.removeprefix("base_model.model.")
                layers[site].weight += strength * low.factor * low.b @ low.a
    return at(plain, timestep)


@pytest.mark.parametrize("merging", EVERY)
def test_without_an_adapter_it_is_the_base(merging: Merging) -> None:
    torch.testing.assert_close(answer(merging.merge(with_two(), {})), answer(build()))  # type: ignore[arg-type]


@pytest.mark.parametrize("merging", [Weighted(), Weighted("cat"), Switch(), Composite(), KLoRA()])
def test_one_adapter_is_that_adapter(merging: Merging) -> None:
    one = {"calcified": 1.5}
    network: Any = merging.merge(with_two(), one)
    torch.testing.assert_close(answer(network), added_densely(one), atol=1e-4, rtol=1e-4)


def test_switching_has_one_adapter_at_a_time_and_begins_with_the_first() -> None:
    network = Switch(bands=4).merge(with_two(), BOTH)
    order = ["calcified", "irregular", "calcified", "irregular"]
    for band, name in enumerate(order):
        timestep = 999 - 250 * band
        torch.testing.assert_close(
            at(network, timestep), densely({name: BOTH[name]}, timestep), atol=1e-4, rtol=1e-4
        )


def test_every_adapter_has_as_many_turns() -> None:
    network: Any = Switch(bands=5).merge(with_two(), BOTH)
    assert network.bands == 6
    for timestep, name in ((999, "calcified"), (834, "calcified"), (833, "irregular")):
        expected = densely({name: BOTH[name]}, timestep)
        torch.testing.assert_close(at(network, timestep), expected, atol=1e-4, rtol=1e-4)


def test_the_composite_is_the_mean_of_the_answers() -> None:
    network = Composite().merge(with_two(), BOTH)
    alone = [densely({name: strength}, 500) for name, strength in BOTH.items()]
    torch.testing.assert_close(at(network, 500), sum(alone) / 2, atol=1e-4, rtol=1e-4)


def test_k_lora_chooses_by_the_largest_entries_of_each_layer() -> None:
    """The choice against one by sorting dense updates; the answer against dense weights."""
    trained, plain = with_two(), build()
    sizes = {name: 0.0 for name in BOTH}
    dense: dict[str, dict[str, Tensor]] = {}
    for name, strength in BOTH.items():
        for low in updates(trained, name):
            site = low.site.removeprefix("base_model.model.")
            dense.setdefault(site, {})[name] = (strength * low.factor * low.b @ low.a).detach()
            sizes[name] += float(dense[site][name].abs().sum())
    balance = sizes["calcified"] / sizes["irregular"]
    for timestep in (999, 500, 0):
        network, chosen = deepcopy(plain), []
        layers = dict(network.unet.named_modules())
        for site, of in dense.items():
            tops = {n: sorted(w.abs().flatten().tolist(), reverse=True)[:9] for n, w in of.items()}
            weight = 1.5 * (1 - timestep / 1000) + 0.5
            first = sum(tops["calcified"]) >= weight * balance * sum(tops["irregular"])
            chosen.append(first)
            with torch.no_grad():
                layers[site].weight += of["calcified" if first else "irregular"]
        merged = KLoRA().merge(with_two(), BOTH)
        torch.testing.assert_close(
            at(merged, timestep), at(network, timestep), atol=1e-4, rtol=1e-4
        )
        assert all(chosen) == (timestep == 999)
        assert any(chosen) != (timestep == 0)


def test_what_is_not_defined_is_said() -> None:
    with pytest.raises(ValueError, match="KLoRA chooses between two adapters"):
        KLoRA().merge(with_two(), {"a": 1.0, "b": 1.0, "c": 1.0})
    with pytest.raises(ValueError, match="There is no adapter 'x'"):
        KLoRA().merge(with_two(), {"calcified": 1.0, "x": 1.0})
    with pytest.raises(ValueError, match="bands is 0"):
        Switch(bands=0)
    with pytest.raises(ValueError, match="density is 0"):
        Weighted("ties", density=0)


def test_conditions_are_the_bases() -> None:
    denoiser: Denoiser = with_two()
    network: Any = Composite().merge(denoiser, BOTH)
    assert network.conditioners is denoiser.conditioners
