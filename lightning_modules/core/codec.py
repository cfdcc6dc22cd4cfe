"""Image to latent and back: what every codec is, and the one that is trained here."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from monai.networks.nets import AutoencoderKL
from torch import Tensor, nn

from lightning_modules.core.window import IntensityWindow


def check_channels(what: str, channels: Sequence[int], norm_num_groups: int) -> None:
    """Refuse channels of levels that group normalization cannot divide.

    Args:
        what: of which network, for the message.
        channels: of each level.
        norm_num_groups: groups of the normalization.

    Raises:
        ValueError: If there is no level, or channels are no multiple of the groups.
    """
    groups = norm_num_groups
    if not channels or groups < 1 or any(n < 1 or n % groups for n in channels):
        message = (
            f"{what}.channels is {list(channels)}: give each level a multiple of {what}."
            f"norm_num_groups, which is {groups}, and one level at least."
        )
        raise ValueError(message)


class Codec(nn.Module, ABC):
    """A variational autoencoder, and the scale of its latents.

    Latents are standardized channel by channel: `latent = (z - shift) * scale_factor`, so that
    noise of unit variance, histogram ranges and losses mean the same for every codec and channel.
    Both are buffers and kept in the checkpoint. (A single factor, as latent diffusion models
    commonly use, is the special case of a constant vector.)

    Args:
        autoencoder: the network.
        spatial_dims: 2 or 3.
        latent_channels: channels of the latent.
        compression: voxels of the image along one side of a latent voxel.
        settings: see the attribute.

    Attributes:
        settings: arguments that make another of the same weights, as plain data.
        patients: keys of those that the weights have seen before any training here.
    """

    scale_factor: Tensor
    shift: Tensor
    autoencoder: Any
    patients: frozenset[str] = frozenset()

    def __init__(
        self,
        autoencoder: nn.Module,
        spatial_dims: int,
        latent_channels: int,
        compression: int,
        settings: dict[str, Any],
    ) -> None:
        super().__init__()
        self.spatial_dims, self.latent_channels = spatial_dims, latent_channels
        self.compression, self.settings = compression, settings
        self.autoencoder = autoencoder
        unmeasured = torch.full((latent_channels,), torch.nan)
        self.register_buffer("scale_factor", unmeasured.clone())
        self.register_buffer("shift", unmeasured.clone())
        self._checked = False

    def see(self, window: IntensityWindow) -> None:
        """Be told which intensities -1 and 1 stand for; most networks need not know."""

    @abstractmethod
    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """What the network says of an image whose sides fit; see `encode`."""

    @abstractmethod
    def reconstruct(self, z: Tensor) -> Tensor:
        """From the autoencoder's own latent `(B, C, *latent)` to an image `(B, 1, *spatial)`."""

    @property
    def is_measured(self) -> bool:
        """Whether the scale of the latents has been measured."""
        return bool(torch.isfinite(self.scale_factor).all())

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and log-variance, `(B, C, *latent)` each, before standardization.

        Args:
            image: `(B, 1, *spatial)` in [-1, 1].

        Raises:
            ValueError: If a side of the image is not a multiple of the compression.
        """
        if any(side % self.compression for side in image.shape[2:]):
            message = (
                f"The image has {tuple(image.shape[2:])} voxels, but each side must be a multiple "
                f"of {self.compression}, the codec's compression: change the ROI's size."
            )
            raise ValueError(message)
        return self.posterior(image)

    def standardize(self, z: Tensor) -> Tensor:
        """From the autoencoder's latent `(B, C, *latent)` to the diffusion model's.

        Raises:
            RuntimeError: If the scale has not been measured.
        """
        self._check_measured()
        return (z - self._per_channel(self.shift)) * self._per_channel(self.scale_factor)

    def decode(self, latent: Tensor) -> Tensor:
        """From a standardized latent `(B, C, *latent)` to an image `(B, 1, *spatial)`.

        Raises:
            RuntimeError: If the scale has not been measured.
        """
        self._check_measured()
        z = latent / self._per_channel(self.scale_factor) + self._per_channel(self.shift)
        return self.reconstruct(z)

    @torch.no_grad()
    def measure(self, posteriors: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Set shift and scale to the mean and the inverse deviation of the given latents.

        Args:
            posteriors: batches of means and log-variances, `(B, C, *latent)` each. The variance
                of a draw is that of the means plus the mean of the variances.

        Raises:
            ValueError: If there is no batch, or a statistic is not finite or a channel is constant.
        """
        count = 0
        total = square = torch.zeros(self.latent_channels, dtype=torch.float64)
        for batch_mean, logvar in posteriors:
            mean, axes = batch_mean.double(), (0, *range(2, batch_mean.ndim))
            count += mean.numel() // mean.shape[1]
            total = total.to(mean.device) + mean.sum(axes)
            square = square.to(mean.device) + (mean.square() + logvar.double().exp()).sum(axes)
        if count == 0:
            message = "The codec's scale factor needs at least one batch of latents, got none."
            raise ValueError(message)
        shift = total / count
        variance = square / count - shift.square()
        if not (torch.isfinite(variance).all() and (variance > 1e-8).all()):
            message = (
                f"The scale factor cannot be measured: the latents' channels have means "
                f"{shift.tolist()} and variances {variance.tolist()}, expected finite ones above "
                "1e-8: the autoencoder has diverged or ignores a channel; train it again before "
                "the diffusion model."
            )
            raise ValueError(message)
        self.shift.copy_(shift)
        self.scale_factor.copy_(variance.rsqrt())

    def fingerprint(self) -> str:
        """Hex SHA-256 of the autoencoder's weights; the key of everything computed from them."""
        digest = hashlib.sha256()
        for name, value in sorted(self.autoencoder.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _check_measured(self) -> None:
        if self._checked:  # looking waits for the device
            return
        self._checked = self.is_measured
        if not self._checked:
            message = (
                "The codec's scale factor has not been measured: call measure() with batches of "
                "latents, or load a checkpoint that holds it."
            )
            raise RuntimeError(message)

    def _per_channel(self, values: Tensor) -> Tensor:
        return values.view(1, -1, *(1,) * self.spatial_dims)


class LatentCodec(Codec):
    """MONAI's KL-regularized autoencoder, trained in stage 1; its scale is measured in stage 2.

    Args:
        spatial_dims: 2 or 3.
        channels: channels of each level; each further level halves the resolution.
        latent_channels: channels of the latent.
        num_res_blocks: residual blocks of each level.
        norm_num_groups: groups of the group normalization; divides every entry of `channels`.
        checkpointing: recompute activations in the backward pass to save memory.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        channels: Sequence[int] = (32, 64),
        latent_channels: int = 4,
        num_res_blocks: int = 1,
        norm_num_groups: int = 16,
        checkpointing: bool = False,
    ) -> None:
        if spatial_dims not in (2, 3):
            message = f"codec.spatial_dims is {spatial_dims}: give 2 or 3."
            raise ValueError(message)
        check_channels("codec", channels, norm_num_groups)
        settings = {
            "spatial_dims": spatial_dims,
            "channels": list(channels),
            "latent_channels": latent_channels,
            "num_res_blocks": num_res_blocks,
            "norm_num_groups": norm_num_groups,
        }
        autoencoder = AutoencoderKL(
            spatial_dims=spatial_dims,
            channels=tuple(channels),
            latent_channels=latent_channels,
            num_res_blocks=num_res_blocks,
            attention_levels=(False,) * len(channels),
            norm_num_groups=norm_num_groups,
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
            use_checkpoint=checkpointing,
        )
        compression = 2 ** (len(channels) - 1)
        super().__init__(autoencoder, spatial_dims, latent_channels, compression, settings)

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See `Codec`."""
        mean, sigma = self.autoencoder.encode(image)
        return mean, 2 * torch.log(sigma)

    def reconstruct(self, z: Tensor) -> Tensor:
        """See `Codec`."""
        image: Tensor = self.autoencoder.decode(z)
        return image
