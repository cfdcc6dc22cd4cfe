"""Healthy tissue in the place of nodules."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from radiographs import Make, some
from torch import Tensor

from datamodules.batch import NO_NODULE, NoduleBatch
from lightning_modules.core.conditioners import SubtypeConditioner
from lightning_modules.core.inpainting import dilate
from lightning_modules.core.synthesizer import Synthesizer


@pytest.fixture
def synthesizer(trained: Make) -> tuple[Synthesizer, NoduleBatch]:
    """Of a CT model that takes healthy tissue for something it was trained on, and nodules."""
    _, model, data = trained(3)
    found = model.eval().synthesizer
    subtype = found.network.conditioners["subtype"]
    assert isinstance(subtype, SubtypeConditioner)
    subtype.trained.fill_(True)
    bank = found.bank
    assert bank is not None
    bank.subtypes[0] = NO_NODULE
    return found, some(data)


def test_a_nodule_gives_way_before_another_comes(
    synthesizer: tuple[Synthesizer, NoduleBatch],
) -> None:
    """As if the image without it had been given; other nodules of the batch are not touched."""
    ours, batch = synthesizer
    ours = replace(ours, guidance=ours.guidance)
    erased = torch.zeros_like(batch["mask"])
    erased[0, :, 3:6, 3:6, 3:6] = 1
    given: Any = {**ours.with_histograms(batch), "erased": erased}
    found = ours(given, seed=3)
    assert torch.equal(found.background, batch["image"])

    def one(**changed: Any) -> NoduleBatch:
        first = {k: v[:1] for k, v in batch.items() if isinstance(v, (Tensor, list))}
        named = {k: v[:1] for k, v in batch["attributes"].items()}
        return cast(NoduleBatch, {**first, "attributes": named, **changed})

    healthy = one(mask=erased[:1], subtype=torch.tensor([NO_NODULE]))
    without = ours(ours.with_histograms(healthy), seed=3).image
    same = dilate(erased[:1], ours.facts.margin_voxels) == 0
    assert torch.equal(without[same], batch["image"][:1][same])
    assert not torch.equal(without, batch["image"][:1])
    asked = one(image=without, histogram=given["histogram"][:1])
    torch.testing.assert_close(found.image[:1], ours(asked, seed=3).image)
    plain = ours(ours.with_histograms(batch), seed=3).image
    torch.testing.assert_close(found.image[1:], plain[1:])


def test_what_training_had_none_of_is_refused(trained: Make) -> None:
    _, model, data = trained(3)
    synthesizer, batch = model.eval().synthesizer, some(data)
    assert synthesizer.network.conditioners["subtype"].trained.tolist()[:3].count(True) > 0
    wanted: Any = {**batch, "subtype": torch.full_like(batch["subtype"], NO_NODULE)}
    for ask in (synthesizer, synthesizer.with_histograms):
        with pytest.raises(ValueError, match="subtype none is asked for, which the model was not"):
            ask(wanted)
