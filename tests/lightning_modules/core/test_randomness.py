"""Random numbers depend on their keys and on nothing else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_modules.core.randomness import SampleGenerators, generator, sample_noise

keys = st.lists(st.one_of(st.integers(-(2**40), 2**40), st.text(max_size=5)), max_size=4)


def stream(*parts: int | str) -> list[float]:
    return torch.rand(4, generator=generator(*parts)).tolist()


@settings(max_examples=50, deadline=None)
@given(keys, keys)
def test_streams_are_equal_if_and_only_if_their_keys_are(
    ours: list[int | str], theirs: list[int | str]
) -> None:
    torch.manual_seed(0)
    first = stream(*ours)
    torch.manual_seed(1)
    assert stream(*ours) == first
    assert (stream(*theirs) == first) == (ours == theirs)


def test_keys_that_look_alike_differ() -> None:
    alike = [("a", 1, 2), ("a", 12), ("a", 2, 1), ("a1", 2), ("a", "1", 2), ("a, 1", 2), (1, 2)]
    assert len({tuple(stream(*parts)) for parts in alike}) == len(alike)


def test_a_stream_is_the_same_on_every_machine() -> None:
    # unlike hash(), which changes between processes; a change here changes every sample
    assert generator("noise", 0, 1).initial_seed() == 8936680652960982131


@pytest.mark.parametrize("shape", [(3, 4, 4), (3, 4, 4, 4)])
def test_noise_depends_on_seed_and_index_alone(shape: tuple[int, ...]) -> None:
    index = torch.tensor([4, 0, 123456])
    noise = sample_noise(index, shape, seed=3)
    assert noise.shape == (3, *shape)
    order = torch.tensor([2, 0, 1])
    assert torch.equal(sample_noise(index[order], shape, 3), noise[order])
    torch.manual_seed(11)
    for row in range(3):
        assert torch.equal(sample_noise(index[row : row + 1], shape, 3)[0], noise[row])
    assert not torch.equal(sample_noise(index, shape, 4), noise)
    assert not torch.equal(noise[0], noise[1])


def test_noise_is_standard_normal_and_uncorrelated() -> None:
    noise = sample_noise(torch.arange(200), (10, 10), 0).flatten(1).double()
    assert noise.mean().item() == pytest.approx(0, abs=0.03)
    assert noise.std().item() == pytest.approx(1, abs=0.03)
    correlation = torch.corrcoef(noise) - torch.eye(200)
    # the largest of 19900 correlations of 100 pairs each is about 4 / sqrt(100)
    assert correlation.abs().max() < 0.55
    assert correlation.std().item() == pytest.approx(0.1, rel=0.1)


def test_several_processes_draw_what_one_would() -> None:
    like = torch.zeros(6, 2, 3)
    whole = SampleGenerators.of_step(6, 0, 1, "train", 5)
    expected = [whole.uniform(), whole.normal(like), whole.uniform()]
    for rank in range(3):
        part = SampleGenerators.of_step(2, rank, 3, "train", 5)
        found = [part.uniform(), part.normal(like[:2]), part.uniform()]
        for ours, theirs in zip(found, expected, strict=True):
            assert torch.equal(ours, theirs[rank::3])
    other = SampleGenerators.of_step(6, 0, 1, "train", 6).uniform()
    assert not (other == expected[0]).any()
    assert len(set(expected[0].tolist())) == 6
    assert ((expected[0] >= 0) & (expected[0] < 1)).all()
