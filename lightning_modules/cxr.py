"""Nodules in chest radiographs."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from lightning_modules.core.adapters import (
    PREFIX,
    AdapterConfig,
    activate,
    adapter_names,
    add_adapter,
    load_adapter,
    save_adapter,
    updates,
)
from lightning_modules.core.codec import LatentCodec
from lightning_modules.core.composition import (
    SUBSPACES,
    Form,
    normalized_overlap,
    orthogonality_loss,
    squared_norm,
)
from lightning_modules.core.denoiser import Denoiser, UNetConfig
from lightning_modules.core.merging import Merging, Weighted
from lightning_modules.core.process import DiffusionProcess
from lightning_modules.core.randomness import generator
from lightning_modules.core.regularizer import Regularizer
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


class AdaptedDiffusion(CXRDiffusion):
    """A frozen base, `init_from`, with adapters.

    Attributes:
        strengths: for each adapter that takes part in synthesis its strength.
        merging: how they take part together.
    """

    strengths: Mapping[str, float]
    merging: Merging

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._adapted: list[AveragedModel] = []  # no module of its own

    def load_weights(self) -> None:
        """Load the base.

        Raises:
            ValueError: If there is none.
        """
        if self.init_from is None:
            message = "Adapters need a base: set model.init_from to a checkpoint of stage 2."
            raise ValueError(message)
        super().load_weights()

    @contextmanager
    def using(self, strengths: Mapping[str, float], merging: Merging) -> Iterator[None]:
        """Let adapters take part in what is sampled meanwhile; those in training are not touched.

        Args:
            strengths: for each adapter that takes part its strength.
            merging: how they take part together.
        """
        before, outer = self.ema, self._adapted
        self._adapted = outer or [before]
        self.ema = deepcopy(self._adapted[0])
        self.ema.module = merging.merge(cast(Denoiser, self.ema.module), strengths)
        try:
            yield
        finally:
            self.ema, self._adapted = before, outer

    def on_test_start(self) -> None:
        """Let the configured adapters take part until the end."""
        super().on_test_start()
        self._until_end = ExitStack()
        self._until_end.enter_context(self.using(self.strengths, self.merging))

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
        self.characteristic, self.adapter = characteristic, adapter
        self.strengths = {characteristic: strength} if strength else {}
        self.merging = Weighted()

    def configure_model(self) -> None:
        """Put the adapter on the base, once."""
        if adapter_names(self.denoiser):
            return
        add_adapter(self.denoiser, self.characteristic, self.adapter)
        self.ema = self._average()
        activate(cast(Denoiser, self.ema.module), self.strengths)
        self.ema.requires_grad_(False)  # DDP waits for the gradients of everything that wants one
        rank_zero_info(
            f"Adapter {self.characteristic}: effective factor {self.adapter.factor:g} in training, "
            f"{sum(self.strengths.values()) * self.adapter.factor:g} in synthesis"
        )

    @rank_zero_only
    def on_fit_end(self) -> None:
        """Write the averaged adapter."""
        folder = Path(self.trainer.default_root_dir) / "adapters" / self.characteristic
        save_adapter(cast(Denoiser, self.ema.module), self.characteristic, folder)
        rank_zero_info(f"Adapter: {folder}")


@dataclass
class OrthogonalityConfig:
    """The loss against overlapping adapters.

    Attributes:
        weight: lambda of paper A (table 9); 0 trains the adapters side by side.
        form: see `core.composition.orthogonality_loss`.
    """

    weight: float = 0.5
    form: Form = "input"


class CXRComposition(AdaptedDiffusion):
    """Several adapters on one frozen base, kept apart by an orthogonality loss (paper A, 3.2).

    Each adapter learns from its own data (`MixedDataModule`, whose parts are named like the
    adapters): in every step each sees one batch alone, and one backward pass carries all of it,
    which is paper A's alternation with gradients accumulated over all adapters. In synthesis the
    updates of all are added.

    Args:
        adapters: for each adapter the folder that `CXRAdapter` wrote, or null for a new one.
        adapter: size of new adapters; with a `basis` the first has it, and each other the next.
        orthogonality: the loss between them.
        strengths: at which they are used in synthesis; those not named are not used. By default
            all at 1.
        merging: how they take part together in test and prediction; by default their sum.
        kwargs: see `CXRDiffusion`; the base is `init_from`.

    Raises:
        ValueError: If there are fewer than two adapters, a strength is given for none of them, or
            the UNet recomputes activations, which it would do with the wrong adapter.
    """

    def __init__(
        self,
        head: CXRHead,
        codec: LatentCodec,
        unet: UNetConfig,
        process: DiffusionProcess,
        adapters: dict[str, Path | None],
        adapter: AdapterConfig,
        orthogonality: OrthogonalityConfig,
        strengths: dict[str, float] | None = None,
        merging: Merging | None = None,
        **kwargs: Any,
    ) -> None:
        if len(adapters) < 2:
            message = f"The adapters are {list(adapters)}: a composition needs two or more."
            raise ValueError(message)
        if unknown := set(strengths or {}) - set(adapters):
            message = f"strengths names {sorted(unknown)}, but the adapters are {list(adapters)}."
            raise ValueError(message)
        if unet.checkpointing:
            message = (
                "A composition cannot recompute activations, which would use the wrong adapter: "
                "set model.unet.checkpointing to false."
            )
            raise ValueError(message)
        super().__init__(head, codec, unet, process, **kwargs)
        self.adapters, self.adapter, self.orthogonality = adapters, adapter, orthogonality
        self.strengths = dict.fromkeys(adapters, 1.0) if strengths is None else strengths
        self.merging = merging or Weighted()

    def configure_model(self) -> None:
        """Put the adapters on the base, once; a checkpoint brings its own weights for them."""
        if adapter_names(self.denoiser):
            return
        for number, (name, folder) in enumerate(self.adapters.items()):
            if folder is None:
                first = self.adapter.basis
                basis = None if first is None else first + number
                add_adapter(self.denoiser, name, replace(self.adapter, basis=basis))
            else:
                load_adapter(self.denoiser, name, folder)
        self.ema = self._average()
        activate(cast(Denoiser, self.ema.module), self.strengths)
        self.ema.requires_grad_(False)  # DDP waits for the gradients of everything that wants one

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One batch for each adapter, and their overlap.

        Raises:
            ValueError: If the batch's parts are not named like the adapters.
        """
        if set(batch) != set(self.adapters):
            message = (
                f"The data has the parts {sorted(batch)}, the adapters are "
                f"{sorted(self.adapters)}: name the parts of MixedDataModule like the adapters."
            )
            raise ValueError(message)
        total = torch.zeros((), device=self.device)
        for name in self.adapters:
            keys = (self.seed, self.global_step, self.global_rank, batch_idx)
            stream = generator("train", name, *keys)
            activate(self.denoiser, {name: 1.0})
            losses = self.losses(self.denoiser, batch[name], stream, dropout=True)
            self.log_dict({f"train/{loss}/{name}": value for loss, value in losses.items()})
            total = total + losses["diffusion"]
            for key, regularizer in self.head.regularizers.items():
                total = total + cast(Regularizer, regularizer).weight * losses[key]
        self.log("loss", total.detach(), prog_bar=True, logger=False)
        adapters = [list(updates(self.denoiser, name)) for name in self.adapters]
        overlap = orthogonality_loss(adapters, self.orthogonality.form)
        self.log("train/orthogonality", overlap)
        return total + self.orthogonality.weight * overlap

    def on_train_epoch_end(self) -> None:
        """Log each pair's overlap and each adapter's size, layer by layer."""
        lists = {name: list(updates(self.denoiser, name)) for name in self.adapters}
        figures = {
            f"norm/{name}/{low.site.removeprefix(PREFIX)}": squared_norm(low).sqrt()
            for name, adapter in lists.items()
            for low in adapter
        }
        for one, other in combinations(lists, 2):
            for first, second in zip(lists[one], lists[other], strict=True):
                site = first.site.removeprefix(PREFIX)
                for subspace in SUBSPACES:
                    value = normalized_overlap(first, second, subspace)
                    figures[f"overlap/{subspace}/{one}-{other}/{site}"] = value
        self.log_dict({name: value.detach() for name, value in figures.items()})

    @rank_zero_only
    def on_fit_end(self) -> None:
        """Write the averaged adapters."""
        root = Path(self.trainer.default_root_dir) / "adapters"
        for name in self.adapters:
            save_adapter(cast(Denoiser, self.ema.module), name, root / name)
        rank_zero_info(f"Adapters: {root}")
