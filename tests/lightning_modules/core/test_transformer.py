"""The transformer: against a plain one, of the paper's size, and below adapters like the UNet."""

import math
from typing import Any

import pytest
import torch
from adapted import BOTH, TRANSFORMER, added_densely, answer, build, with_two
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, silu

from lightning_modules.core.adapter_analysis import overlaps, record
from lightning_modules.core.adapters import AdapterConfig, add_adapter, layers, load_base
from lightning_modules.core.conditioning import Conditioning, LatentGeometry
from lightning_modules.core.merging import Composite, KLoRA, Switch, Weighted
from lightning_modules.core.transformer import (
    DiffusionTransformer,
    TransformerBlock,
    TransformerConfig,
    positions,
)
from lightning_modules.core.window import IntensityWindow

dims = pytest.mark.parametrize("spatial_dims", [2, 3])

PRESETS = {"S/2": (384, 12, 6), "B/2": (768, 12, 12), "XL/2": (1152, 28, 16)}


def network(
    spatial_dims: int = 2, with_tokens: bool = False, **settings: Any
) -> DiffusionTransformer:
    torch.manual_seed(0)
    config = TransformerConfig(**{"width": 24, "depth": 2, "heads": 3, "token_dim": 6} | settings)
    window = IntensityWindow(-1000, 400)
    geometry = LatentGeometry(spatial_dims, 2, 3, 6, config.embedding_dim, window, 16)
    return DiffusionTransformer(config, geometry, 5, with_tokens)


def moved(module: torch.nn.Module) -> torch.nn.Module:
    """Off its zeros, which would hide everything."""
    stream = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=stream)
    return module


def question(spatial_dims: int, side: int = 4) -> tuple[Tensor, ...]:
    stream = torch.Generator().manual_seed(2)
    inputs = torch.randn(2, 5, *(side,) * spatial_dims, generator=stream)
    tokens = torch.randn(2, 3, 6, generator=stream)
    embedding = torch.randn(2, 128, generator=stream)
    return inputs, torch.tensor([5, 700]), tokens, embedding


def plain_block(block: Any, patches: Tensor, condition: Tensor, tokens: Tensor) -> Tensor:
    """DiT's block with adaLN-zero and cross-attention, from the papers' equations."""

    def attend(part: Any, x: Tensor, y: Tensor, heads: int) -> Tensor:
        q, k, v = (
            linear(z, p.weight, p.bias).unflatten(-1, (heads, -1)).transpose(1, 2)
            for z, p in ((x, part.to_q), (y, part.to_k), (y, part.to_v))
        )
        weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
        out = (weights @ v).transpose(1, 2).flatten(2)
        return linear(out, part.out_proj.weight, part.out_proj.bias)

    def norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]

    last = block.modulation[1]
    s1, c1, g1, s2, c2, g2 = linear(silu(condition), last.weight, last.bias).chunk(6, 1)
    h = norm(patches, s1, c1)
    patches = patches + g1[:, None] * attend(block.attn1, h, h, 3)
    patches = patches + attend(block.attn2, patches, tokens, 3)
    first, second = block.mlp.linear1, block.mlp.linear2
    hidden = gelu(linear(norm(patches, s2, c2), first.weight, first.bias), approximate="tanh")
    return patches + g2[:, None] * linear(hidden, second.weight, second.bias)


@torch.no_grad()
def test_a_block_is_that_of_the_papers() -> None:
    block = moved(TransformerBlock(24, 3, 6))
    stream = torch.Generator().manual_seed(3)
    patches, condition, tokens = (
        torch.randn(shape, generator=stream) for shape in ((2, 5, 24), (2, 24), (2, 3, 6))
    )
    ours = block(patches, condition, tokens)
    torch.testing.assert_close(ours, plain_block(block, patches, condition, tokens))
    assert (ours - patches).abs().max() > 0.1
    # it begins as the identity
    assert torch.equal(TransformerBlock(24, 3, 6)(patches, condition, tokens), patches)


@dims
@torch.no_grad()
def test_a_patch_goes_to_its_own_place(spatial_dims: int) -> None:
    """With silent blocks the answer at a place is that of its patch alone."""
    silent = network(spatial_dims)
    assert not silent(*question(spatial_dims)).any()  # it begins with zero
    torch.nn.init.normal_(silent.join.weight)
    inputs, *rest = question(spatial_dims, side=6)
    changed = inputs.clone()
    changed[(..., *(slice(2, 4),) * spatial_dims)] += 1
    before, after = silent(inputs, *rest), silent(changed, *rest)
    assert before.shape == (2, 3, *(6,) * spatial_dims)
    inside = torch.zeros(6, dtype=torch.bool)
    inside[2:4] = True
    where = (before != after).any(1).any(0)
    place = torch.zeros_like(where)
    place[(slice(2, 4),) * spatial_dims] = True
    assert torch.equal(where, place)


@pytest.mark.parametrize(("grid", "width"), [((3, 4), 24), ((2, 3, 4), 24), ((16, 16), 384)])
def test_positions_tell_all_places_apart(grid: tuple[int, ...], width: int) -> None:
    found = positions(grid, width, torch.device("cpu"))
    assert found.shape == (math.prod(grid), width)
    distances = torch.cdist(found, found) + torch.eye(len(found))
    assert distances.min() > 0.1
    # along one axis alone, the other axes' shares are the same
    share = width // len(grid)
    assert torch.equal(found[0, : -share or None][:share], found[1, :share])


