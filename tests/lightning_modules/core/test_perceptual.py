"""LPIPS from a local file: the weights are those of the file, the distance behaves."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

from lightning_modules.core.perceptual import PerceptualDistance

dims = pytest.mark.parametrize("spatial_dims", [2, 3])


@pytest.fixture(scope="module")
def features() -> Any:
    torch.manual_seed(0)
    with torch.device("meta"):  # its classifier is large and is not needed
        network = torchvision.models.alexnet().features
    network = network.to_empty(device="cpu").eval().requires_grad_(False)
    for module in network:
        if isinstance(module, torch.nn.Conv2d):
            module.reset_parameters()
    return network


@pytest.fixture(scope="module")
def weights(features: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save({f"features.{name}": value for name, value in features.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def distance(weights: Path) -> PerceptualDistance:
    return PerceptualDistance(weights, slices=2)


def pair(spatial_dims: int) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(0)
    shape = (2, 1, *(8,) * spatial_dims)
    image = 2 * torch.rand(shape, generator=stream) - 1
    return image, (image + 0.5 * torch.randn(shape, generator=stream)).clamp(-1, 1)


def test_the_weights_are_those_of_the_file(distance: PerceptualDistance, features: Any) -> None:
    stored = {tuple(v.shape): v for v in features.state_dict().values() if v.ndim == 4}
    loaded = [v for n, v in distance.lpips.net.named_parameters() if n.endswith("weight")]
    assert len(loaded) == len(stored) == 5
    for value in loaded:
        assert torch.equal(value, stored[tuple(value.shape)])
    # and in the right order: the same activations as torchvision's
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    activation, expected = image, []
    for place, layer in enumerate(features):
        activation = layer(activation)
        if place in (1, 4, 7, 9, 11):
            expected.append(activation.clone())
    for ours, theirs in zip(distance.lpips.net(image), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@dims
def test_zero_for_equal_images_and_growing_with_the_difference(
    distance: PerceptualDistance, spatial_dims: int
) -> None:
    image, other = pair(spatial_dims)
    assert distance(image, image).item() == 0
    halfway, full = distance(image, (image + other) / 2), distance(image, other)
    assert full.shape == ()
    assert 0 < halfway.item() < full.item()
    torch.testing.assert_close(distance(other, image), full)


def test_a_volume_is_compared_on_slices_of_each_plane(distance: PerceptualDistance) -> None:
    image, other = pair(3)
    planes = []
    for axis in (2, 3, 4):
        for place in (0, 7):  # two slices, equally spaced
            planes.append(distance(image.select(axis, place), other.select(axis, place)))
    torch.testing.assert_close(distance(image, other), torch.stack(planes).mean())


@dims
def test_its_gradient_reaches_the_image_and_no_weight(
    distance: PerceptualDistance, spatial_dims: int
) -> None:
    image, other = pair(spatial_dims)
    image.requires_grad_()
    distance(image, other).backward()
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()
    assert image.grad.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def test_training_mode_brings_no_dropout(weights: Path) -> None:
    distance, (image, other) = PerceptualDistance(weights), pair(2)
    expected = distance(image, other)
    distance.train()
    for _ in range(3):
        assert torch.equal(distance(image, other), expected)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pth are not a file"):
        PerceptualDistance(tmp_path / "absent.pth")


@pytest.mark.parametrize(
    "change",
    [
        lambda stored: {"weight": torch.zeros(3)},
        lambda stored: {n: v for n, v in stored.items() if n != "features.8.bias"},
        lambda stored: stored | {"features.0.weight": torch.zeros(64, 3, 3, 3)},
    ],
    ids=["another network", "a layer short", "another shape"],
)
def test_other_weights_are_refused(weights: Path, tmp_path: Path, change: Any) -> None:
    path = tmp_path / "other.pth"
    torch.save(change(torch.load(weights, weights_only=True)), path)
    with pytest.raises(ValueError, match=r"other\.pth.*AlexNet state dict"):
        PerceptualDistance(path)


def test_a_file_that_is_no_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.pth"
    path.write_text("not a state dict")
    with pytest.raises(ValueError, match=r"notes\.pth"):
        PerceptualDistance(path)
