"""Items and their augmented copies are pure functions of their numbers."""

import copy

import numpy as np
import pytest
import torch
from balls import assert_same, balls

from datamodules.augmentation import augment


@pytest.mark.parametrize("shape", [(12, 12, 12), (16, 16)])
def test_versions_do_not_depend_on_what_was_read_before(shape: tuple[int, ...]) -> None:
    """Augmentation shares one read among a nodule's versions, in whatever order they are
    asked."""
    straight = balls([0, 1, 2], shape, augmented_copies=4)
    reads = []
    nodules = straight.nodules
    counted = nodules.read
    nodules.read = lambda nodule, size: reads.append(nodule) or counted(nodule, size)  # type: ignore[method-assign,func-returns-value]
    items = [straight[index] for index in range(12)]
    assert reads == [0, 0, 1, 1, 2, 2]
    for index in (5, 11, 4, 5, 6, 1, 3):
        assert_same(balls([0, 1, 2], shape, augmented_copies=4)[index], items[index])
        assert_same(straight[index], items[index])


@pytest.mark.parametrize("shape", [(12, 14), (10, 12, 14)])
def test_items_are_pure(shape: tuple[int, ...]) -> None:
    data = balls([0, 1], shape, augmented_copies=3, seed=7)
    torch.manual_seed(0)
    items = [data[i] for i in range(6)]
    state = torch.get_rng_state()
    for i in reversed(range(6)):
        assert_same(data[i], items[i])
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"
    assert [int(item["index"]) for item in items] == list(range(6))
    assert str(items[3]["name"]) == "ball-1"
    assert str(items[5]["name"]) == "ball-1-v2"
    assert_same(items[3]["image"], data.read(1, shape)["image"])
    for item in items:
        assert item["image"].shape == item["mask"].shape == (1, *shape)
        assert item["image"].is_contiguous()
        assert set(item["mask"].flatten().tolist()) == {0, 1}
        torch.testing.assert_close(item["image"], item["image"].round(), rtol=0, atol=0)
        torch.testing.assert_close(item["origin_mm"], items[0]["origin_mm"])
    assert not torch.equal(items[0]["image"], items[1]["image"])
    assert not torch.equal(items[1]["image"], items[2]["image"])
    other = balls([0, 1], shape, augmented_copies=3, seed=8)
    assert not torch.equal(other[1]["image"], items[1]["image"])
    with pytest.raises(IndexError):
        data[6]


def test_versions_below_one() -> None:
    with pytest.raises(ValueError, match="augmented_copies is 0"):
        balls([0], (4, 4), augmented_copies=0)


@pytest.mark.parametrize("shape", [(40, 40), (40, 40, 40)])
def test_augmentation_moves_image_and_mask_together(shape: tuple[int, ...]) -> None:
    item = balls([0], shape).read(0, shape)
    before = copy.deepcopy(item)
    sizes = set()
    for seed in range(8):
        after = augment(item, np.random.default_rng(seed))
        assert_same(item, before)
        inside = after["mask"] > 0
        # partial voxels on the rim aside, what was bright is in the mask and nothing else
        assert ((after["image"] > -400) == inside).float().mean() > 0.995
        scale = float(after["attributes"]["diameter_mm"]) / 10
        assert 0.95 <= scale <= 1.05
        growth = float(after["mask"].sum() / item["mask"].sum()) ** (1 / len(shape))
        assert growth == pytest.approx(scale, abs=0.04)
        center = torch.nonzero(inside[0]).double().mean(0)
        assert (center - 20).abs().max() < 2.0 + 1.5
        sizes.add(round(scale, 6))
    assert len(sizes) == 8


def test_every_axis_is_flipped() -> None:
    ramp = torch.stack(torch.meshgrid(*[torch.arange(16.0)] * 3, indexing="ij")).sum(0)[None]
    item = balls([0], (16,) * 3).read(0, (16,) * 3)
    item["image"] = ramp
    signs = set()
    for seed in range(64):
        image = augment(item, np.random.default_rng(seed))["image"][0, 4:12, 4:12, 4:12]
        signs.add(tuple(bool(image.diff(dim=d).mean() > 0) for d in range(3)))
    assert len(signs) == 8
