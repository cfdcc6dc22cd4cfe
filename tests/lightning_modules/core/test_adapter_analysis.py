"""What adapters do in a forward pass, against the layers' own answers and brute force."""

import math

import pytest
import torch
from adapted import build, with_two
from monai.networks.blocks import SABlock
from torch import Tensor

from lightning_modules.core.adapter_analysis import (
    attention,
    attention_overlap,
    change_overlap,
    localization_loss,
    overlaps,
    record,
)
from lightning_modules.core.adapters import active, base_alone, layers
from lightning_modules.core.conditioning import Conditioning

dims = pytest.mark.parametrize("spatial_dims", [2, 3])


def question(spatial_dims: int) -> tuple[Tensor, Tensor, Conditioning]:
    torch.manual_seed(3)
    side = (4,) * spatial_dims
    channels = Conditioning(torch.randn(2, 5, *side))
    return torch.randn(2, 3, *side), torch.tensor([5, 700]), channels


@dims
def test_a_recorded_change_is_what_the_adapter_adds(spatial_dims: int) -> None:
    denoiser, asked = with_two(spatial_dims), question(spatial_dims)
    heard: dict[str, tuple[Tensor, Tensor]] = {}
    for site, layer in layers(denoiser).items():

        def hook(
            module: torch.nn.Module, inputs: tuple[Tensor], output: Tensor, site: str = site
        ) -> None:
            heard[site] = (inputs[0], output)

        layer.register_forward_hook(hook)
    activity = record(denoiser, "calcified", *asked)
    assert active(denoiser) == {"calcified": pytest.approx(1.0)}
    assert len(activity.changes) == len(heard) == 16
    for site, (inputs, output) in heard.items():
        layer = layers(denoiser)[site]
        added = output - layer.base_layer(inputs)
        change = activity.changes[site.removeprefix("base_model.model.")]
        torch.testing.assert_close(layer.scaling["calcified"] * change, added, atol=1e-4, rtol=1e-3)


@dims
def test_attention_maps_are_the_blocks_own(spatial_dims: int) -> None:
    """Against MONAI's block, asked to keep its maps."""
    denoiser, asked = with_two(spatial_dims), question(spatial_dims)
    activity = record(denoiser, "irregular", *asked)
    blocks = {k: m for k, m in denoiser.unet.named_modules() if isinstance(m, SABlock)}
    for block in blocks.values():
        block.use_flash_attention, block.save_attn = False, True
    with torch.no_grad():
        denoiser(*asked)
    assert len(blocks) == len(activity.looks)
    for key, block in blocks.items():
        maps = attention(*activity.looks[key.removeprefix("base_model.model.")])
        torch.testing.assert_close(maps, block.att_mat, atol=1e-5, rtol=1e-4)


def test_overlaps_against_loops() -> None:
    stream = torch.Generator().manual_seed(0)
    first, second = (torch.randn(2, 6, 3, generator=stream) for _ in range(2))
    inside = torch.tensor([[1.0, 1, 0, 0, 1, 0], [0, 0, 1, 1, 1, 1]])
    expected = 0.0
    for sample in range(2):
        cross = ours = theirs = 0.0
        for voxel in range(6):
            if inside[sample, voxel]:
                a, b = first[sample, voxel].norm().item(), second[sample, voxel].norm().item()
                cross, ours, theirs = cross + a * b, ours + a * a, theirs + b * b
        expected += cross / math.sqrt(ours * theirs) / 2
    assert change_overlap(first, second, inside).item() == pytest.approx(expected, rel=1e-5)

    maps = [torch.rand(2, 2, 6, 6, generator=stream).softmax(-1) for _ in range(2)]
    shared, queries = 0.0, 0
    for sample in range(2):
        for voxel in range(6):
            if inside[sample, voxel]:
                queries += 1
                for head in range(2):
                    rows = [m[sample, head, voxel].tolist() for m in maps]
                    shared += sum(map(min, *rows)) / 2
    assert attention_overlap(*maps, inside).item() == pytest.approx(shared / queries, rel=1e-5)


def test_the_extremes() -> None:
    everywhere = torch.ones(1, 4)
    change = torch.tensor([[[1.0], [2], [0], [0]]])
    assert change_overlap(change, -3 * change, everywhere) == pytest.approx(1)
    assert change_overlap(change, change.flip(1), everywhere) == 0
    assert change_overlap(change, 0 * change, everywhere) == 0
    assert change_overlap(change, change, torch.tensor([[0.0, 0, 1, 1]])) == 0
    sharp = torch.eye(4)[None, None]
    assert attention_overlap(sharp, sharp, everywhere) == 1
    assert attention_overlap(sharp, sharp.flip(-1), everywhere) == 0


@dims
def test_two_adapters_are_compared_layer_by_layer(spatial_dims: int) -> None:
    denoiser, asked = with_two(spatial_dims), question(spatial_dims)
    mask = torch.zeros(2, 1, *(8,) * spatial_dims)
    mask[:, :, 2:5, 2:5] = 1
    found = [record(denoiser, name, *asked) for name in ("calcified", "irregular")]
    with base_alone(denoiser), torch.no_grad():
        base = denoiser(*asked)
    torch.testing.assert_close(base, build(spatial_dims)(*asked), atol=1e-5, rtol=1e-4)
    assert active(denoiser) == {"irregular": pytest.approx(1.0)}
    figures = overlaps(found[0], found[1], base, mask)
    assert len(figures) == 16 + 1 + 4
    assert all(0 < float(value) < 1 for value in figures.values())
    alike = overlaps(found[0], found[0], base, mask)
    assert [float(value) for value in alike.values()] == pytest.approx([1.0] * len(alike))


@dims
def test_localization_counts_what_changes_outside_alone(spatial_dims: int) -> None:
    mask = torch.zeros(1, 1, *(8,) * spatial_dims)
    mask[0, 0, :3] = 1  # touches the first two of four latent rows
    base = torch.randn(1, 2, *(4,) * spatial_dims)
    output = base.clone().requires_grad_()
    inside = torch.zeros_like(base)
    inside[:, :, :2] = 5
    assert localization_loss(base + inside, base, mask) == 0
    loss = localization_loss(output + 2 * (1 - inside / 5), base, mask)
    assert loss.item() == pytest.approx(4)
    (gradient,) = torch.autograd.grad(loss, output)
    assert not gradient[:, :, :2].any()
    assert gradient[:, :, 2:].all()
    # a nodule everywhere has no outside
    assert localization_loss(base + 1, base, torch.ones_like(mask)) == 0
