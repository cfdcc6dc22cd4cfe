"""How the conditions of several conditioners, or of several questions, are put together."""

import torch

from lightning_modules.core.conditioning import (
    Conditioning,
    interleave_conditions,
    stack_conditions,
)


def test_stacking() -> None:
    def give(value: float) -> Conditioning:
        return Conditioning(
            torch.full((2, 3, 4, 4), value),
            torch.full((2, 1, 6), value),
            torch.full((2, 5), value),
        )

    assert stack_conditions([]) == Conditioning()
    assert stack_conditions([Conditioning(), Conditioning()]) == Conditioning()
    joined = stack_conditions([give(1), Conditioning(), give(2)])
    assert joined.channels is not None
    assert joined.tokens is not None
    assert joined.embedding is not None
    assert joined.channels.shape == (2, 6, 4, 4)
    assert joined.channels[0, :, 0, 0].tolist() == [1, 1, 1, 2, 2, 2]
    assert joined.tokens[:, :, 0].tolist() == [[1, 2], [1, 2]]
    assert torch.equal(joined.embedding, torch.full((2, 5), 3.0))


def test_conditions_of_one_sample_stand_together() -> None:
    first, second = (Conditioning(embedding=torch.tensor([[a], [a + 1.0]])) for a in (10.0, 20.0))
    joined = interleave_conditions([first, second])
    assert joined.channels is None
    assert joined.embedding is not None
    assert joined.embedding.flatten().tolist() == [10, 20, 11, 21]