@pytest.mark.parametrize(
    ("preset", "millions"), [("S/2", 33), ("B/2", 130), ("XL/2", 675)], ids=PRESETS
)
def test_presets_have_the_papers_sizes(preset: str, millions: int) -> None:
    """Table 1 of the paper; ours have three channels for mask and background."""
    width, depth, heads = PRESETS[preset]
    with torch.device("meta"):
        made = network(width=width, depth=depth, heads=heads, embedding_dim=1024)
    assert round(sum(p.numel() for p in made.parameters()) / 1e6) == millions


def test_adapters_are_on_the_attention_of_every_block() -> None:
    denoiser = build(config=TransformerConfig(24, 28, 3, 2, 6, 10))
    add_adapter(denoiser, "calcified", AdapterConfig(2, 2.0))
    expected = {
        f"base_model.model.blocks.{block}.attn1.{part}"
        for block in range(28)
        for part in ("to_q", "to_k", "to_v", "out_proj")
    }
    assert {*layers(denoiser)} == expected


@dims
@torch.no_grad()
def test_tokens_are_heard_where_conditions_give_them(spatial_dims: int) -> None:
    inputs, timestep, tokens, embedding = question(spatial_dims)
    for with_tokens in (False, True):
        made = moved(network(spatial_dims, with_tokens))
        one, other = (made(inputs, timestep, t, embedding) for t in (tokens, tokens + 1))
        assert torch.equal(one, other) != with_tokens
        for changed in (
            (inputs, timestep + 9, tokens, embedding),
            (*question(spatial_dims)[:3], -embedding),
        ):
            assert not torch.allclose(made(*changed), one, atol=1e-4)


@dims
@torch.no_grad()
def test_adapters_are_added_to_it_as_to_the_unet(spatial_dims: int) -> None:
    denoiser = with_two(spatial_dims, TRANSFORMER)
    alone = build(spatial_dims, TRANSFORMER)
    base = answer(alone, spatial_dims)
    merged = Weighted().merge(with_two(spatial_dims, TRANSFORMER), BOTH)
    expected = added_densely(BOTH, spatial_dims, TRANSFORMER)
    torch.testing.assert_close(answer(merged, spatial_dims), expected, atol=1e-4, rtol=1e-4)
    assert (expected - base).abs().max() > 1e-2
    other = build(spatial_dims, TRANSFORMER)
    load_base(denoiser, other.state_dict())


@pytest.mark.parametrize(
    "merging",
    [
        *(Weighted(kind) for kind in ("sum", "cat", "svd", "ties", "dare", "linear")),
        Switch(),
        Composite(),
        KLoRA(),
    ],
    ids=lambda merging: getattr(merging, "kind", type(merging).__name__),
)
@torch.no_grad()
def test_every_merging_works_on_it(merging: Any) -> None:
    base = answer(build(config=TRANSFORMER))
    made = merging.merge(with_two(config=TRANSFORMER), BOTH)
    output = answer(made)
    assert torch.isfinite(output).all()
    assert (output - base).abs().max() > 1e-3


@dims
def test_adapters_are_analysed_on_it(spatial_dims: int) -> None:
    denoiser = with_two(spatial_dims, TRANSFORMER)
    stream = torch.Generator().manual_seed(1)
    x_t = torch.randn(2, 3, *(4,) * spatial_dims, generator=stream)
    asked = (x_t, torch.tensor([5, 700]), Conditioning(torch.randn(2, 5, *(4,) * spatial_dims)))
    with torch.no_grad():
        base = build(spatial_dims, TRANSFORMER)(*asked)
    mask = torch.zeros(2, 1, *(8,) * spatial_dims)
    mask[(..., *(slice(2, 6),) * spatial_dims)] = 1
    one, other = (record(denoiser, name, *asked) for name in ("calcified", "irregular"))
    figures = overlaps(one, other, base, mask)
    blocks = {f"blocks.{n}.attn1" for n in range(2)}
    parts = ("to_q", "to_k", "to_v", "out_proj")
    changes = {f"change/{block}.{part}" for block in blocks for part in parts}
    assert {*figures} == changes | {"change/output"} | {f"attention/{block}" for block in blocks}
    assert all(0 < float(value) < 1 for value in figures.values())
    same = overlaps(one, one, base, mask)
    assert all(float(value) == pytest.approx(1, abs=1e-5) for value in same.values())


@dims
def test_recomputing_changes_no_gradient(spatial_dims: int) -> None:
    gradients = []
    for checkpointing in (False, True):
        config = TransformerConfig(24, 2, 3, 2, 6, 10, checkpointing=checkpointing)
        denoiser = build(spatial_dims, config)
        answer(denoiser, spatial_dims).square().sum().backward()
        gradients.append([p.grad for p in denoiser.unet.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"width": 32, "heads": 4}, "width is 32: give a multiple of 12"),
        ({"heads": 5}, r"heads, which is 5, divides"),
        ({"depth": 0}, r"transformer\.depth is 0, expected 1 or more"),
        ({"compile": "fast"}, r"transformer\.compile is 'fast'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TransformerConfig(**settings)


def test_a_latent_that_cannot_be_cut_is_refused() -> None:
    inputs, *rest = question(2, side=5)
    with pytest.raises(ValueError, match=r"\(5, 5\) voxels.*multiple of.*patch_size, 2"):
        network()(inputs, *rest)
