"""Adapters: nothing at first, then exactly the sum of their low-rank updates."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import BOTH, CONFIG, added_densely, answer, build, grow, make, with_two
from monai.networks.nets import DiffusionModelUNet
from peft import PeftModel
from torch import Tensor

from lightning_modules.core.adapters import (
    AdapterConfig,
    activate,
    adapter_names,
    add_adapter,
    fuse,
    load_adapter,
    merge_adapters,
    save_adapter,
    updates,
)
from lightning_modules.core.codec import LatentCodec
from lightning_modules.core.denoiser import Denoiser
from lightning_modules.core.unet import UNetConfig

dims = pytest.mark.parametrize("spatial_dims", [2, 3])


@dims
def test_a_new_adapter_changes_nothing_and_only_it_is_trained(spatial_dims: int) -> None:
    denoiser = build(spatial_dims)
    before = answer(denoiser, spatial_dims)
    add_adapter(denoiser, "calcified", CONFIG)
    assert torch.equal(answer(denoiser, spatial_dims), before)
    trained = {n for n, p in denoiser.named_parameters() if p.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)
    # queries, keys, values and projection of each of 4 self-attentions, A and B of each
    assert len(trained) == 2 * 4 * 4


@dims
@pytest.mark.parametrize(
    "strengths",
    [{"calcified": 1.0}, {"irregular": 0.5}, {"calcified": 2.0, "irregular": -0.7}],
)
def test_active_adapters_are_the_sum_of_their_updates(
    strengths: dict[str, float], spatial_dims: int
) -> None:
    denoiser = with_two(spatial_dims)
    activate(denoiser, strengths)
    expected = added_densely(strengths, spatial_dims)
    torch.testing.assert_close(answer(denoiser, spatial_dims), expected, atol=1e-4, rtol=1e-4)
    for name, strength in strengths.items():
        factors = [low.factor for low in updates(denoiser, name)]
        assert factors == pytest.approx([2 * strength] * len(factors))


def test_no_adapter_is_the_base_and_gradients_come_back() -> None:
    denoiser, base = with_two(), answer(build())
    assert not torch.allclose(answer(denoiser), base)
    activate(denoiser, {})
    assert torch.equal(answer(denoiser), base)
    activate(denoiser, {"calcified": 1.0})
    # peft takes the gradients from an adapter that is not active: here all keep them
    kept = {name for name in adapter_names(denoiser) for low in updates(denoiser, name)
            if low.a.requires_grad and low.b.requires_grad}  # fmt: skip
    assert kept == {"calcified", "irregular"}
    assert not any(p.requires_grad for n, p in denoiser.named_parameters() if ".lora_" not in n)


def test_an_adapter_is_saved_for_plain_peft_and_read_again(tmp_path: Path) -> None:
    denoiser = with_two()
    activate(denoiser, {"irregular": 1.0})
    expected = answer(denoiser)
    for _ in range(2):  # an older one is replaced
        save_adapter(denoiser, "irregular", tmp_path / "adapters/irregular", [])
    written = {path.name for path in (tmp_path / "adapters/irregular").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= written
    assert {path.name for path in (tmp_path / "adapters").iterdir()} == {"irregular"}
    stored = json.loads((tmp_path / "adapters/irregular/adapter_config.json").read_text())
    assert (stored["r"], stored["lora_alpha"]) == (3, 6.0)

    again = build()
    load_adapter(again, "border", tmp_path / "adapters/irregular")
    assert adapter_names(again) == ["border"]
    torch.testing.assert_close(answer(again), expected)
    load_adapter(again, "second", tmp_path / "adapters/irregular")
    assert adapter_names(again) == ["border", "second"]

    plain = build()
    assert isinstance(plain.unet, DiffusionModelUNet)
    plain.unet = PeftModel.from_pretrained(plain.unet, str(tmp_path / "adapters/irregular"))
    torch.testing.assert_close(answer(plain), expected)


def dense(denoiser: Denoiser, names: dict[str, float]) -> dict[str, Tensor]:
    """The sum of updates of each layer, with the scalings that the layers have."""
    total: dict[str, Tensor] = {}
    for name in names:
        for low in updates(denoiser, name):
            part = (low.factor * low.b @ low.a).detach()
            total[low.site] = total.get(low.site, torch.zeros_like(part)) + part
    return total


@pytest.mark.parametrize("strategy", ["sum", "cat"])
def test_sum_and_cat_are_exact(strategy: Any) -> None:
    denoiser = with_two()
    merge_adapters(denoiser, BOTH, strategy)
    expected = added_densely(BOTH)
    torch.testing.assert_close(answer(denoiser), expected, atol=1e-4, rtol=1e-4)


def test_svd_is_the_best_update_of_the_largest_rank() -> None:
    denoiser = with_two()
    merge_adapters(denoiser, BOTH, "sum")
    whole = dense(denoiser, BOTH)
    merge_adapters(denoiser, BOTH, "svd")
    for low in updates(denoiser, "merged"):
        left, values, right = torch.linalg.svd(whole[low.site])
        best = left[:, :3] @ torch.diag(values[:3]) @ right[:3]
        torch.testing.assert_close(low.factor * low.b @ low.a, best, atol=1e-4, rtol=1e-3)


def test_linear_has_cross_terms_that_nobody_learned() -> None:
    denoiser = with_two()
    merge_adapters(denoiser, {"calcified": 1.0, "irregular": 1.0}, "sum")
    whole = dense(denoiser, BOTH)
    merge_adapters(denoiser, {"calcified": 1.0, "irregular": 1.0}, "linear")
    errors = [
        float((low.factor * low.b @ low.a - whole[low.site]).norm() / whole[low.site].norm())
        for low in updates(denoiser, "merged")
    ]
    assert min(errors) > 0.5


@pytest.mark.parametrize("strategy", ["ties", "dare"])
def test_thinning_keeps_everything_at_density_one_and_less_below(strategy: Any) -> None:
    one = {"calcified": 1.5}
    denoiser = with_two()
    merge_adapters(denoiser, one, "sum")
    expected = answer(denoiser)
    merge_adapters(denoiser, one, strategy, density=1.0)
    torch.testing.assert_close(answer(denoiser), expected, atol=1e-3, rtol=1e-3)
    merge_adapters(denoiser, BOTH, strategy, density=0.3, seed=1)
    first = answer(denoiser)
    assert not torch.allclose(first, added_densely(BOTH), atol=1e-3)
    merge_adapters(denoiser, BOTH, strategy, density=0.3, seed=1)
    torch.testing.assert_close(answer(denoiser), first)


@pytest.mark.parametrize("strategy", ["sum", "cat"])
def test_fused_adapters_change_nothing_but_the_cost(strategy: Any) -> None:
    denoiser = with_two()
    merge_adapters(denoiser, BOTH, strategy)
    expected = answer(denoiser)
    fuse(denoiser)
    torch.testing.assert_close(answer(denoiser), expected, atol=1e-4, rtol=1e-4)
    for name in adapter_names(denoiser):
        for low in updates(denoiser, name):
            low.b.data.fill_(torch.nan)  # not looked at any more
    torch.testing.assert_close(answer(denoiser), expected, atol=1e-4, rtol=1e-4)


def test_an_adapter_begins_as_its_seed_says_whatever_was_drawn_before() -> None:
    begun = []
    for seed, name in ((0, "a1"), (0, "a1"), (1, "a1"), (0, "a2")):
        denoiser = build()
        torch.manual_seed(len(begun))
        add_adapter(denoiser, name, CONFIG, seed)
        begun.append([low.a.detach().clone() for low in updates(denoiser, name)])
    first, again, *others = begun
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for other in others:
        assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    for layer in first:  # uniform within 1 / sqrt(in)
        bound = layer.shape[1] ** -0.5
        assert layer.abs().max() <= bound
        assert layer.std().item() == pytest.approx(bound / 3**0.5, rel=0.3)


def test_orthogonal_bases_never_meet_and_stay(tmp_path: Path) -> None:
    """Orthogonal Adaptation: trained one by one, two adapters do not overlap in what they read."""
    bases = []
    for number in (0, 1):
        denoiser = build()
        add_adapter(denoiser, "a", AdapterConfig(3, 6.0, basis=number))
        grow(denoiser, "a", number)
        before = [low.a.clone() for low in updates(denoiser, "a")]
        trained = [p for p in denoiser.parameters() if p.requires_grad]
        assert len(trained) == len(before)  # only B
        answer(denoiser).square().mean().backward()
        torch.optim.SGD(trained, 0.1).step()
        activate(denoiser, {"a": 2.0})  # gives no gradients back
        for low, was in zip(updates(denoiser, "a"), before, strict=True):
            assert torch.equal(low.a, was)
            assert not low.a.requires_grad
        bases.append(list(updates(denoiser, "a")))
        save_adapter(denoiser, "a", tmp_path / str(number), [])
    for first, second in zip(*bases, strict=True):
        torch.testing.assert_close(first.a @ second.a.T, torch.zeros(3, 3), atol=1e-6, rtol=0)
        gram = first.a @ first.a.T
        torch.testing.assert_close(gram, gram[0, 0] * torch.eye(3), atol=1e-5, rtol=0)
        assert gram[0, 0] > 0.01

    # merged by their sum, each still answers as if alone to what it reads
    both = build()
    for number in (0, 1):
        load_adapter(both, str(number), tmp_path / str(number))
    for first, second in zip(updates(both, "0"), updates(both, "1"), strict=True):
        assert torch.linalg.matrix_norm(second.b @ second.a @ first.a.T) < 1e-5


def test_a_basis_that_the_layers_do_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"basis is 5, but .* reads 16 values, which hold 5 bases"):
        add_adapter(build(), "a", AdapterConfig(3, 6.0, basis=5))


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    denoiser: Any = build()
    with pytest.raises(ValueError, match="fit no layer"):
        add_adapter(denoiser, "a", AdapterConfig(targets="nothing"))
    add_adapter(denoiser, "a", CONFIG)
    with pytest.raises(ValueError, match="an adapter 'a' already"):
        add_adapter(denoiser, "a", CONFIG)
    with pytest.raises(ValueError, match=r"no adapter 'b', only \['a'\]"):
        activate(denoiser, {"b": 1.0})
    with pytest.raises(FileNotFoundError, match=r"holds no adapter_config\.json"):
        load_adapter(denoiser, "b", tmp_path)
    save_adapter(denoiser, "a", tmp_path / "a", [])
    codec = LatentCodec(2, channels=(4, 4), latent_channels=3, norm_num_groups=2)
    wider = make(UNetConfig((16, 32), (False, True), 1, 8, 4, 6, 10), codec)
    with pytest.raises(ValueError, match="does not fit the network"):
        load_adapter(wider, "a", tmp_path / "a")
