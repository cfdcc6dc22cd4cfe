"""Diversity: nothing for the same image twice, more for what differs more."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import alexnet

from callbacks.diversity import CROP, LPIPSDiversity, StructuralDiversity, nodule_crops
from callbacks.generation import Drawn, GenerationMetric
from lightning_modules.core.features import RandomFeatures
from lightning_modules.core.perceptual import PerceptualDistance

dims = pytest.mark.parametrize("spatial_dims", [2, 3])


def drawn(spatial_dims: int, noise: float) -> Drawn:
    torch.manual_seed(0)
    first = torch.rand(3, 1, *(32,) * spatial_dims)
    second = (first + noise * torch.randn_like(first)).clamp(0, 1)
    mask = torch.zeros_like(first)
    mask[:, :, 8:20, 10:18] = 1
    batch: Any = {"mask": mask}
    return Drawn(batch, torch.arange(3), first, [first, second], [])


@pytest.fixture
def lpips(tmp_path: Path) -> LPIPSDiversity:
    torch.manual_seed(0)
    torch.save(alexnet(weights=None).state_dict(), tmp_path / "alexnet.pth")
    return LPIPSDiversity(tmp_path / "alexnet.pth")


@dims
@pytest.mark.parametrize("kind", ["structural", "lpips"])
def test_it_grows_with_the_difference(kind: str, spatial_dims: int, lpips: LPIPSDiversity) -> None:
    metric: GenerationMetric = lpips
    if kind == "structural":
        metric = StructuralDiversity(RandomFeatures(width=8))
    found = []
    for noise in (0.0, 0.1, 0.4):
        metric.begin(spatial_dims, torch.device("cpu"))
        columns = metric.update(drawn(spatial_dims, noise))
        assert all(column.shape == (3,) for column in columns.values())
        figures = metric.compute()
        means = [float(column.mean()) for column in columns.values()]
        assert list(figures.values()) == pytest.approx(means, abs=1e-6)
        found.append(figures)
    for name, smallest in found[0].items():
        assert smallest == pytest.approx(0, abs=1e-5)
        assert smallest < found[1][name] < found[2][name]


def test_lpips_is_the_perceptual_distance_of_each_pair(
    lpips: LPIPSDiversity, tmp_path: Path
) -> None:
    pair = drawn(2, 0.3)
    lpips.begin(2, torch.device("cpu"))
    columns = lpips.update(pair)
    network = PerceptualDistance(tmp_path / "alexnet.pth")
    first, second = pair.generated
    for row in range(3):
        whole = network(2 * first[row : row + 1] - 1, 2 * second[row : row + 1] - 1)
        torch.testing.assert_close(columns["lpips_patch"][row], whole)


@dims
def test_a_crop_is_the_masks_box(spatial_dims: int) -> None:
    image = torch.rand(2, 1, *(16,) * spatial_dims)
    mask = torch.zeros_like(image)
    mask[0, 0, 4:8, 6:14] = 1  # the whole of a third axis
    crops = nodule_crops(image, mask)
    assert crops.shape == (2, 1, *(CROP,) * spatial_dims)
    box = image[:1, :, 4:8, 6:14]
    mode = "bilinear" if spatial_dims == 2 else "trilinear"
    expected = torch.nn.functional.interpolate(box, (CROP,) * spatial_dims, mode=mode)
    torch.testing.assert_close(crops[:1], expected)
    # without a nodule it is the whole image
    whole = torch.nn.functional.interpolate(image[1:], (CROP,) * spatial_dims, mode=mode)
    torch.testing.assert_close(crops[1:], whole)
