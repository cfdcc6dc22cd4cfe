"""Codecs that others have trained, from files on this machine: Stable Diffusion's and MAISI's."""

import json
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.patients import UNKNOWN_PATIENTS
from lightning_modules.core.checkpoint_files import load_weights
from lightning_modules.core.codec import Codec, check_channels
from lightning_modules.core.window import IntensityWindow


class PretrainedCodec(Codec):
    """A codec whose weights are there before any training here; it may be trained further.

    Attributes:
        error_limit: see `DiffusersCodec` and `MaisiCodec`.
    """

    error_limit: float | None

    @abstractmethod
    def load_pretrained(self) -> None:
        """Read the weights.

        Raises:
            FileNotFoundError: If they are not there.
            ValueError: If they were not given, are damaged, or are another network's.
        """

    def _state(self, error_limit: float | None, trained_on_patients: bool) -> None:
        self.error_limit = error_limit
        self.patients = frozenset([UNKNOWN_PATIENTS] if trained_on_patients else [])


class DiffusersCodec(PretrainedCodec):
    """An AutoencoderKL as diffusers writes it, such as Stable Diffusion's (paper A has that one).

    It sees images of two axes. A grey image is given in each of its channels, and the mean of what
    comes out of them is taken. The scale of the latents is that of its config.

    Args:
        folder: with `config.json` and `diffusion_pytorch_model.safetensors`, or `.bin`; null where
            a checkpoint brings the weights.
        config: what `config.json` says, so that the folder is not needed once there is a
            checkpoint; by default it is read.
        error_limit: mean absolute error of a reconstruction, in the images' units, above which
            training does not begin; null for none.
        trained_on_patients: whether it was trained on patients, of whom nothing is known here;
            Stable Diffusion's was not.

    Raises:
        FileNotFoundError: If the folder has no config.
        ValueError: If the config is none of an AutoencoderKL.
    """

    def __init__(
        self,
        folder: Path | None = None,
        config: dict[str, Any] | None = None,
        error_limit: float | None = 10.0,
        trained_on_patients: bool = False,
    ) -> None:
        if config is None:
            if folder is None:
                message = (
                    "A DiffusersCodec needs a folder or a config: set codec.init_args.folder to "
                    "the folder of an AutoencoderKL."
                )
                raise ValueError(message)
            config = _diffusers_config(Path(folder) / "config.json")
        from diffusers import AutoencoderKL

        try:
            network = AutoencoderKL(**config)
        except (TypeError, ValueError) as error:
            message = (
                f"The config of {folder or 'the codec'} makes no AutoencoderKL ({error}): expected "
                "the folder of one, as diffusers writes it."
            )
            raise ValueError(message) from error
        known = network.config
        compression = 2 ** (len(known.block_out_channels) - 1)
        super().__init__(network, 2, known.latent_channels, compression, {"config": config})
        self._state(error_limit, trained_on_patients)
        self.folder = folder

    def load_pretrained(self) -> None:
        """See `PretrainedCodec`."""
        if self.folder is None:
            message = "The codec has a config and no weights: set codec.init_args.folder."
            raise ValueError(message)
        from diffusers import AutoencoderKL
        from safetensors import SafetensorError

        try:
            # it converts the names of older files, and takes the file that is there
            network, found = AutoencoderKL.from_pretrained(
                str(self.folder),
                local_files_only=True,
                output_loading_info=True,
                torch_dtype=torch.float32,
            )
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            message = (
                f"The weights in {self.folder} cannot be read ({error}): expected "
                "diffusion_pytorch_model.safetensors, whole and of that config; copy it again."
            )
            kind = FileNotFoundError if not _holds_weights(Path(self.folder)) else ValueError
            raise kind(message) from error
        if wrong := [*found["missing_keys"], *found["unexpected_keys"]]:
            message = (
                f"The weights in {self.folder} are not those of its config (the two differ in "
                f"{', '.join(sorted(wrong)[:3])}): copy the folder again."
            )
            raise ValueError(message)
        try:
            self.autoencoder.load_state_dict(network.state_dict())
        except RuntimeError as error:
            message = (
                f"The weights in {self.folder} are not of codec.init_args.config: leave it out, or "
                "give the folder's."
            )
            raise ValueError(message) from error
        config = network.config
        deviation, mean = config.latents_std, config.latents_mean
        scale = 1 / torch.tensor(deviation) if deviation else config.scaling_factor
        self.scale_factor.copy_(torch.as_tensor(scale))
        self.shift.copy_(torch.as_tensor(mean if mean else config.shift_factor or 0.0))

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See `Codec`."""
        channels = self.autoencoder.config.in_channels
        with self._precision(image):
            image = image.expand(-1, channels, *image.shape[2:])
            found = self.autoencoder.encode(image).latent_dist
        return found.mean, found.logvar

    def reconstruct(self, z: Tensor) -> Tensor:
        """See `Codec`."""
        with self._precision(z):
            image: Tensor = self.autoencoder.decode(z).sample
        return image.mean(1, keepdim=True)

    def _precision(self, like: Tensor) -> torch.autocast:
        """Of float32 where the config asks for it, as with half the range it may overflow."""
        enabled = torch.is_autocast_enabled(like.device.type)
        return torch.autocast(
            like.device.type, enabled=enabled and not self.autoencoder.config.force_upcast
        )


class MaisiCodec(PretrainedCodec):
    """The autoencoder of MAISI (Guo et al. 2024), MONAI's AutoencoderKlMaisi, for CT.

    It maps -1000 to 1000 HU to [0, 1]; the images that it is given here are brought to that range,
    and back. The scale of its latents is measured.

    Args:
        weights: state dict as NVIDIA gives it (`autoencoder_epoch273.pt`, `autoencoder_v2.pt`), or
            the same as safetensors; null where a checkpoint brings the weights.
        channels: channels of each level; each further level halves the resolution.
        latent_channels: channels of the latent.
        num_res_blocks: residual blocks of each level.
        norm_num_groups: groups of the group normalization; divides every entry of `channels`.
        num_splits: parts that a convolution is taken in, one after the other, to save memory.
        error_limit: mean absolute error of a reconstruction in HU above which training does not
            begin; null for none.
        trained_on_patients: whether it was trained on patients of whom nothing is known here, as
            MAISI's was: patients of public CT.

    Raises:
        ValueError: If the groups do not divide the channels.
    """

    RANGE_HU = IntensityWindow(-1000, 1000)
    """Intensities that the network sees as 0 and 1."""

    def __init__(
        self,
        weights: Path | None = None,
        channels: Sequence[int] = (64, 128, 256),
        latent_channels: int = 4,
        num_res_blocks: int = 2,
        norm_num_groups: int = 32,
        num_splits: int = 1,
        error_limit: float | None = 50.0,
        trained_on_patients: bool = True,
    ) -> None:
        check_channels("codec", channels, norm_num_groups)
        from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi

        levels = len(channels)
        network = AutoencoderKlMaisi(
            spatial_dims=3,
            in_channels=1,
            out_channels=1,
            num_res_blocks=(num_res_blocks,) * levels,
            num_channels=tuple(channels),
            attention_levels=(False,) * levels,
            latent_channels=latent_channels,
            norm_num_groups=norm_num_groups,
            num_splits=num_splits,
            save_mem=False,
        )
        settings = {
            "channels": list(channels),
            "latent_channels": latent_channels,
            "num_res_blocks": num_res_blocks,
            "norm_num_groups": norm_num_groups,
            "num_splits": num_splits,
        }
        super().__init__(network, 3, latent_channels, 2 ** (levels - 1), settings)
        self._state(error_limit, trained_on_patients)
        self.weights = weights
        self.window = self.RANGE_HU

    def see(self, window: IntensityWindow) -> None:
        """Take the window whose ends -1 and 1 stand for.

        Raises:
            ValueError: If it goes beyond what the network sees.
        """
        low, high = self.RANGE_HU.ends
        if window.low < low or window.high > high:
            message = (
                f"The window is {list(window.ends)} HU, but MAISI's autoencoder sees {low:g} to "
                f"{high:g} HU: give a window within."
            )
            raise ValueError(message)
        self.window = window

    def load_pretrained(self) -> None:
        """See `PretrainedCodec`."""
        if self.weights is None:
            message = "MaisiCodec has no weights: set codec.init_args.weights to MAISI's file."
            raise ValueError(message)
        state = _maisi_state(Path(self.weights))
        try:
            self.autoencoder.load_state_dict(state)
        except (RuntimeError, AttributeError) as error:
            message = (
                f"The weights in {self.weights} are not those of MAISI's autoencoder with channels "
                f"{self.settings['channels']}: give its file, or its sizes."
            )
            raise ValueError(message) from error

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See `Codec`."""
        mean, sigma = self.autoencoder.encode(image * self._gain + self._offset)
        return mean, 2 * torch.log(sigma)

    def reconstruct(self, z: Tensor) -> Tensor:
        """See `Codec`; the image may go beyond [-1, 1], where the network's range does."""
        image: Tensor = (self.autoencoder.decode(z) - self._offset) / self._gain
        return image

    @property
    def _gain(self) -> float:
        """What the network sees, [0, 1] over its range, is an image times this plus an offset."""
        low, high = self.RANGE_HU.ends
        return (self.window.high - self.window.low) / 2 / (high - low)

    @property
    def _offset(self) -> float:
        low, high = self.RANGE_HU.ends
        return ((self.window.high + self.window.low) / 2 - low) / (high - low)


