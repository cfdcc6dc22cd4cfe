"""Feature networks: each against its library's own network, from weights files made here."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from monai.networks.nets import resnet10
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchvision.models import resnet50

from datamodules.batch import PLANES
from lightning_modules.core.features import (
    ClassifierFeatures,
    FeatureExtractor,
    InceptionFeatures,
    MedicalNetFeatures,
    RadImageNetFeatures,
    RandomFeatures,
    TimmFeatures,
    TimmStatistics,
)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 1, 40, 40, generator=torch.Generator().manual_seed(0))


def randomize(network: nn.Module) -> nn.Module:
    """Weights that are not an initialization's, batch statistics included."""
    torch.manual_seed(1)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.copy_(0.05 * torch.randn(value.shape).abs() + 0.01)
    return network.eval()


def test_inception_is_torch_fidelitys(
    tmp_path: Path, image: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "inception.pth"
    torch.save({}, path)
    with monkeypatch.context() as patch:  # it insists on a file
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = FeatureExtractorInceptionV3("x", ["192"], feature_extractor_weights_path=path)
    torch.save(randomize(network).state_dict(), path)
    extractor = InceptionFeatures(path, "192")
    pixels = (image * 255).round().to(torch.uint8).repeat(1, 3, 1, 1)
    torch.testing.assert_close(extractor(image), network(pixels)[0])
    assert extractor.width == extractor(image).shape[1] == 192


@pytest.mark.parametrize("numbered", [True, False])
def test_radimagenet_is_a_resnet50(numbered: bool, tmp_path: Path, image: torch.Tensor) -> None:
    network: Any = randomize(resnet50(weights=None))
    network.fc = nn.Identity()
    # RadImageNet's file numbers the first nine children under "backbone"
    stored: Any = nn.Module() if numbered else network
    if numbered:
        stored.backbone = nn.Sequential(*list(network.children())[:9])
    torch.save(stored.state_dict(), tmp_path / "ResNet50.pt")
    extractor = RadImageNetFeatures(tmp_path / "ResNet50.pt")
    resized = F.interpolate(image, (224, 224), mode="bilinear", antialias=True)
    shifted = torch.cat([resized - mean for mean in (0.406, 0.456, 0.485)], 1)
    torch.testing.assert_close(extractor(image), network(shifted))
    assert extractor.width == 2048


def test_timm_networks_load_with_and_without_a_last_layer(
    tmp_path: Path, image: torch.Tensor
) -> None:
    network = randomize(timm.create_model("resnet10t", num_classes=7))
    torch.save(network.state_dict(), tmp_path / "whole.pth")
    extractor = TimmFeatures("resnet10t", tmp_path / "whole.pth")
    size, mean, std = extractor.size, extractor.mean, extractor.std
    resized = F.interpolate(image, size, mode="bilinear", antialias=True).repeat(1, 3, 1, 1)
    normal = (resized - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    expected = network.forward_head(network.forward_features(normal), pre_logits=True)
    torch.testing.assert_close(extractor(image), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="has no network 'resnet10000'"):
        TimmFeatures("resnet10000", tmp_path / "whole.pth")
    with pytest.raises(ValueError, match="are not those of timm's resnet14t"):
        TimmFeatures("resnet14t", tmp_path / "whole.pth")
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        TimmFeatures("resnet10t", tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match="holds no weights that can be read"):
        TimmFeatures("resnet10t", tmp_path / "text.pth")


def test_statistics_tell_textures_apart_that_show_the_same() -> None:
    extractor = TimmStatistics()
    disk = (torch.hypot(*torch.meshgrid(2 * [torch.arange(-24.0, 24)], indexing="ij")) < 12).float()
    grain = torch.rand(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    smooth, grainy, again = 0.8 * disk, *(disk * (0.6 + 0.4 * grain)[:, 0])
    features = extractor(torch.stack([smooth, grainy, again])[:, None])
    assert features.shape == (3, extractor.width)
    assert (features[1] - features[2]).norm() < 0.5 * (features[0] - features[1]).norm()
    stages = extractor.network.forward_intermediates(
        2 * F.interpolate(smooth[None, None], (144, 144), mode="bilinear").expand(-1, 3, -1, -1)
        - 1,
        intermediates_only=True,
    )
    first = stages[0].shape[1]
    torch.testing.assert_close(features[0, first : 2 * first], stages[0].mean((0, 2, 3)))
    torch.testing.assert_close(features[0, :first], stages[0].var((0, 2, 3), unbiased=False).sqrt())


def test_medicalnet_sees_volumes(tmp_path: Path) -> None:
    network = randomize(
        resnet10(n_input_channels=1, feed_forward=False, shortcut_type="B", bias_downsample=False)
    )
    stored = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": stored}, tmp_path / "medical.pth")
    extractor = MedicalNetFeatures(tmp_path / "medical.pth")
    volume = torch.rand(2, 1, 16, 16, 16)
    axes = (1, 2, 3, 4)
    normal = (volume - volume.mean(axes, keepdim=True)) / volume.std(axes, keepdim=True)
    # random weights give features of any size: only the relative error counts
    torch.testing.assert_close(extractor(volume), network(normal), rtol=1e-4, atol=0)
    assert list(extractor.views(volume)) == ["volume"]
    with pytest.raises(ValueError, match="sees volumes, but these are images"):
        extractor.view_names(2)


def test_a_network_of_images_sees_the_middle_planes_of_a_volume() -> None:
    extractor = RandomFeatures(width=8)
    volume = torch.rand(3, 1, 10, 12, 14)
    views = extractor.views(volume)
    assert tuple(views) == PLANES == extractor.view_names(3)
    torch.testing.assert_close(views["axial"], extractor(volume[:, :, 5]))
    torch.testing.assert_close(views["coronal"], extractor(volume[:, :, :, 6]))
    torch.testing.assert_close(views["sagittal"], extractor(volume[..., 7]))


def test_random_features_are_their_seeds(image: torch.Tensor) -> None:
    first, again, other = (RandomFeatures(seed)(image) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert first.shape == (2, 64)
    assert "random, seed 3" in RandomFeatures(3).provenance["weights"]


def test_features_need_no_gradient_and_stay_in_evaluation() -> None:
    extractor = RandomFeatures()
    assert not any(p.requires_grad for p in extractor.parameters())
    assert not extractor.train().training


@pytest.mark.parametrize(
    "make", [InceptionFeatures, RadImageNetFeatures, MedicalNetFeatures, ClassifierFeatures]
)
def test_files_that_are_none_are_named(make: type[FeatureExtractor], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        make(tmp_path / "absent.pth")  # type: ignore[call-arg]
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=r"cut\.pth"):
        make(tmp_path / "cut.pth")  # type: ignore[call-arg]
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth"):
        make(tmp_path / "other.pth")  # type: ignore[call-arg]
