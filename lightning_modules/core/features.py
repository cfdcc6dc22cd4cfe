"""Feature networks: what a distance between distributions of images is measured in."""

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.batch import PLANES
from lightning_modules.core.checkpoint_files import load_weights
from lightning_modules.core.classifier import load_classifier
from lightning_modules.core.pretrained import (
    INSTALLED_MODEL,
    Weights,
    read_pretrained,
    weights_file,
)


class FeatureExtractor(nn.Module, ABC):
    """A frozen network that turns images into feature vectors.

    Attributes:
        spatial_dims: 2 or 3.
        width: number of features.
        provenance: what the features are: network, weights and preprocessing, in words.
    """

    spatial_dims: int = 2
    width: int
    provenance: dict[str, str]

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Features `(B, D)` of images `(B, 1, *spatial)`, in which the window is [0, 1]."""

    def view_names(self, dims: int) -> tuple[str, ...]:
        """What the network sees of images (2) or volumes (3).

        Raises:
            ValueError: If the network sees volumes and these are images.
        """
        if dims == self.spatial_dims:
            return ("image" if dims == 2 else "volume",)
        if dims < self.spatial_dims:
            message = (
                f"{type(self).__name__} sees volumes, but these are images: choose another "
                "extractor."
            )
            raise ValueError(message)
        return PLANES

    def views(self, image: Tensor) -> dict[str, Tensor]:
        """Features `(B, D)` of each view.

        Args:
            image: `(B, 1, *spatial)`, in which the window is [0, 1]. Of a volume, a network of
                images sees the slice through the middle of each plane (2.5D).
        """
        names = self.view_names(image.ndim - 2)
        if len(names) == 1:
            return {names[0]: self(image)}
        middles = (image.select(axis, image.shape[axis] // 2) for axis in (2, 3, 4))
        return {plane: self(middle) for plane, middle in zip(names, middles, strict=True)}

    def mean_view(self, image: Tensor) -> Tensor:
        """Features `(B, D)`, of volumes the mean over the planes; see `views`."""
        return torch.stack([*self.views(image).values()]).mean(0)

    def train(self, mode: bool = True) -> "FeatureExtractor":
        """Stay in evaluation mode."""
        return super().train(False)

    def describe(self, width: int, network: str, weights: str, preprocessing: str) -> None:
        """Say what the features are, and take all gradients."""
        self.width = width
        self.requires_grad_(False)
        self.train(False)
        self.provenance = {"network": network, "weights": weights, "preprocessing": preprocessing}


class InceptionFeatures(FeatureExtractor):
    """Inception-v3 of the original FID (Heusel et al. 2017), as torch-fidelity defines it.

    Args:
        weights: torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`.
        layer: whose features; of 64, 192, 768 or 2048 values.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds other weights.
    """

    def __init__(self, weights: Path, layer: Literal["64", "192", "768", "2048"] = "2048") -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        super().__init__()
        _state_dict(weights)  # the network itself would run what a file may hold
        try:
            self.network = FeatureExtractorInceptionV3(
                "inception", [layer], feature_extractor_weights_path=str(weights)
            )
        except RuntimeError as error:
            raise _unfit(weights, "torch-fidelity's Inception-v3") from error
        self.describe(
            int(layer),
            f"Inception-v3 (torch-fidelity), layer {layer}",
            weights_hash(weights),
            "window to 0..255, rounded, grey to RGB, 299 x 299 as in TensorFlow 1",
        )

    def forward(self, image: Tensor) -> Tensor:
        """Features of 8-bit pictures."""
        pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8)
        features: Tensor = self.network(pixels.expand(-1, 3, -1, -1))[0]
        return features


class RadImageNetFeatures(FeatureExtractor):
    """ResNet-50 trained on RadImageNet (Mei et al. 2022), pooled: 2048 values.

    Args:
        weights: RadImageNet's `ResNet50.pt`, or its weights under torchvision's names.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds other weights.
    """

    MEAN = (0.406, 0.456, 0.485)

    def __init__(self, weights: Path) -> None:
        from torchvision.models import resnet50

        super().__init__()
        # RadImageNet numbers the children of torchvision's network
        numbers = {"0": "conv1", "1": "bn1", **{str(3 + i): f"layer{i}" for i in (1, 2, 3, 4)}}
        stored = {}
        for name, value in _state_dict(weights).items():
            number, _, rest = name.removeprefix("backbone.").partition(".")
            stored[f"{numbers.get(number, number)}.{rest}"] = value
        self.network = resnet50(weights=None)
        self.network.fc = nn.Identity()
        try:
            self.network.load_state_dict(stored)
        except RuntimeError as error:
            raise _unfit(weights, "a ResNet-50 without its last layer") from error
        self.describe(
            2048,
            "ResNet-50 (RadImageNet), pooled",
            weights_hash(weights),
            f"window to 0..1, grey to BGR, minus {self.MEAN}, 224 x 224 bilinear",
        )

    def forward(self, image: Tensor) -> Tensor:
        """Pooled features."""
        resized = F.interpolate(image.clamp(0, 1), (224, 224), mode="bilinear", antialias=True)
        mean = torch.tensor(self.MEAN, device=image.device).view(1, 3, 1, 1)
        features: Tensor = self.network(resized.expand(-1, 3, -1, -1) - mean)
        return features


class TimmFeatures(FeatureExtractor):
    """Any network of timm, pooled.

    Args:
        model: timm's name of it, such as `resnet18`.
        weights: its state dict (PyTorch or safetensors), with the classifier or without; or
            `installed`, for the ImageNet weights of the extra `pretrained`.

    Raises:
        FileNotFoundError: If there is no such file, or the extra is not installed.
        ValueError: If timm has no such network, or the file holds other weights.
    """

    def __init__(self, model: str = INSTALLED_MODEL, weights: Weights = "installed") -> None:
        import timm

        super().__init__()
        stored = read_pretrained(model, weights)
        network: Any = timm.create_model(model, num_classes=0)
        network.load_state_dict(stored)
        config = timm.data.resolve_model_data_config(network)
        self.network = network
        self.size = tuple(config["input_size"][1:])
        self.mean, self.std = config["mean"], config["std"]
        self.describe(
            network.num_features,
            f"{model} (timm {timm.__version__}), pooled",
            weights_hash(weights_file(weights)),
            f"window to 0..1, grey to RGB, minus {self.mean} over {self.std}, "
            f"{self.size[0]} x {self.size[1]} bilinear",
        )

    def forward(self, image: Tensor) -> Tensor:
        """Pooled features."""
        resized = F.interpolate(image.clamp(0, 1), self.size, mode="bilinear", antialias=True)
        mean, std = (
            torch.tensor(values, device=image.device).view(1, 3, 1, 1)
            for values in (self.mean, self.std)
        )
        features: Tensor = self.network((resized.expand(-1, 3, -1, -1) - mean) / std)
        return features


class TimmStatistics(FeatureExtractor):
    """Mean and deviation of every channel of every stage of a network of timm's.

    They describe texture and style (Gatys et al. 2016; Huang and Belongie 2017), where the last
    layer alone describes what a picture shows.

    Args:
        model: timm's name of the network.
        weights: its state dict (PyTorch or safetensors), or `installed`, for the ImageNet weights
            of the extra `pretrained`.
        enlarged: how many times larger the network sees the images.

    Raises:
        FileNotFoundError: If there is no such file, or the extra is not installed.
        ValueError: If timm has no such network, or the file holds other weights.
    """

    def __init__(
        self, model: str = INSTALLED_MODEL, weights: Weights = "installed", enlarged: int = 3
    ) -> None:
        import timm

        super().__init__()
        network: Any = timm.create_model(model, num_classes=0)
        network.load_state_dict(read_pretrained(model, weights))
        config = timm.data.resolve_model_data_config(network)
        self.network, self.enlarged = network, enlarged
        self.mean, self.std = config["mean"], config["std"]
        width = self(torch.zeros(1, 1, 32, 32)).shape[1]
        self.describe(
            width,
            f"{model} (timm {timm.__version__}), mean and deviation of every stage's channels",
            weights_hash(weights_file(weights)),
            f"window to 0..1, grey to RGB, minus {self.mean} over {self.std}, {enlarged} times as "
            "large, bilinear",
        )

    def forward(self, image: Tensor) -> Tensor:
        """Means and deviations."""
        mean, std = (
            torch.tensor(values, device=image.device).view(1, 3, 1, 1)
            for values in (self.mean, self.std)
        )
        large = F.interpolate(image.clamp(0, 1), scale_factor=self.enlarged, mode="bilinear")
        stages = self.network.forward_intermediates(
            (large.expand(-1, 3, -1, -1) - mean) / std, intermediates_only=True
        )
        statistics = [
            each for stage in stages for each in torch.std_mean(stage, (2, 3), correction=0)
        ]
        return torch.cat(statistics, 1)


class MedicalNetFeatures(FeatureExtractor):
    """A 3D ResNet-10 (Chen et al. 2019, MedicalNet; MONAI's), pooled: 512 values.

    Args:
        weights: MedicalNet's `resnet_10_23dataset.pth`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds other weights.
    """

    spatial_dims = 3

    def __init__(self, weights: Path) -> None:
        from monai.networks.nets import resnet10

        super().__init__()
        stored = _state_dict(weights)
        stored = {name.removeprefix("module."): value for name, value in stored.items()}
        self.network = resnet10(
            n_input_channels=1, feed_forward=False, shortcut_type="B", bias_downsample=False
        )
        try:
            self.network.load_state_dict(stored)
        except RuntimeError as error:
            raise _unfit(weights, "MedicalNet's ResNet-10") from error
        self.describe(
            512,
            "3D ResNet-10 (MedicalNet), pooled",
            weights_hash(weights),
            "window to 0..1, each volume to mean 0 and deviation 1",
        )

    def forward(self, image: Tensor) -> Tensor:
        """Pooled features."""
        axes = tuple(range(1, image.ndim))
        std, mean = torch.std_mean(image, axes, keepdim=True)
        features: Tensor = self.network((image - mean) / std.clamp(min=1e-6))
        return features


class ClassifierFeatures(FeatureExtractor):
    """What a `NoduleClassifier` sees before its last layer.

    Args:
        checkpoint: of the classifier, for images or volumes, with the model's window.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no classifier's.
    """

    def __init__(self, checkpoint: Path) -> None:
        super().__init__()
        self.network = load_classifier(checkpoint)
        self.spatial_dims = self.network.spatial_dims
        names = ", ".join(self.network.characteristics)
        self.describe(
            self.network.answer.in_features,
            f"NoduleClassifier ({names}), pooled",
            weights_hash(checkpoint),
            "window to the classifier's",
        )

    def forward(self, image: Tensor) -> Tensor:
        """Pooled features."""
        return self.network.features(self.network.window.denormalize(2 * image - 1))


class RandomFeatures(FeatureExtractor):
    """A network of random weights, for where there are none: tests and comparisons, no realism.

    Args:
        seed: of the weights.
        spatial_dims: 2 or 3.
        width: number of features.
    """

    def __init__(self, seed: int = 0, spatial_dims: int = 2, width: int = 64) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
        stream = torch.Generator().manual_seed(seed)
        layers: list[nn.Module] = []
        for before, after in ((1, width // 4), (width // 4, width // 2), (width // 2, width)):
            layer: Any = convolution(before, after, 3, 2, 1)
            for parameter in layer.parameters():
                scale = (before * 3**spatial_dims) ** -0.5
                parameter.data = scale * torch.randn(parameter.shape, generator=stream)
            layers += [layer, nn.ReLU()]
        self.network = nn.Sequential(*layers)
        self.describe(
            width,
            f"random {spatial_dims}D convolutions, {width} features, pooled",
            f"random, seed {seed}",
            "window to -1..1",
        )

    def forward(self, image: Tensor) -> Tensor:
        """Pooled features."""
        return self.network(2 * image - 1).flatten(2).mean(2)  # type: ignore[no-any-return]


def weights_hash(path: Path) -> str:
    """Name and hash of a weights file."""
    with Path(path).open("rb") as file:
        return f"{Path(path).name}, SHA-256 {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"


def _absent(path: Path) -> FileNotFoundError:
    return FileNotFoundError(
        f"The feature network's weights {path} are not a file: give a local path; nothing is "
        "downloaded."
    )


def _unfit(path: Path, network: str) -> ValueError:
    return ValueError(f"The weights in {path} are not those of {network}: give that file.")


def _state_dict(path: Path) -> dict[str, Tensor]:
    """The weights in a file, read without running anything that it may hold."""
    if not Path(path).is_file():
        raise _absent(path)
    try:
        stored = load_weights(path)
        weights: dict[str, Tensor] = stored.get("state_dict", stored)
    except (ValueError, AttributeError) as error:
        message = f"The file {path} holds no weights, or is cut short: copy it again."
        raise ValueError(message) from error
    return weights
