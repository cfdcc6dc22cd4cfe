"""The denoiser: shapes, what reaches it, and that copies and recomputation change nothing."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.batch import NoduleBatch
from lightning_modules.core.codec import LatentCodec
from lightning_modules.core.conditioners import (
    AttributeConditioner,
    BackgroundConditioner,
    HistogramConditioner,
    MaskConditioner,
    SubtypeConditioner,
)
from lightning_modules.core.conditioning import Conditioner, Conditioning, Surroundings
from lightning_modules.core.denoiser import Denoiser
from lightning_modules.core.unet import UNetConfig
from lightning_modules.core.window import IntensityWindow

MakeBatch = Callable[..., NoduleBatch]

CONDITIONERS: dict[str, Callable[[], Conditioner]] = {
    "mask": MaskConditioner,
    "background": BackgroundConditioner,
    "subtype": SubtypeConditioner,
    "histogram": HistogramConditioner,
    "attributes": lambda: AttributeConditioner({"diameter_mm": (3, 30)}),
}

dims = pytest.mark.parametrize("spatial_dims", [2, 3])


def build(
    spatial_dims: int,
    names: tuple[str, ...] = tuple(CONDITIONERS),
    checkpointing: bool = False,
    seed: int = 0,
) -> Denoiser:
    """A tiny denoiser, moved off its zero-initialized layers, which would hide everything."""
    torch.manual_seed(seed)
    codec = LatentCodec(spatial_dims, channels=(4, 4), latent_channels=3, norm_num_groups=2)
    config = UNetConfig(
        channels=(8, 16),
        attention=(False, True),
        head_channels=8,
        norm_num_groups=4,
        token_dim=6,
        embedding_dim=10,
        checkpointing=checkpointing,
    )
    conditioners = {name: CONDITIONERS[name]() for name in names}
    denoiser = Denoiser(config, codec, conditioners, IntensityWindow(-1000, 400), 16)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return denoiser


def noisy(spatial_dims: int, size: int = 3) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    latent = torch.randn((size, 3, *(4,) * spatial_dims), generator=stream)
    return latent, torch.tensor([5, 500, 999])[:size]


def surroundings(spatial_dims: int, size: int = 3) -> Surroundings:
    stream = torch.Generator().manual_seed(2)
    region = torch.zeros(size, 1, *(4,) * spatial_dims)
    region[(..., *(slice(1, 3),) * spatial_dims)] = 1
    return Surroundings(torch.randn((size, 3, *(4,) * spatial_dims), generator=stream), region)


def run(
    denoiser: Denoiser,
    batch: NoduleBatch,
    around: Surroundings,
    withheld: dict[str, Tensor] | None = None,
) -> Tensor:
    latent, timestep = noisy(around.context.ndim - 2)
    return denoiser(latent, timestep, denoiser.condition(batch, around, withheld))


def changed(
    name: str, batch: NoduleBatch, around: Surroundings
) -> tuple[NoduleBatch, Surroundings]:
    """The same request but for one condition."""
    other: Any = {**batch, "attributes": dict(batch["attributes"])}
    if name == "mask":
        other["mask"] = batch["mask"].flip(-1)
    elif name == "background":
        around = Surroundings(around.context + 1, around.region)
    elif name == "subtype":
        other["subtype"] = (batch["subtype"] + 1) % 3
    elif name == "histogram":
        other["histogram"] = torch.eye(16)[:3]
    else:
        other["attributes"]["diameter_mm"] = batch["attributes"]["diameter_mm"] + 5
    return other, around


@dims
@pytest.mark.parametrize("names", [(), ("mask",), ("subtype",), tuple(CONDITIONERS)])
def test_output_shape(make_batch: MakeBatch, names: tuple[str, ...], spatial_dims: int) -> None:
    output = run(build(spatial_dims, names), make_batch(spatial_dims), surroundings(spatial_dims))
    assert output.shape == (3, 3, *(4,) * spatial_dims)
    assert output.dtype == torch.float32
    assert torch.isfinite(output).all()
    assert output.std() > 0


@dims
@pytest.mark.parametrize("name", CONDITIONERS)
@torch.no_grad()
def test_each_condition_changes_the_output_unless_withheld(
    make_batch: MakeBatch, name: str, spatial_dims: int
) -> None:
    denoiser = build(spatial_dims)
    batch, around = make_batch(spatial_dims), surroundings(spatial_dims)
    # the histogram of the image in the mask must not tell what the mask was
    batch["histogram"] = torch.eye(16)[5:8]
    other, elsewhere = changed(name, batch, around)
    before, after = run(denoiser, batch, around), run(denoiser, other, elsewhere)
    for sample in range(3):
        assert (after[sample] - before[sample]).abs().max() > 1e-4

    withheld = {name: torch.tensor([True, False, True])}
    if name == "mask":  # channels of the other conditions are spread over it
        withheld["histogram"] = withheld["mask"]
    before, after = (run(denoiser, *r, withheld) for r in ((batch, around), (other, elsewhere)))
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[1], after[1])


@dims
@torch.no_grad()
def test_the_timestep_changes_the_output(make_batch: MakeBatch, spatial_dims: int) -> None:
    denoiser = build(spatial_dims)
    given = denoiser.condition(make_batch(spatial_dims), surroundings(spatial_dims))
    latent, timestep = noisy(spatial_dims)
    assert not torch.allclose(
        denoiser(latent, timestep, given), denoiser(latent, timestep.flip(0), given)
    )


@dims
@torch.no_grad()
def test_permuting_the_batch_permutes_the_output(make_batch: MakeBatch, spatial_dims: int) -> None:
    denoiser = build(spatial_dims)
    given = denoiser.condition(make_batch(spatial_dims), surroundings(spatial_dims))
    latent, timestep = noisy(spatial_dims)
    output = denoiser(latent, timestep, given)
    order = torch.tensor([2, 0, 1])
    permuted = Conditioning(*(None if slot is None else slot[order] for slot in given))
    torch.testing.assert_close(
        denoiser(latent[order], timestep[order], permuted), output[order], atol=1e-5, rtol=1e-5
    )


@dims
def test_checkpointing_changes_no_value_and_no_gradient(
    make_batch: MakeBatch, spatial_dims: int
) -> None:
    results = []
    for checkpointing in (False, True):
        denoiser = build(spatial_dims, checkpointing=checkpointing)
        output = run(denoiser, make_batch(spatial_dims), surroundings(spatial_dims))
        output.square().sum().backward()  # type: ignore[no-untyped-call]
        results.append({"output": output, **{n: p.grad for n, p in denoiser.named_parameters()}})
    plain, recomputed = results
    assert plain.keys() == recomputed.keys()
    for name, value in plain.items():
        torch.testing.assert_close(recomputed[name], value, msg=name)


@dims
def test_checkpointing_keeps_fewer_activations(make_batch: MakeBatch, spatial_dims: int) -> None:
    kept = []
    for checkpointing in (False, True):
        denoiser = build(spatial_dims, checkpointing=checkpointing)
        sizes: list[int] = []

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            run(denoiser, make_batch(spatial_dims), surroundings(spatial_dims))
        kept.append(len(sizes))
    assert kept[1] < 0.5 * kept[0]


@dims
@pytest.mark.parametrize("checkpointing", [False, True])
@torch.no_grad()
def test_a_copy_has_weights_of_its_own(
    make_batch: MakeBatch, spatial_dims: int, checkpointing: bool
) -> None:
    # averaged weights are a deep copy
    denoiser = build(spatial_dims, checkpointing=checkpointing)
    batch, around = make_batch(spatial_dims), surroundings(spatial_dims)
    before = run(denoiser, batch, around)
    twin = copy.deepcopy(denoiser)
    assert torch.equal(run(twin, batch, around), before)
    other = build(spatial_dims, seed=1)
    twin.load_state_dict(other.state_dict())
    torch.testing.assert_close(run(twin, batch, around), run(other, batch, around))
    assert torch.equal(run(denoiser, batch, around), before)


@dims
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_a_copy_are_its_own(
    make_batch: MakeBatch, spatial_dims: int, checkpointing: bool
) -> None:
    denoiser = build(spatial_dims, checkpointing=checkpointing)
    twin = copy.deepcopy(denoiser)
    output = run(twin, make_batch(spatial_dims), surroundings(spatial_dims))
    output.square().sum().backward()  # type: ignore[no-untyped-call]
    assert [n for n, p in denoiser.named_parameters() if p.grad is not None] == []
    assert [n for n, p in twin.named_parameters() if p.grad is None] == []


@dims
@pytest.mark.parametrize("names", [(), ("mask",), ("histogram",), tuple(CONDITIONERS)])
@pytest.mark.parametrize("withhold", [False, True])
def test_every_weight_has_a_gradient(
    make_batch: MakeBatch, names: tuple[str, ...], withhold: bool, spatial_dims: int
) -> None:
    # DistributedDataParallel waits for ever for the gradient of an unused weight
    denoiser = build(spatial_dims, names)
    withheld = {name: torch.full((3,), withhold) for name in names}
    output = run(denoiser, make_batch(spatial_dims), surroundings(spatial_dims), withheld)
    output.square().sum().backward()  # type: ignore[no-untyped-call]
    assert [n for n, p in denoiser.named_parameters() if p.grad is None] == []


@dims
@torch.no_grad()
def test_mixed_precision_is_close(make_batch: MakeBatch, spatial_dims: int) -> None:
    denoiser = build(spatial_dims)
    batch, around = make_batch(spatial_dims), surroundings(spatial_dims)
    exact = run(denoiser, batch, around)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = run(denoiser, batch, around)
    assert mixed.dtype == torch.float32
    assert (mixed - exact).norm() < 0.1 * exact.norm()


@dims
def test_prepare_reaches_every_conditioner(make_batch: MakeBatch, spatial_dims: int) -> None:
    denoiser = build(spatial_dims)
    denoiser.prepare([make_batch(spatial_dims)])
    conditioner = denoiser.conditioners["histogram"]
    assert isinstance(conditioner, HistogramConditioner)
    assert conditioner.bank.subtypes.tolist() == [0, 1, 2]
