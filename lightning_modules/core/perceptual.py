"""Perceptual distance from a local weights file; nothing is downloaded."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.core.checkpoint_files import load_weights


class PerceptualDistance(nn.Module):
    """LPIPS (Zhang et al. 2018) of slices, for images and volumes.

    The backbone is torchvision's AlexNet, whose weights come from a local file; the linear layers
    are those that the lpips package ships. A volume is compared on slices of each of its planes.

    Args:
        weights: torchvision's AlexNet state dict, such as `alexnet-owt-7be5be79.pth`.
        slices: slices taken from each plane of a volume, equally spaced.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds other weights.
    """

    def __init__(self, weights: Path, slices: int = 4) -> None:
        super().__init__()
        if not Path(weights).is_file():
            message = (
                f"The perceptual weights {weights} are not a file: give the path of torchvision's "
                "AlexNet state dict, or null to train without a perceptual loss."
            )
            raise FileNotFoundError(message)
        import lpips

        self.slices = slices
        # pnet_rand leaves the backbone to us; the package would download it
        self.lpips = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        wanted = self.lpips.net.state_dict()
        try:
            stored = load_weights(weights)
            # lpips calls layer i of the features "slice<s>.<i>"
            self.lpips.net.load_state_dict(
                {name: stored["features." + name.split(".", 1)[1]] for name in wanted}
            )
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            message = (
                f"The perceptual weights {weights} are not torchvision's AlexNet state dict: "
                "give that file, or null to train without a perceptual loss."
            )
            raise ValueError(message) from error
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "PerceptualDistance":
        """Stay in evaluation mode: dropout has no place in a distance."""
        return super().train(False)

    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        """Mean distance between images `(B, 1, *spatial)` in [-1, 1], a scalar."""
        if image.ndim == 4:
            return self._planes(image, other)
        planes = [self._compare(image, other, axis) for axis in range(2, image.ndim)]
        return torch.stack(planes).mean()

    def _compare(self, image: Tensor, other: Tensor, axis: int) -> Tensor:
        count = min(self.slices, image.shape[axis])
        chosen = torch.linspace(0, image.shape[axis] - 1, count, device=image.device).long()
        stacks = [
            volume.index_select(axis, chosen).movedim(axis, 1).flatten(0, 1)
            for volume in (image, other)
        ]
        return self._planes(*stacks)

    def _planes(self, image: Tensor, other: Tensor) -> Tensor:
        # AlexNet's pooling needs some 64 pixels
        if min(image.shape[-2:]) < 64:
            image, other = (
                F.interpolate(x, size=(64, 64), mode="bilinear") for x in (image, other)
            )
        distance: Tensor = self.lpips(image.expand(-1, 3, -1, -1), other.expand(-1, 3, -1, -1))
        return distance.mean()
