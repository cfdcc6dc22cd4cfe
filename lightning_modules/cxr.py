"""Nodules in chest radiographs."""

from typing import Any

from lightning_modules.core.codec import LatentCodec
from lightning_modules.core.denoiser import UNetConfig
from lightning_modules.core.process import DiffusionProcess
from lightning_modules.diffusion import NoduleDiffusion
from lightning_modules.heads.cxr import CXRHead


class CXRDiffusion(NoduleDiffusion):
    """Radiograph nodules by mask (paper A: Singh et al., MIDL 2026, stages 1 and 2).

    Stage 1 is the same model on patches without a nodule: their masks are empty, so that the whole
    patch is synthesized. Stage 2 starts from it with `init_from`, or from nothing.

    Args:
        head: window, conditioners and regularizers.
        codec: the autoencoder; two-dimensional.
        unet: size of the denoising UNet.
        process: the diffusion process.
        kwargs: see `NoduleDiffusion`.

    Raises:
        ValueError: If the codec is not two-dimensional.
    """

    def __init__(
        self,
        head: CXRHead,
        codec: LatentCodec,
        unet: UNetConfig,
        process: DiffusionProcess,
        **kwargs: Any,
    ) -> None:
        if codec.spatial_dims != 2:
            message = (
                "Radiographs need a codec with spatial_dims 2, but model.codec has "
                f"{codec.spatial_dims}."
            )
            raise ValueError(message)
        super().__init__(head, codec, unet, process, **kwargs)
