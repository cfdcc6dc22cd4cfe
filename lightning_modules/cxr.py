"""Nodules in chest radiographs."""

from pathlib import Path
from typing import Any, cast

from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lightning_modules.core.adapters import (
    AdapterConfig,
    activate,
    adapter_names,
    add_adapter,
    save_adapter,
)
from lightning_modules.core.codec import LatentCodec
from lightning_modules.core.denoiser import Denoiser, UNetConfig
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


class CXRAdapter(CXRDiffusion):
    """One radiological characteristic, as an adapter on a frozen base (paper A, stage 3.1).

    The base is `init_from`; the adapter is trained on nodules that have the characteristic, and
    written to `adapters/<characteristic>` in the run's folder, as peft reads it.

    Args:
        characteristic: the adapter's name.
        adapter: its size.
        strength: at which it is used in synthesis; 0 is the base, and
            `core.adapters.subtlety_strength` gives paper A's slider. The update is multiplied by
            strength * alpha / rank, which is logged.
        kwargs: see `CXRDiffusion`.
    """

    def __init__(
        self,
        head: CXRHead,
        codec: LatentCodec,
        unet: UNetConfig,
        process: DiffusionProcess,
        characteristic: str,
        adapter: AdapterConfig,
        strength: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(head, codec, unet, process, **kwargs)
        self.characteristic, self.adapter, self.strength = characteristic, adapter, strength

    def setup(self, stage: str) -> None:
        """Load the base, unless a checkpoint is going to.

        Raises:
            ValueError: If there is no base.
        """
        if stage == "fit" and not self.trainer.ckpt_path and self.init_from is None:
            message = "An adapter needs a base: set model.init_from to a checkpoint of stage 2."
            raise ValueError(message)
        super().setup(stage)

    def configure_model(self) -> None:
        """Put the adapter on the base, once."""
        if adapter_names(self.denoiser):
            return
        add_adapter(self.denoiser, self.characteristic, self.adapter)
        self.ema = self._average()
        network = cast(Denoiser, self.ema.module)
        activate(network, {self.characteristic: self.strength} if self.strength else {})
        rank_zero_info(
            f"Adapter {self.characteristic}: effective factor {self.adapter.factor:g} in training, "
            f"{self.strength * self.adapter.factor:g} in synthesis"
        )

    @rank_zero_only
    def on_fit_end(self) -> None:
        """Write the averaged adapter."""
        folder = Path(self.trainer.default_root_dir) / "adapters" / self.characteristic
        save_adapter(cast(Denoiser, self.ema.module), self.characteristic, folder)
        rank_zero_info(f"Adapter: {folder}")
