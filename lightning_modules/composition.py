"""Several adapters on one frozen base."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch import Tensor

from datamodules.batch import NoduleBatch
from lightning_modules.core.adapter_analysis import overlaps, record
from lightning_modules.core.adapters import (
    PREFIX,
    AdapterConfig,
    activate,
    add_adapter,
    base_alone,
    check_bases,
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
from lightning_modules.core.denoiser import Denoiser
from lightning_modules.core.merging import Merging, Weighted
from lightning_modules.core.pretrained_codecs import PretrainedCodec
from lightning_modules.core.process import DiffusionProcess
from lightning_modules.core.randomness import SampleStreams
from lightning_modules.core.unet import UNetConfig
from lightning_modules.core.ziplora import (
    add_coefficients,
    coefficient_overlap,
    coefficients,
    use_coefficients,
    with_coefficients,
)
from lightning_modules.cxr import AdaptedDiffusion
from lightning_modules.heads.cxr import CXRHead


class SeveralAdapters(AdaptedDiffusion):
    """Several adapters on one frozen base, each with its own data, trained together.

    The data have parts (`SuperimposedDataModule`, or `CombinedDataModule` for several collections)
    named like the adapters: in every step each adapter sees one batch, and one backward pass
    carries all of it, which is paper A's alternation with gradients accumulated over all adapters.

    Args:
        adapters: for each adapter the folder that `CXRAdapter` wrote, or null.
        strengths: at which they are used in synthesis; those not named are not used. By default
            all at 1.
        merging: how they take part together in synthesis; by default their sum.
        kwargs: see `CXRDiffusion`; the base is `init_from`.

    Raises:
        ValueError: If there are fewer than two adapters, a strength is given for none of them, or
            the network recomputes activations, which it would do with the wrong adapter.
    """

    def __init__(
        self,
        head: CXRHead,
        codec: LatentCodec | PretrainedCodec,
        unet: UNetConfig | None,
        process: DiffusionProcess,
        adapters: Mapping[str, Path | None],
        strengths: dict[str, float] | None = None,
        merging: Merging | None = None,
        **kwargs: Any,
    ) -> None:
        if len(adapters) < 2:
            message = f"The adapters are {list(adapters)}: give a composition two or more."
            raise ValueError(message)
        if unknown := set(strengths or {}) - set(adapters):
            message = (
                f"strengths names {sorted(unknown)}, but the adapters are {list(adapters)}: name "
                "these."
            )
            raise ValueError(message)
        if not all(np.isfinite(strength) for strength in (strengths or {}).values()):
            message = f"strengths is {strengths}: give finite numbers."
            raise ValueError(message)
        super().__init__(head, codec, unet, process, **kwargs)
        if (size := self.denoiser.config).checkpointing:
            message = (
                "A composition cannot recompute activations, which would use the wrong adapter: "
                f"set model.{size.section}.checkpointing to false."
            )
            raise ValueError(message)
        self.adapters = adapters
        self.strengths = dict.fromkeys(adapters, 1.0) if strengths is None else strengths
        self.merging = merging or Weighted()

    @abstractmethod
    def learn(self, name: str, batch: NoduleBatch, streams: SampleStreams) -> dict[str, Tensor]:
        """Losses of one adapter's batch, before their weights; `diffusion` is the main one."""

    @abstractmethod
    def coupling(self) -> Tensor:
        """What is minimized besides, with its weight."""

    @abstractmethod
    def trained(self) -> Denoiser:
        """The averaged network, whose adapters are written in the end."""

    def load_weights(self) -> None:
        """Load the base, and check that it is the adapters'.

        Raises:
            ValueError: If it is not.
        """
        super().load_weights()
        check_bases(self.denoiser, {n: path for n, path in self.adapters.items() if path})

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One batch for each adapter, and what couples them.

        Raises:
            ValueError: If the batch's parts are not named like the adapters.
        """
        if set(batch) != set(self.adapters):
            message = (
                f"The data has the parts {sorted(batch)}, the adapters are "
                f"{sorted(self.adapters)}: name the data's parts like the adapters."
            )
            raise ValueError(message)
        total = torch.zeros((), device=self.device)
        for name in self.adapters:
            streams = SampleStreams(batch[name]["draw"], name, self.seed)
            losses = self.learn(name, batch[name], streams)
            self.log_dict({f"train/{loss}/{name}": value for loss, value in losses.items()})
            total = total + self.weighted(losses)
        return total + self.coupling()

    def trial_loss(self, batch: NoduleBatch) -> Tensor:
        """The loss of a step that is not taken, in which every adapter has this batch."""
        streams = SampleStreams(batch["index"], "trial")
        losses = [self.weighted(self.learn(name, batch, streams)) for name in self.adapters]
        return torch.stack(losses).sum()

    def validation_step(self, batch: NoduleBatch, batch_idx: int) -> None:
        """Losses, and for each pair of adapters whether they act on the same places.

        `core.adapter_analysis.overlaps` says what is logged for each layer.
        """
        super().validation_step(batch, batch_idx)
        network = cast(Denoiser, self.ema.module)
        denoising = self.denoise(network, batch, self.evaluation_streams(batch), dropout=False)
        question = (denoising.x_t, denoising.timestep, denoising.conditioning)
        with base_alone(network):
            base = network(*question)
        found = {name: record(network, name, *question) for name in self.adapters}
        self._rest()
        for one, other in combinations(found, 2):
            figures = overlaps(found[one], found[other], base, batch["mask"])
            named = {f"val/{one}-{other}/{name}": value for name, value in figures.items()}
            self.log_dict(named, batch_size=len(batch["index"]), sync_dist=True)

    @rank_zero_only
    def on_fit_end(self) -> None:
        """Write the averaged adapters."""
        root, network = Path(self.trainer.default_root_dir) / "adapters", self.trained()
        for name in self.adapters:
            save_adapter(network, name, root / name, sorted(self.patients))
        rank_zero_info(f"Adapters: {root}")


@dataclass
class OrthogonalityConfig:
    """The loss against overlapping adapters.

    Attributes:
        weight: lambda of paper A (table 9); 0 trains the adapters side by side.
        form: see `core.composition.orthogonality_loss`.
    """

    weight: float = 0.5
    form: Form = "input"


class CXRComposition(SeveralAdapters):
    """Adapters kept apart by an orthogonality loss (paper A, stage 3.2).

    Args:
        adapters: for each adapter the folder that `CXRAdapter` wrote, or null for a new one.
        adapter: size of new adapters; with a `basis` the first has it, and each other the next.
        orthogonality: the loss between them.
        kwargs: see `SeveralAdapters`.
    """

    def __init__(
        self,
        head: CXRHead,
        codec: LatentCodec | PretrainedCodec,
        unet: UNetConfig | None,
        process: DiffusionProcess,
        adapters: dict[str, Path | None],
        adapter: AdapterConfig,
        orthogonality: OrthogonalityConfig,
        **kwargs: Any,
    ) -> None:
        super().__init__(head, codec, unet, process, adapters=adapters, **kwargs)
        self.adapter, self.orthogonality = adapter, orthogonality

    def place_adapters(self) -> None:
        """Load adapters, or make new ones."""
        for number, (name, folder) in enumerate(self.adapters.items()):
            if folder is None:
                first = self.adapter.basis
                basis = None if first is None else first + number
                add_adapter(self.denoiser, name, replace(self.adapter, basis=basis), self.seed)
            else:
                self.patients |= load_adapter(self.denoiser, name, folder)

    def learn(self, name: str, batch: NoduleBatch, streams: SampleStreams) -> dict[str, Tensor]:
        """Losses of one adapter alone."""
        activate(self.denoiser, {name: 1.0})
        denoising = self.denoise(self.denoiser, batch, streams, dropout=True)
        return self.losses(self.denoiser, batch, denoising)

    def coupling(self) -> Tensor:
        """The orthogonality loss times its weight."""
        adapters = [list(updates(self.denoiser, name)) for name in self.adapters]
        overlap = orthogonality_loss(adapters, self.orthogonality.form)
        self.log("train/orthogonality", overlap)
        return self.orthogonality.weight * overlap

    def trained(self) -> Denoiser:
        """The averaged network."""
        return cast(Denoiser, self.ema.module)

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


class CXRZip(SeveralAdapters):
    """Trained adapters joined by merger coefficients (ZipLoRA, Shah et al. 2023).

    The adapters stay; learned is, for each of them, how much each value that a layer reads takes
    part (`core.ziplora`), so that the network with all of them answers on each adapter's data like
    the network with that adapter alone. The adapters that are written have the coefficients in
    them: adding them up is the merge.

    Args:
        adapters: for each adapter the folder that `CXRAdapter` wrote.
        overlap_weight: weight of the overlap of coefficients (lambda of eq. 4).
        kwargs: see `SeveralAdapters`.
    """

    def __init__(
        self,
        head: CXRHead,
        codec: LatentCodec | PretrainedCodec,
        unet: UNetConfig | None,
        process: DiffusionProcess,
        adapters: dict[str, Path],
        overlap_weight: float = 0.01,
        **kwargs: Any,
    ) -> None:
        super().__init__(head, codec, unet, process, adapters=adapters, **kwargs)
        self.overlap_weight = overlap_weight

    def place_adapters(self) -> None:
        """Load the adapters and give them coefficients."""
        for name, folder in self.adapters.items():
            self.patients |= load_adapter(self.denoiser, name, cast(Path, folder))
        add_coefficients(self.denoiser)

    def learn(self, name: str, batch: NoduleBatch, streams: SampleStreams) -> dict[str, Tensor]:
        """How far the answer with all adapters is from that with one alone."""
        network = self.denoiser
        activate(network, dict.fromkeys(self.adapters, 1.0))
        merged = self.denoise(network, batch, streams, dropout=True)
        activate(network, {name: 1.0})
        use_coefficients(network, on=False)
        with torch.no_grad():
            alone = network(merged.x_t, merged.timestep, merged.conditioning)
        use_coefficients(network, on=True)
        difference = self.process.loss(merged.output, alone, merged.timestep, merged.region)
        return {"diffusion": difference}

    def coupling(self) -> Tensor:
        """The overlap of coefficients times its weight."""
        overlap = coefficient_overlap([coefficients(self.denoiser, n) for n in self.adapters])
        self.log("train/coefficients", overlap)
        return self.overlap_weight * overlap

    def trained(self) -> Denoiser:
        """The averaged network, with the coefficients in its adapters."""
        return with_coefficients(cast(Denoiser, self.ema.module))
