"""Conditioners: what they give, what they withhold, and that every weight always learns."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.batch import NO_NODULE, UNKNOWN_SUBTYPE, NoduleBatch
from lightning_modules.core.conditioners import (
    AttributeConditioner,
    BackgroundConditioner,
    HistogramConditioner,
    MaskConditioner,
    SubtypeConditioner,
)
from lightning_modules.core.conditioning import (
    Conditioner,
    Conditioning,
    LatentGeometry,
    Surroundings,
)
from lightning_modules.core.histogram import masked_histogram, soft_histogram
from lightning_modules.core.histogram_bank import wanted_of
from lightning_modules.core.inpainting import occupancy
from lightning_modules.core.window import IntensityWindow

MakeBatch = Callable[..., NoduleBatch]
SLOTS = ("channels", "tokens", "embedding")
RANGES = {"diameter_mm": (3.0, 30.0), "malignancy": (1, 5), "spacing_mm": (0.5, 2.5)}

CONDITIONERS: dict[str, Callable[[], Conditioner]] = {
    "mask": MaskConditioner,
    "background": BackgroundConditioner,
    "subtype": SubtypeConditioner,
    "subtype everywhere": lambda: SubtypeConditioner(SLOTS),
    "histogram": HistogramConditioner,
    "histogram as tokens": lambda: HistogramConditioner(slots=("tokens",)),
    "attributes": lambda: AttributeConditioner(RANGES),
    "attributes as channels": lambda: AttributeConditioner(RANGES, ("channels",)),
}

dims = pytest.mark.parametrize("spatial_dims", [2, 3])
each = pytest.mark.parametrize("name", CONDITIONERS)


WINDOW = IntensityWindow(-1000, 400)


def build(
    conditioner: Conditioner,
    spatial_dims: int,
    histogram_bins: int = 16,
    window: IntensityWindow = WINDOW,
) -> Conditioner:
    torch.manual_seed(0)
    geometry = LatentGeometry(
        spatial_dims,
        compression=2,
        latent_channels=3,
        token_dim=6,
        embedding_dim=10,
        window=window,
        histogram_bins=histogram_bins,
    )
    conditioner.build(geometry)
    with torch.no_grad():  # what starts at zero would hide what it does
        for parameter in conditioner.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return conditioner


def surroundings(spatial_dims: int, size: int = 3) -> Surroundings:
    stream = torch.Generator().manual_seed(5)
    region = torch.zeros(size, 1, *(4,) * spatial_dims)
    region[(..., *(slice(1, 3),) * spatial_dims)] = 1
    return Surroundings(torch.randn((size, 3, *(4,) * spatial_dims), generator=stream), region)


def slots(conditioning: Conditioning) -> dict[str, Tensor]:
    return {k: v for k, v in conditioning._asdict().items() if v is not None}


def never(size: int = 3) -> Tensor:
    return torch.zeros(size, dtype=torch.bool)


@dims
@each
def test_widths_are_as_announced(make_batch: MakeBatch, name: str, spatial_dims: int) -> None:
    conditioner = build(CONDITIONERS[name](), spatial_dims)
    given = slots(conditioner(make_batch(spatial_dims), surroundings(spatial_dims), never()))
    shapes = {
        "channels": (3, conditioner.channels, *(4,) * spatial_dims),
        "tokens": (3, 1, 6),
        "embedding": (3, 10),
    }
    assert given
    assert ("channels" in given) == (conditioner.channels > 0)
    for slot, value in given.items():
        assert value.shape == shapes[slot]


@dims
@each
def test_what_is_withheld_is_withheld_sample_by_sample(
    make_batch: MakeBatch, name: str, spatial_dims: int
) -> None:
    conditioner = build(CONDITIONERS[name](), spatial_dims)
    batch, around = make_batch(spatial_dims), surroundings(spatial_dims)
    withheld = torch.tensor([True, False, True])
    none = slots(conditioner(batch, around, never()))
    every = slots(conditioner(batch, around, ~never()))
    some = slots(conditioner(batch, around, withheld))
    assert none.keys() == every.keys() == some.keys()
    for slot in some:
        assert torch.equal(some[slot][~withheld], none[slot][~withheld])
        assert torch.equal(some[slot][withheld], every[slot][withheld])
        for row in range(3):
            assert not torch.equal(none[slot][row], every[slot][row])
        # nothing of the sample is left
        assert torch.equal(every[slot][0], every[slot][1])


@dims
@each
@pytest.mark.parametrize("withheld", [False, True])
def test_every_weight_has_a_gradient(
    make_batch: MakeBatch, name: str, spatial_dims: int, withheld: bool
) -> None:
    conditioner = build(CONDITIONERS[name](), spatial_dims)
    where = torch.full((3,), withheld)
    given = slots(conditioner(make_batch(spatial_dims), surroundings(spatial_dims), where))
    total = torch.stack([value.square().sum() for value in given.values()]).sum()
    if total.requires_grad:
        total.backward()  # type: ignore[no-untyped-call]
    for weight, parameter in conditioner.named_parameters():
        assert parameter.grad is not None, weight
        # and it is the right one: the encoder learns where the condition is given
        if withheld == weight.startswith("nothing"):
            assert parameter.grad.abs().max() > 0, weight
        else:
            assert parameter.grad.abs().max() == 0, weight


@dims
def test_mask_channels(make_batch: MakeBatch, spatial_dims: int) -> None:
    conditioner = build(MaskConditioner(embedding_channels=2), spatial_dims)
    batch = make_batch(spatial_dims)
    given = conditioner(batch, surroundings(spatial_dims), never()).channels
    assert given is not None
    torch.testing.assert_close(given[:, :1], occupancy(batch["mask"], 2))
    # the embedding sees shape below the latent's resolution: same occupancy, other voxels
    flipped: Any = {**batch, "mask": batch["mask"].flip(-1)}
    mirrored = conditioner(flipped, surroundings(spatial_dims), never()).channels
    assert mirrored is not None
    torch.testing.assert_close(mirrored[:, :1], given[:, :1].flip(-1))
    assert not torch.allclose(mirrored[:, 1:], given[:, 1:].flip(-1))


@dims
def test_background_hides_the_region(make_batch: MakeBatch, spatial_dims: int) -> None:
    conditioner = build(BackgroundConditioner(), spatial_dims)
    batch, (context, region) = make_batch(spatial_dims), surroundings(spatial_dims)
    given = conditioner(batch, Surroundings(context, region), never()).channels
    other = torch.where(region > 0, context + 9, context)
    assert torch.equal(given, conditioner(batch, Surroundings(other, region), never()).channels)
    expected = np.concatenate([context.numpy() * (region.numpy() == 0), region.numpy()], 1)
    np.testing.assert_array_equal(given, expected)
    # withheld: no background, and everything is to be synthesized
    absent = conditioner(batch, Surroundings(context, region), ~never()).channels
    assert absent is not None
    assert (absent[:, :-1] == 0).all()
    assert (absent[:, -1:] == 1).all()


@dims
def test_background_that_is_seen_through_is_shown_as_it_is(
    make_batch: MakeBatch, spatial_dims: int
) -> None:
    conditioner = build(BackgroundConditioner(through=True), spatial_dims)
    batch, (context, region) = make_batch(spatial_dims), surroundings(spatial_dims)
    given = conditioner(batch, Surroundings(context, region), never()).channels
    np.testing.assert_array_equal(given, np.concatenate([context.numpy(), region.numpy()], 1))


@dims
def test_channels_of_a_vector_are_spread_over_the_mask(
    make_batch: MakeBatch, spatial_dims: int
) -> None:
    conditioner = build(SubtypeConditioner(("channels",), spread_channels=5), spatial_dims)
    batch = make_batch(spatial_dims)
    given = conditioner(batch, surroundings(spatial_dims), never()).channels
    assert given is not None
    share = occupancy(batch["mask"], 2)
    assert (given[share.expand_as(given) == 0] == 0).all()
    vectors = (given / share).flatten(2)
    full = (share > 0).flatten(2).expand_as(vectors)
    for sample in range(3):
        for channel in range(5):
            values = vectors[sample, channel][full[sample, channel]]
            torch.testing.assert_close(values, values[:1].expand_as(values))


def test_subtype_is_one_hot_and_zero_where_unknown(make_batch: MakeBatch) -> None:
    batch = make_batch(2, size=5)
    batch["subtype"] = torch.tensor([2, 0, UNKNOWN_SUBTYPE, 1, NO_NODULE])
    expected = torch.eye(4)[[2, 0, 0, 1, 3]]
    expected[2] = 0
    assert torch.equal(SubtypeConditioner().vector(batch), expected)


@dims
def test_requested_histogram_is_that_of_the_image_in_the_mask(
    make_batch: MakeBatch, spatial_dims: int
) -> None:
    conditioner = build(HistogramConditioner(), spatial_dims, histogram_bins=7)
    assert isinstance(conditioner, HistogramConditioner)
    batch = make_batch(spatial_dims)
    requested = conditioner.requested(batch)
    torch.testing.assert_close(requested.sum(1), torch.ones(3), atol=1e-6, rtol=0)
    centers = np.linspace(-900, 300, 7)
    for sample in range(3):
        values = batch["image"][sample][batch["mask"][sample] > 0].double().numpy()
        shares = 1 - np.abs(values.clip(-900, 300)[:, None] - centers) / 200
        np.testing.assert_allclose(requested[sample], shares.clip(0).mean(0), atol=1e-6)

    own = torch.rand(3, 7).softmax(1)
    batch["histogram"] = own
    assert torch.equal(conditioner.requested(batch), own)
    vector = conditioner.vector(batch)
    assert vector.shape == (3, 14)
    np.testing.assert_allclose(vector[:, :7], own * 7 / 4, rtol=1e-6)
    np.testing.assert_allclose(vector[:, 7:], 2 * np.cumsum(own.numpy(), 1) - 1, atol=1e-6)


@dims
def test_the_window_is_the_histograms_range(make_batch: MakeBatch, spatial_dims: int) -> None:
    batch = make_batch(spatial_dims)
    given = {}
    for low, high in ((-1000, 400), (-1350, 150)):
        conditioner = build(HistogramConditioner(), spatial_dims, 8, IntensityWindow(low, high))
        assert isinstance(conditioner, HistogramConditioner)
        given[low] = conditioner.requested(batch)
        values, inside = batch["image"][0], batch["mask"][0]
        expected = soft_histogram(values.flatten(), inside.flatten(), 8, low, high)
        assert torch.equal(given[low][0], expected)
    assert not torch.allclose(given[-1000], given[-1350], atol=1e-2)


@dims
def test_voxels_outside_the_mask_do_not_reach_the_histogram(
    make_batch: MakeBatch, spatial_dims: int
) -> None:
    conditioner, batch = build(HistogramConditioner(), spatial_dims), make_batch(spatial_dims)
    assert isinstance(conditioner, HistogramConditioner)
    before = conditioner.requested(batch)
    batch["image"] = torch.where(batch["mask"] > 0, batch["image"], 300.0)
    assert torch.equal(conditioner.requested(batch), before)


@dims
def test_attributes_are_scaled_and_flagged(make_batch: MakeBatch, spatial_dims: int) -> None:
    conditioner, batch = AttributeConditioner(RANGES), make_batch(spatial_dims)
    batch["attributes"]["diameter_mm"] = torch.tensor([3.0, 30.0, 16.5])
    batch["attributes"]["malignancy"] = torch.tensor([1.0, torch.nan, 4.0])
    batch["spacing_mm"][:] = torch.tensor([0.5, 2.5, 1.0])[:, None]
    expected = [[-1, -1, -1, 1, 1, 1], [1, 0, 1, 1, 0, 1], [0, 0.5, -0.5, 1, 1, 1]]
    torch.testing.assert_close(conditioner.vector(batch), torch.tensor(expected).float())


def test_an_attribute_that_the_batch_lacks_is_refused(make_batch: MakeBatch) -> None:
    conditioner = AttributeConditioner({"texture": (1, 5)})
    with pytest.raises(KeyError, match=r"texture.*diameter_mm.*malignancy"):
        conditioner.vector(make_batch(2))


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_a_dropout_that_is_no_probability_is_refused(dropout: float) -> None:
    with pytest.raises(ValueError, match=str(dropout)):
        MaskConditioner(dropout=dropout)


@pytest.mark.parametrize("chosen", [(), ("channels", "keys")])
def test_unknown_slots_are_refused(chosen: Any) -> None:
    with pytest.raises(ValueError, match="slots of SubtypeConditioner"):
        SubtypeConditioner(chosen)


@dims
def test_the_training_set_fills_the_bank_and_a_checkpoint_keeps_it(
    make_batch: MakeBatch, spatial_dims: int
) -> None:
    conditioner = build(HistogramConditioner(), spatial_dims, histogram_bins=5)
    assert isinstance(conditioner, HistogramConditioner)
    batches = [make_batch(spatial_dims, size, seed=size) for size in (3, 1)]
    conditioner.prepare(iter(batches))
    measured = torch.cat([masked_histogram(b["image"], b["mask"], 5, WINDOW) for b in batches])
    assert torch.equal(conditioner.bank.histograms, measured)
    assert conditioner.bank.subtypes.tolist() == [0, 1, 2, 0]

    other = build(HistogramConditioner(), spatial_dims, histogram_bins=5)
    assert isinstance(other, HistogramConditioner)
    other.load_state_dict(conditioner.state_dict())
    request = wanted_of(make_batch(spatial_dims, 3, seed=9)), 0
    assert torch.equal(other.bank.draw(*request), conditioner.bank.draw(*request))
