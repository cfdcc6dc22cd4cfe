"""Synthetic nodules from a checkpoint, without a trainer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from datamodules.batch import NO_NODULE, NoduleBatch, Provenance, Roi, Synthesis
from lightning_modules.core.adapters import check_bases, load_adapter
from lightning_modules.core.checkpoint_files import part_of, patients_of, read_checkpoint
from lightning_modules.core.codec import Codec
from lightning_modules.core.conditioners import HistogramConditioner
from lightning_modules.core.conditioning import Conditioner, Surroundings, sees_through
from lightning_modules.core.denoiser import Denoiser
from lightning_modules.core.description import build
from lightning_modules.core.facts import ModelFacts
from lightning_modules.core.histogram_bank import HistogramBank, wanted_of
from lightning_modules.core.histogram_matching import match_histogram
from lightning_modules.core.inpainting import (
    feather,
    inpaint_mask,
    known_image,
    paste,
    to_latent_mask,
)
from lightning_modules.core.merging import Weighted
from lightning_modules.core.process import Adjust, DiffusionProcess
from lightning_modules.core.randomness import SampleStreams, generator
from lightning_modules.core.sampling import Guidance, SamplingConfig, guided

GUIDED_FROM = 0.5
"""Share of the steps after which guidance by histograms begins: before, an estimate is a mean of
nodules that has no texture whose ranks would mean anything."""


@dataclass(eq=False)
class Synthesizer:
    """Puts nodules into images; `synthesizer(batch)`.

    Attributes:
        facts: window, margin, histograms and ROI.
        codec: the autoencoder.
        network: the averaged denoiser, or what answers like it.
        process: the diffusion process.
        guidance: of the network's answers.
        sampling: how nodules are synthesized; may be changed.
        provenance: where the weights come from.
    """

    facts: ModelFacts
    codec: Codec
    network: Denoiser
    process: DiffusionProcess
    guidance: Guidance
    sampling: SamplingConfig
    provenance: Provenance

    @classmethod
    def load(
        cls,
        checkpoint: Path | str,
        adapters: Mapping[str, Path | str] | None = None,
        strengths: Mapping[str, float] | None = None,
    ) -> "Synthesizer":
        """The synthesizer in a checkpoint of a diffusion model, with its averaged weights.

        Args:
            checkpoint: the file, or a folder of `noduleforge export`; nothing else of the run is
                needed, and nothing in it is run.
            adapters: for each adapter on this base the folder that its run wrote.
            strengths: for each adapter that takes part its strength; by default all at 1.

        Raises:
            FileNotFoundError: If there is no such file or folder.
            ValueError: If it is no diffusion model's, holds adapters or an unknown class, or an
                adapter does not fit.
        """
        path, loaded = Path(checkpoint), adapters or {}
        stored = read_checkpoint(path)
        saved = stored.get("noduleforge", {})
        if "synthesizer" not in saved:
            message = f"The checkpoint {path} is not one of a diffusion model: give stage 2's."
            raise ValueError(message)
        weights = part_of(stored, "ema.module.")
        if any(".lora_" in name for name in weights):
            message = (
                f"The checkpoint {path} holds adapters: give that of their base, and the folders "
                "that their run wrote in `adapters`."
            )
            raise ValueError(message)
        facts = ModelFacts.of(saved)
        codec, network, process, sampling, guidance = build(saved["synthesizer"], facts)
        codec.load_state_dict(part_of(stored, "codec."))
        network.load_state_dict(weights)
        patients = patients_of(stored)
        for name, folder in loaded.items():
            patients |= load_adapter(network, name, Path(folder))
        check_bases(network, loaded)
        if strengths is None:
            strengths = dict.fromkeys(loaded, 1.0)
        if loaded or strengths:
            Weighted().merge(network, strengths)
        for module in (codec, network):
            module.eval().requires_grad_(False)
        provenance = Provenance(
            path.resolve().name, sampling.seed, sampling.evaluations, tuple(sorted(patients))
        )
        return cls(facts, codec, network, process, guidance, sampling, provenance)

    def to(self, device: torch.device | str) -> "Synthesizer":
        """Move all weights; batches must be on the same device."""
        for module in (self.codec, self.network, self.process):
            module.to(device)
        return self

    @property
    def window(self) -> tuple[float, float]:
        """Intensities that are mapped to -1 and 1."""
        return self.facts.window.ends

    @property
    def roi(self) -> Roi:
        """The region of an image that it sees."""
        return self.facts.roi

    @property
    def bank(self) -> HistogramBank | None:
        """Histograms of training nodules, if the network is conditioned on them."""
        for conditioner in self.network.conditioners.values():
            if isinstance(conditioner, HistogramConditioner):
                return conditioner.bank
        return None

    @torch.no_grad()
    def __call__(self, batch: NoduleBatch, seed: int | None = None) -> Synthesis:
        """Synthesize a nodule in each image of the batch.

        Each sample depends on the seed and its index alone. Outside the nodule's margin the image
        is the background bit for bit, which is the image without the nodule where the model is
        shown that.

        Args:
            batch: images, masks and conditions; what `image` shows inside the region is not
                seen. With `histogram` in it that is requested, else that of the image in the mask.
            seed: overrides the seed of the sampling settings.

        Raises:
            ValueError: If a histogram is to be met, but none is asked for, or training has said
                nothing about what is asked for.
        """
        settings, facts = self.sampling, self.facts
        seed = settings.seed if seed is None else seed
        if "erased" in batch:
            return replace(self(self._erase(batch, seed), seed), background=batch["image"])
        mask = batch["mask"]
        requested = (
            batch["histogram"] if "histogram" in batch else facts.histogram(batch["image"], mask)
        )

        def meet(image: Tensor) -> Tensor:
            return match_histogram(image, mask, requested, self.window, batch["index"], seed)

        self._check_histogram(batch)
        self._check(batch)
        region = inpaint_mask(mask, facts.margin_voxels)
        latent_region = to_latent_mask(region, self.codec.compression)
        through = sees_through(self.network.conditioners)
        context = self._encode(known_image(batch, region, facts.window, through))
        background = batch["underlay"] if through else batch["image"]
        surroundings = Surroundings(context, latent_region)
        branches = self.guidance.branches(
            self.network, batch, surroundings, settings.guidance_scale
        )
        latent = self.process.sample(
            guided(self.network, branches),
            context,
            latent_region,
            SampleStreams(batch["index"], "noise", seed).normal(context),
            max(settings.evaluations // len(branches), 1),
            settings.solver,
            [generator("solver", seed, index) for index in batch["index"].tolist()],
            self._guide(meet) if settings.histogram == "guided" else None,
        )
        synthetic = self._decode(latent)
        if settings.histogram != "none":
            synthetic = meet(synthetic)
        pasted = paste(background, synthetic, feather(mask, facts.margin_voxels))
        return Synthesis(
            image=pasted,
            background=background,
            request=batch,
            requested_histogram=requested,
            generated_histogram=facts.histogram(pasted, mask),
            bin_centers=facts.bin_centers,
            window=self.window,
            provenance=replace(self.provenance, seed=seed, evaluations=settings.evaluations),
        )

    def _erase(self, batch: NoduleBatch, seed: int) -> NoduleBatch:
        """The batch with healthy tissue where something is to be erased first."""
        erased = batch["erased"]
        where = erased.flatten(1).any(1)
        shape = (-1, *(1,) * (erased.ndim - 1))
        mask = torch.where(where.view(shape), erased, batch["mask"])
        none = torch.full_like(batch["subtype"], NO_NODULE)
        lying = {
            name: value for name, value in batch.items() if name not in ("erased", "histogram")
        }
        healthy = {**lying, "mask": mask, "subtype": none}
        made = self(self.with_histograms(cast(NoduleBatch, healthy)), seed).image
        left = {name: value for name, value in batch.items() if name != "erased"}
        image = torch.where(where.view(shape), made, batch["image"])
        return cast(NoduleBatch, {**left, "image": image, "underlay": image})

    def _check(self, batch: NoduleBatch) -> None:
        """Refuse a request that training has said nothing about; raises as `Conditioner.check`."""
        for conditioner in self.network.conditioners.values():
            cast(Conditioner, conditioner).check(batch)

    def _check_histogram(self, batch: NoduleBatch) -> None:
        """Refuse to meet the histogram of what lies where a nodule is wanted."""
        if self.sampling.histogram != "none" and self.bank is None and "histogram" not in batch:
            message = (
                f"sampling.histogram is {self.sampling.histogram!r}, but the model is not "
                "conditioned on histograms and none is asked for: set it to none, or give one."
            )
            raise ValueError(message)

    def _encode(self, image: Tensor) -> Tensor:
        """Standardized latents of images in [-1, 1]."""
        mean, _ = self.codec.encode(image)
        return self.codec.standardize(mean.float())

    def _decode(self, latent: Tensor) -> Tensor:
        """Images in physical units of standardized latents."""
        return self.facts.window.denormalize(self.codec.decode(latent).float())

    def _guide(self, meet: Callable[[Tensor], Tensor]) -> Adjust:
        """Moves estimates of x_0 by what moving their images to a histogram changes in latents.

        Training-free, after arXiv 2606.31683. The difference of two encodings is added, so that
        what the codec loses is not lost anew at each step.
        """

        def adjust(x0: Tensor, done: float) -> Tensor:
            if done < GUIDED_FROM:
                return x0
            image = self._decode(x0)
            moved, same = map(self.facts.window.normalize, (meet(image), image))
            return x0 + self._encode(moved) - self._encode(same)

        return adjust

    def with_histograms(self, batch: NoduleBatch) -> NoduleBatch:
        """The batch with a histogram for each nodule, where the model is conditioned on them.

        A nodule without one (or with one that is not a number) gets that of a real training nodule
        of its subtype that is like it, of another patient: see `HistogramBank.draw`.

        Args:
            batch: the nodules wanted.

        Raises:
            ValueError: If a histogram has another number of bins than the model.
        """
        self._check(batch)
        bank, bins = self.bank, self.facts.histogram_bins
        if bank is None:
            return batch
        nothing = torch.full((len(batch["index"]), bins), torch.nan, device=batch["index"].device)
        histogram: Tensor = batch.get("histogram", nothing)
        if histogram.shape[1] != bins:
            message = (
                f"A histogram of {histogram.shape[1]} shares is asked for, but the model has "
                f"{bins} bins: give {bins} shares"
            )
            raise ValueError(message)
        lacking = histogram.isnan().any(1)
        if lacking.any():
            histogram = histogram.clone()
            wanted = wanted_of(batch).of(lacking)
            histogram[lacking] = bank.draw(wanted, self.sampling.seed)
        return {**batch, "histogram": histogram}
