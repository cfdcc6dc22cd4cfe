"""What is handed over between data, models and callbacks."""

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch

from datamodules.batch import Provenance, Synthesis


def synthesis() -> Synthesis:
    """Of two nodules, with three bins."""
    image, histogram = torch.rand(2, 1, 4, 4), torch.rand(2, 3)
    batch: Any = {"mask": image, "attributes": {"diameter_mm": torch.ones(2)}, "name": ["a", "b"]}
    return Synthesis(
        *(image, image + 1, batch, histogram, histogram, torch.arange(3.0), (-1000.0, 400.0)),
        Provenance("last.ckpt", 3, 20, ("key",)),
    )


def test_a_synthesis_is_frozen() -> None:
    made: Any = synthesis()
    with pytest.raises(FrozenInstanceError):
        made.image = torch.zeros(1)
    with pytest.raises(FrozenInstanceError):
        made.provenance.seed = 4


def test_a_synthesis_moves_with_all_its_tensors() -> None:
    made = synthesis()
    moved = made.to("meta")
    tensors = [moved.image, moved.background, moved.requested_histogram, moved.bin_centers]
    tensors += [moved.generated_histogram, moved.request["mask"]]
    tensors += [moved.request["attributes"]["diameter_mm"]]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.request["name"] == ["a", "b"]
    assert (moved.window, moved.provenance) == (made.window, made.provenance)
    assert made.image.device.type == "cpu"
