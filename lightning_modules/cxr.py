"""Nodules in chest radiographs: the base, labels, and an adapter."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch import Tensor

from datamodules.batch import NoduleBatch
from lightning_modules.core.adapter_analysis import localization_loss
from lightning_modules.core.adapters import (
    AdapterConfig,
    activate,
    adapter_names,
    add_adapter,
    base_alone,
    save_adapter,
)
from lightning_modules.core.averaging import MovingAverage
from lightning_modules.core.codec import LatentCodec
from lightning_modules.core.conditioners import AttributeConditioner
from lightning_modules.core.denoiser import Denoiser, Denoising
from lightning_modules.core.merging import Merging, Weighted
from lightning_modules.core.pretrained_codecs import PretrainedCodec
from lightning_modules.core.process import DiffusionProcess
from lightning_modules.core.sampling import Guidance, LabelGuidance
from lightning_modules.core.unet import UNetConfig
from lightning_modules.diffusion import NoduleDiffusion
from lightning_modules.heads.cxr import CXRHead


class CXRDiffusion(NoduleDiffusion):
    """Radiograph nodules by mask (paper A: Singh et al., MIDL 2026, stages 1 and 2).

    Stage 1 is the same model on patches without a nodule: their masks are empty, so that the whole
    patch is synthesized. Stage 2 starts from it with `init_from`, or from nothing.

    Args:
        head: window, conditioners and regularizers.
        codec: the autoencoder; two-dimensional.
        unet: size of the denoising UNet; null where a transformer takes its place.
        process: the diffusion process.
        kwargs: see `NoduleDiffusion`.

    Raises:
        ValueError: If the codec is not two-dimensional.
    """

    def __init__(
        self,
        head: CXRHead,
        codec: LatentCodec | PretrainedCodec,
        unet: UNetConfig | None,
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


class CXRLabels(CXRDiffusion):
    """Characteristics as labels of one network: what paper A compares its adapters with (table 13).

    Each label is a condition of its own. In synthesis they are composed by guidance
    (`core.sampling.LabelGuidance`): a step costs one network evaluation more for each label that
    takes part.

    Args:
        labels: for each characteristic (an attribute of the batches) its range; synthesis asks for
            the upper end.
        strengths: the scale s_i of each label that takes part in synthesis; by default all at 1.
        dropout: probability, for each label and sample, that it is withheld in training.
        kwargs: see `CXRDiffusion`.

    Raises:
        ValueError: If a strength is given for no label.
    """

    def __init__(
        self,
        head: CXRHead,
        codec: LatentCodec | PretrainedCodec,
        unet: UNetConfig | None,
        process: DiffusionProcess,
        labels: dict[str, tuple[float, float]],
        strengths: dict[str, float] | None = None,
        dropout: float = 0.5,
        **kwargs: Any,
    ) -> None:
        for name, ends in labels.items():
            head.conditioners[name] = AttributeConditioner(
                {name: ends}, ("tokens", "embedding"), dropout=dropout, guided=True
            )
        super().__init__(head, codec, unet, process, **kwargs)
        self.labels = labels
        self.strengths = self._known(dict.fromkeys(labels, 1.0) if strengths is None else strengths)

    def _known(self, strengths: Mapping[str, float]) -> Mapping[str, float]:
        if unknown := set(strengths) - set(self.labels):
            message = (
                f"strengths names {sorted(unknown)}, but the labels are {list(self.labels)}: name "
                "these."
            )
            raise ValueError(message)
        return strengths

    @contextmanager
    def using(
        self, strengths: Mapping[str, float], merging: Merging | None = None
    ) -> Iterator[None]:
        """Let labels take part in what is sampled meanwhile.

        Args:
            strengths: for each label that takes part its scale.
            merging: none; labels are composed by guidance alone.

        Raises:
            ValueError: If a strength is given for no label, or a merging is.
        """
        if merging is not None:
            message = f"Labels are composed by guidance, but {type(merging).__name__} was given."
            raise ValueError(message)
        before, self.strengths = self.strengths, self._known(strengths)
        try:
            yield
        finally:
            self.strengths = before

    @property
    def guidance(self) -> Guidance:
        """No label, and each one alone."""
        return LabelGuidance({n: float(end) for n, (_, end) in self.labels.items()}, self.strengths)


class AdaptedDiffusion(CXRDiffusion):
    """A frozen base, `init_from`, with adapters.

    Args:
        args: see `CXRDiffusion`.
        localization: weight of the loss that keeps adapters from changing anything outside the
            nodule (`core.adapter_analysis.localization_loss`); 0 saves the base's evaluation.
        kwargs: see `CXRDiffusion`.

    Attributes:
        strengths: for each adapter that takes part in synthesis its strength.
        merging: how they take part together.

    Raises:
        ValueError: If the network is to be compiled.
    """

    strengths: Mapping[str, float]
    merging: Merging

    def __init__(self, *args: Any, localization: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        size = self.denoiser.config
        if (mode := size.compile) is not None:
            message = (
                f"{size.section}.compile is {mode!r}, expected null: adapters change a network at "
                "work."
            )
            raise ValueError(message)
        self.localization = localization
        self._adapted: list[MovingAverage] = []  # no module of its own

    @abstractmethod
    def place_adapters(self) -> None:
        """Put the adapters on the base."""

    def configure_model(self) -> None:
        """Put the adapters on the base, once; a checkpoint brings its own weights for them."""
        if adapter_names(self.denoiser):
            return
        self.place_adapters()
        self.ema = MovingAverage(self.denoiser, self.ema_decay)
        self._rest()

    def _rest(self) -> None:
        """Let the averaged network have what synthesis uses, added up, and no gradients."""
        activate(cast(Denoiser, self.ema.module), self.strengths)
        self.ema.requires_grad_(False)  # DDP waits for the gradients of everything that wants one

    def load_weights(self) -> None:
        """Load the base.

        Raises:
            ValueError: If there is none.
        """
        if self.init_from is None:
            message = "Adapters need a base: set model.init_from to a checkpoint of stage 2."
            raise ValueError(message)
        super().load_weights()

    def losses(
        self, denoiser: Denoiser, batch: NoduleBatch, denoising: Denoising
    ) -> dict[str, Tensor]:
        """As `NoduleDiffusion.losses`, and the localization loss."""
        losses = super().losses(denoiser, batch, denoising)
        if self.localization:
            with torch.no_grad(), base_alone(denoiser):
                base = denoiser(denoising.x_t, denoising.timestep, denoising.conditioning)
            losses["localization"] = localization_loss(denoising.output, base, batch["mask"])
        return losses

    def weighted(self, losses: Mapping[str, Tensor]) -> Tensor:
        """As `NoduleDiffusion.weighted`, and the localization loss times its weight."""
        total = super().weighted(losses)
        return total + self.localization * losses["localization"] if self.localization else total

    @contextmanager
    def using(
        self, strengths: Mapping[str, float], merging: Merging | None = None
    ) -> Iterator[None]:
        """Let adapters take part in what is sampled meanwhile; those in training are not touched.

        Args:
            strengths: for each adapter that takes part its strength.
            merging: how they take part together; by default the configured way.
        """
        before, outer = self.ema, self._adapted
        self._adapted = outer or [before]
        self.ema = deepcopy(self._adapted[0])
        self.ema.module = (merging or self.merging).merge(
            cast(Denoiser, self.ema.module), strengths
        )
        try:
            yield
        finally:
            self.ema, self._adapted = before, outer

    def on_test_start(self) -> None:
        """Let the configured adapters take part until the end."""
        super().on_test_start()
        self._until_end = ExitStack()
        self._until_end.enter_context(self.using(self.strengths))

    def on_test_end(self) -> None:
        """Go back to the adapters by themselves."""
        self._until_end.close()

    on_predict_start, on_predict_end = on_test_start, on_test_end


class CXRAdapter(AdaptedDiffusion):
    """One radiological characteristic, as an adapter on a frozen base (paper A, stage 3.1).

    The base is `init_from`; the adapter is trained on nodules that have the characteristic, and
    written to `adapters/<characteristic>` in the run's folder, as peft reads it.

    Args:
        characteristic: the adapter's name.
        adapter: its size.
        strength: at which it is used in synthesis; 0 is the base. The update is multiplied by
            strength * alpha / rank, which is logged. Paper A's slider for a subtlety s of 1 to 5
            is 2^(2 + s), at alpha 1 and rank 32.
        kwargs: see `CXRDiffusion`.
    """

    def __init__(
        self,
        head: CXRHead,
        codec: LatentCodec | PretrainedCodec,
        unet: UNetConfig | None,
        process: DiffusionProcess,
        characteristic: str,
        adapter: AdapterConfig,
        strength: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(head, codec, unet, process, **kwargs)
        self.characteristic, self.adapter = characteristic, adapter
        self.strengths = {characteristic: strength} if strength else {}
        self.merging = Weighted()

    def place_adapters(self) -> None:
        """Put a new adapter on the base."""
        add_adapter(self.denoiser, self.characteristic, self.adapter, self.seed)
        rank_zero_info(
            f"Adapter {self.characteristic}: effective factor {self.adapter.factor:g} in training, "
            f"{sum(self.strengths.values()) * self.adapter.factor:g} in synthesis"
        )

    @rank_zero_only
    def on_fit_end(self) -> None:
        """Write the averaged adapter."""
        folder = Path(self.trainer.default_root_dir) / "adapters" / self.characteristic
        network = cast(Denoiser, self.ema.module)
        save_adapter(network, self.characteristic, folder, sorted(self.patients))
        rank_zero_info(f"Adapter: {folder}")
