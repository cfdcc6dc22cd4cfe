"""Nodules in chest CT."""

from typing import Any

from lightning_modules.core.codec import LatentCodec
from lightning_modules.core.pretrained_codecs import PretrainedCodec
from lightning_modules.core.process import DiffusionProcess
from lightning_modules.core.unet import UNetConfig
from lightning_modules.diffusion import NoduleDiffusion
from lightning_modules.heads.ct import CTHead


class CTDiffusion(NoduleDiffusion):
    """3D nodules by subtype, mask and HU histogram (paper B: Kannan et al., HR-LDM).

    Args:
        head: window, conditioners and regularizers.
        codec: the autoencoder; three-dimensional.
        unet: size of the denoising UNet; null where a transformer takes its place.
        process: the diffusion process.
        kwargs: see `NoduleDiffusion`.

    Raises:
        ValueError: If the codec is not three-dimensional.
    """

    def __init__(
        self,
        head: CTHead,
        codec: LatentCodec | PretrainedCodec,
        unet: UNetConfig | None,
        process: DiffusionProcess,
        **kwargs: Any,
    ) -> None:
        if codec.spatial_dims != 3:
            message = (
                f"CT needs a codec with spatial_dims 3, but model.codec has {codec.spatial_dims}."
            )
            raise ValueError(message)
        super().__init__(head, codec, unet, process, **kwargs)
