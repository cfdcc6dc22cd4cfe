"""Which real histogram a nodule gets that is asked for without one."""

import math

import pytest
import torch

from lightning_modules.core.histogram_bank import NEAREST, HistogramBank, Wanted, shape_measures


def ball(radius: float, side: int, rank: int) -> torch.Tensor:
    axes = torch.meshgrid(*[torch.arange(side) - side // 2] * rank, indexing="ij")
    return (sum(axis**2 for axis in axes) <= radius**2).float()[None, None]


@pytest.mark.parametrize("rank", [2, 3])
def test_measures_are_those_of_a_box(rank: int) -> None:
    mask = torch.zeros(1, 1, *(12,) * rank)
    box = (3, 4, 5)[-rank:]
    mask[(0, 0, *[slice(4, 4 + n) for n in box])] = 1
    spacing = torch.tensor([[2.0, 1.0, 0.5][-rank:]])
    lengths = [n * s for n, s in zip(box, spacing[0].tolist(), strict=True)]
    volume = math.prod(lengths)
    surface = 2 * sum(volume / length for length in lengths)
    diameter = (
        2 * math.sqrt(volume / math.pi) if rank == 2 else 2 * (0.75 * volume / math.pi) ** (1 / 3)
    )
    found = shape_measures(torch.full_like(mask, -800), mask, spacing)[0]
    expected = [math.log(diameter), math.log(surface / volume), 0.0]
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("rank", [2, 3])
def test_contact_is_the_share_of_soft_tissue_around(rank: int) -> None:
    mask = ball(3, 17, rank)
    image = torch.full_like(mask, -800)
    image[..., 9:] = 40  # a wall on one side; inside the nodule it does not count
    contact = shape_measures(image, mask, torch.ones(1, rank))[0, 2]
    assert 0.35 < contact < 0.5
    assert shape_measures(image, mask, torch.ones(1, rank))[0, 2] == contact
    image[mask > 0] = -800
    assert shape_measures(image, mask, torch.ones(1, rank))[0, 2] == contact


def wanted(
    subtypes: list[int], measures: torch.Tensor, patients: list[str], **ratings: torch.Tensor
) -> Wanted:
    size = len(subtypes)
    return Wanted(torch.tensor(subtypes), measures, ratings, patients, torch.arange(size))


@pytest.fixture
def bank() -> HistogramBank:
    """40 nodules of two subtypes; each histogram is one bin that says which nodule it is."""
    measures = torch.stack([torch.arange(40) / 2, torch.zeros(40), torch.zeros(40)], 1)
    nodules = wanted(
        [k % 2 for k in range(40)],
        measures,
        [f"p{k // 4}" for k in range(40)],
        malignancy=1.0 + torch.arange(40) % 5,
    )
    bank = HistogramBank(40)
    bank.fill(torch.eye(40), nodules)
    return bank


def draw(bank: HistogramBank, request: Wanted, seeds: range = range(200)) -> set[int]:
    return {int(bank.draw(request, seed)[0].argmax()) for seed in seeds}


def test_a_like_nodule_of_the_subtype_and_of_somebody_else_is_drawn(bank: HistogramBank) -> None:
    request = wanted([0], torch.tensor([[8.0, 0.0, 0.0]]), ["p4"])
    # nodule 16 is as large, but of the same patient, and so is 18
    assert draw(bank, request) == {10, 12, 14, 20, 22}
    assert len(draw(bank, request)) == NEAREST


def test_what_all_candidates_have_alike_does_not_drown_the_rest(bank: HistogramBank) -> None:
    """The bank's nodules have one surface and touch no tissue: size alone tells them apart."""
    apart = wanted([0], torch.tensor([[8.0, 0.0, 0.0]]), ["x"])
    touching = wanted([0], torch.tensor([[8.0, 3.0, 1.0]]), ["x"])
    assert draw(bank, touching) == draw(bank, apart) == {12, 14, 16, 18, 20}


def test_a_rating_that_is_asked_for_counts(bank: HistogramBank) -> None:
    request = wanted([0], torch.tensor([[8.0, 0.0, 0.0]]), ["x"], malignancy=torch.tensor([5.0]))
    drawn = draw(bank, request)
    without = draw(bank, request._replace(ratings={"malignancy": torch.tensor([torch.nan])}))
    assert without == {12, 14, 16, 18, 20}
    assert sum(k % 5 == 4 for k in drawn) > sum(k % 5 == 4 for k in without)


def test_a_draw_depends_on_seed_and_index_alone(bank: HistogramBank) -> None:
    measures = torch.tensor([[3.0, 0, 0], [8.0, 0, 0]])
    both = wanted([0, 1], measures, ["x", "x"])
    one = Wanted(both.subtypes[1:], measures[1:], {}, ["x"], both.numbers[1:])
    assert torch.equal(bank.draw(both, 3)[1], bank.draw(one, 3)[0])


def test_a_patient_who_is_alone_gets_their_own(bank: HistogramBank) -> None:
    bank.patients = ["p4"] * 40
    assert draw(bank, wanted([0], torch.tensor([[8.0, 0.0, 0.0]]), ["p4"])) == {12, 14, 16, 18, 20}


def test_a_missing_subtype_is_named(bank: HistogramBank) -> None:
    with pytest.raises(ValueError, match="holds no ground-glass nodule among 40"):
        bank.draw(wanted([2], torch.zeros(1, 3), ["x"]), 0)


def test_contents_survive_a_checkpoint(bank: HistogramBank) -> None:
    other = HistogramBank(40)
    other.load_state_dict(bank.state_dict())
    request = wanted([1], torch.tensor([[5.0, 0, 0]]), ["x"])
    assert torch.equal(other.draw(request, 0), bank.draw(request, 0))
