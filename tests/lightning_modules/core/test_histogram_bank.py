"""The bank of real histograms: what is drawn, and what it depends on."""

import pytest
import torch

from datamodules.batch import UNKNOWN_SUBTYPE
from lightning_modules.core.histogram_bank import HistogramBank


def filled(nodules: int = 30, bins: int = 4) -> HistogramBank:
    bank = HistogramBank(bins)
    stream = torch.Generator().manual_seed(0)
    bank.fill(torch.rand((nodules, bins), generator=stream), torch.arange(nodules) % 3)
    return bank


def test_draws_depend_on_seed_and_index_alone() -> None:
    bank = filled()
    subtypes, index = torch.tensor([0, 1, 2, 1, 0, 0]), torch.tensor([4, 9, 2, 7, 1, 30])
    drawn = bank.draw(subtypes, index, seed=3)
    order = torch.tensor([5, 0, 3, 1, 4, 2])
    assert torch.equal(bank.draw(subtypes[order], index[order], seed=3), drawn[order])
    for row in range(6):
        one = slice(row, row + 1)
        assert torch.equal(bank.draw(subtypes[one], index[one], seed=3), drawn[one])
    # the global generator has no say
    torch.manual_seed(99)
    assert torch.equal(bank.draw(subtypes, index, seed=3), drawn)
    assert not torch.equal(bank.draw(subtypes, index, seed=4), drawn)
    assert not torch.equal(bank.draw(subtypes, index + 1, seed=3), drawn)


def test_draws_are_of_the_subtype_and_reach_every_nodule() -> None:
    bank = filled(nodules=12)
    for code in range(3):
        drawn = bank.draw(torch.full((200,), code), torch.arange(200), seed=0)
        own = {tuple(h) for h in bank.histograms[bank.subtypes == code].tolist()}
        assert {tuple(h) for h in drawn.tolist()} == own


def test_a_subtype_that_the_bank_lacks_is_named() -> None:
    bank = HistogramBank(4)
    bank.fill(torch.rand(5, 4), torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match="no part-solid nodule among 5"):
        bank.draw(torch.tensor([0, 1]), torch.arange(2), seed=0)
    with pytest.raises(ValueError, match="no unknown nodule"):
        bank.draw(torch.tensor([UNKNOWN_SUBTYPE]), torch.arange(1), seed=0)