def _diffusers_config(path: Path) -> dict[str, Any]:
    """The arguments in an AutoencoderKL's `config.json`."""
    if not path.is_file():
        inner = path.parent / "vae" / path.name
        hint = f"give {inner.parent}" if inner.is_file() else "give the folder of an AutoencoderKL"
        message = f"{path} is missing: {hint}, as diffusers writes it."
        raise FileNotFoundError(message)
    try:
        said: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        message = f"{path} is no JSON ({error}): copy the codec's folder again."
        raise ValueError(message) from error
    name = said.get("_class_name") if isinstance(said, dict) else None
    if name != "AutoencoderKL":
        message = f"{path} is of the class {name!r}, expected AutoencoderKL: give such a folder."
        raise ValueError(message)
    return {key: value for key, value in said.items() if not key.startswith("_")}


def _holds_weights(folder: Path) -> bool:
    return any(folder.glob("diffusion_pytorch_model*"))


def _maisi_state(path: Path) -> Any:
    """MAISI's state dict, which some of its files have under a name."""
    if not path.is_file():
        message = f"The codec's weights {path} are not a file: correct codec.init_args.weights."
        raise FileNotFoundError(message)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load

            return load(path.read_bytes())
        state = load_weights(path)
    except Exception as error:  # safetensors has errors of its own
        message = f"The codec's weights {path} are damaged or cut short ({error}): copy them again."
        raise ValueError(message) from error
    return state.get("unet_state_dict", state) if isinstance(state, dict) else state
