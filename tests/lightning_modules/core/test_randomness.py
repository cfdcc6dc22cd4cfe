"""Random numbers depend on their keys and on nothing else."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lightning_modules.core.randomness import GAMMA, SampleStreams, generator, mix

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


def splitmix64(state: int, count: int) -> list[int]:
    """The published generator, in whole numbers without a bound."""
    found = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        word = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) % 2**64
        found.append(word ^ (word >> 31))
    return found


def test_mix_is_splitmix64() -> None:
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]  # of 1234567
    assert splitmix64(1234567, 3) == published
    for seed in (1234567, 0, 2**63 - 1):
        states = seed + torch.arange(1, 201) * GAMMA
        assert [word % 2**64 for word in mix(states).tolist()] == splitmix64(seed, 200)


def streams(numbers: list[int], *keys: int | str) -> SampleStreams:
    return SampleStreams(torch.tensor(numbers), *keys)


def test_a_samples_numbers_are_those_of_the_published_generator() -> None:
    """Its state is one number of the generator of the keys; words, uniform and normal numbers."""
    start = generator("noise", 3).initial_seed()
    for number in (0, 7, 1000):
        expected = splitmix64(splitmix64(start, number + 1)[number], 8)
        one = streams([number], "noise", 3)
        assert [word % 2**64 for word in one.words(3)[0].tolist()] == expected[:3]
        assert one.uniform().item() == (expected[3] >> 40) / 2**24
        pairs = [((word >> 32) + 0.5, word % 2**32) for word in expected[4:7]]
        polar = [(math.sqrt(-2 * math.log(r / 2**32)), math.tau * a / 2**32) for r, a in pairs]
        normal = [r * math.cos(a) for r, a in polar] + [r * math.sin(a) for r, a in polar]
        assert one.normal(torch.zeros(1, 5))[0].tolist() == pytest.approx(normal[:5], abs=1e-5)
        assert one.words(1).item() % 2**64 == expected[7]


@pytest.mark.parametrize("shape", [(3,), (3, 4, 5), (2, 5, 7, 3)])
def test_what_a_sample_draws_does_not_depend_on_its_batch(shape: tuple[int, ...]) -> None:
    """Bit for bit; in parts, as processes have them, and one by one."""
    numbers = [4, 0, 123456, 2**40, 9, 17]

    def drawn(rows: list[int]) -> list[torch.Tensor]:
        of_rows = streams([numbers[row] for row in rows], "test", 1)
        like = torch.zeros(len(rows), *shape, dtype=torch.float64)
        return [of_rows.uniform(), of_rows.normal(like), of_rows.uniform()]

    torch.manual_seed(0)
    whole = drawn([*range(6)])
    assert whole[1].shape == (6, *shape)
    assert whole[1].dtype == torch.float64
    torch.manual_seed(1)
    for rows in ([0, 2, 4], [5, 1], *([row] for row in range(6))):
        for ours, theirs in zip(drawn(rows), whole, strict=True):
            assert torch.equal(ours, theirs[rows])


def test_streams_of_other_keys_and_numbers_are_others() -> None:
    keys: list[tuple[int | str, ...]] = [("a", 0), ("a", 1), ("b", 0), ("a0",), ("a", "0"), ()]
    words = torch.cat([streams([*range(1000)], *each).words(3) for each in keys])
    assert len(words.unique()) == words.numel()


def test_uniform_numbers_are_uniform_and_normal_ones_normal() -> None:
    """Over the samples, as timesteps are, and within one; moments and Kolmogorov-Smirnov."""
    many = streams([*range(50_000)], "test", 0)
    for _ in range(3):
        uniform = many.uniform().double().numpy()
        assert ((uniform >= 0) & (uniform < 1)).all()
        assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    of_many = many.normal(torch.zeros(50_000, 3)).double().numpy()
    of_one = streams([5], "test", 0).normal(torch.zeros(1, 200_001)).double().numpy()
    for normal in (*of_many.T, of_one[0]):
        assert np.isfinite(normal).all()
        assert stats.kstest(normal, "norm").pvalue > 1e-3
        moments = [(normal**power).mean() for power in (1, 2, 3, 4)]
        # the fourth power has a variance of 96
        assert moments == pytest.approx([0, 1, 0, 3], abs=4 * math.sqrt(96 / len(normal)))


def test_numbers_of_samples_and_places_are_uncorrelated() -> None:
    """Neighbouring samples, both numbers of one word, and neighbours in one stream."""
    noise = streams([*range(200)], "noise", 0).normal(torch.zeros(200, 100)).double()
    correlation = torch.corrcoef(noise) - torch.eye(200)
    # the largest of 19900 correlations of 100 pairs each is about 4 / sqrt(100)
    assert correlation.abs().max() < 0.55
    assert correlation.std().item() == pytest.approx(0.1, rel=0.1)
    long = streams([*range(4)], "noise", 0).normal(torch.zeros(4, 100_000)).double()
    for values in (long, long.square()):
        halves = values.reshape(8, 50_000)  # of each sample the cosines, then the sines
        assert (torch.corrcoef(halves) - torch.eye(8)).abs().max() < 5 / math.sqrt(50_000)
    for lag in (1, 2, 3, 17):
        after = torch.corrcoef(torch.stack([long[:, lag:].flatten(), long[:, :-lag].flatten()]))
        assert after[0, 1].abs() < 5 / math.sqrt(400_000)
