"""Stage 2: latent diffusion of nodules, whatever the modality."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from datamodules.base import NoduleDataModule
from datamodules.batch import NoduleBatch, Provenance, Roi, Synthesis
from lightning_modules.checkpoints import check_facts, load_codec, load_denoiser, patients_of
from lightning_modules.core.codec import LatentCodec
from lightning_modules.core.conditioners import HistogramConditioner
from lightning_modules.core.conditioning import (
    Conditioning,
    Surroundings,
    interleave_conditions,
)
from lightning_modules.core.denoiser import Denoiser, UNetConfig
from lightning_modules.core.histogram import bin_centers, masked_histogram
from lightning_modules.core.inpainting import (
    feather,
    inpaint_mask,
    mean_fill,
    paste,
    to_latent_mask,
)
from lightning_modules.core.process import DiffusionProcess, Predict, Solver
from lightning_modules.core.randomness import SampleGenerators, generator, sample_noise
from lightning_modules.core.regularizer import Estimate, Regularizer
from lightning_modules.core.schedule import training_steps, warmup_cosine
from lightning_modules.heads.head import ModalityHead


@dataclass
class SamplingConfig:
    """How nodules are synthesized.

    Attributes:
        evaluations: network evaluations for each sample; guidance spends two at each step.
        solver: the solver of the reverse process.
        guidance_scale: classifier-free guidance (Ho and Salimans 2022); 1 is none.
        seed: seed of the samples.
    """

    evaluations: int = 20
    solver: Solver = "dpm-solver++"
    guidance_scale: float = 1.0
    seed: int = 0


class Denoising(NamedTuple):
    """One training question and the network's answer.

    Attributes:
        latent: `(B, C, *latent)`; x_0.
        noise: `(B, C, *latent)`.
        timestep: `(B,)`.
        x_t: `(B, C, *latent)`.
        region: `(B, 1, *latent)`; 1 where the nodule is synthesized.
        conditioning: what the network is told.
        output: `(B, C, *latent)`; what it says.
    """

    latent: Tensor
    noise: Tensor
    timestep: Tensor
    x_t: Tensor
    region: Tensor
    conditioning: Conditioning
    output: Tensor


class NoduleDiffusion(LightningModule):
    """Mask-conditioned latent diffusion around a known background.

    Args:
        head: the modality: window, conditioners, regularizers.
        codec: the autoencoder; of the same size as the one in `autoencoder`.
        unet: size of the denoising UNet.
        process: the diffusion process.
        roi: the region of an image in which a nodule is synthesized.
        autoencoder: checkpoint of stage 1, needed to begin training; a diffusion checkpoint holds
            the autoencoder's weights itself.
        init_from: diffusion checkpoint that a new training starts from: its averaged weights, and
            the autoencoder that they were trained with in the place of `autoencoder`. It is not
            for resuming, which `ckpt_path` does.
        sampling: how nodules are synthesized.
        learning_rate: peak learning rate of AdamW.
        weight_decay: weight decay of AdamW.
        warmup_steps: steps over which the learning rate rises, before it falls as a cosine.
        ema_decay: decay of the exponential moving average of the weights, which samples are drawn
            with; it warms up as (1 + n) / (10 + n).
        seed: seed of timesteps, noise and dropout.
    """

    def __init__(
        self,
        head: ModalityHead,
        codec: LatentCodec,
        unet: UNetConfig,
        process: DiffusionProcess,
        roi: Roi,
        autoencoder: Path | None = None,
        init_from: Path | None = None,
        sampling: SamplingConfig | None = None,
        learning_rate: float = 3e-4,
        weight_decay: float = 0.01,
        warmup_steps: int = 100,
        ema_decay: float = 0.999,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.head, self.process, self.roi = head, process, roi
        self.codec = codec.requires_grad_(False).eval()
        self.denoiser = Denoiser(unet, codec, head.conditioners, head.window, head.histogram_bins)

        self.ema_decay = ema_decay
        self.ema = self._average()
        self.autoencoder, self.init_from = autoencoder, init_from
        self.sampling = sampling or SamplingConfig()
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.warmup_steps, self.seed = warmup_steps, seed
        self.patients: set[str] = set()
        self.checkpoint = ""  # file name of the weights, unless they are in training

    @property
    def margin_voxels(self) -> int:
        """How far beyond the mask the synthetic nodule reaches into its surroundings."""
        return self.head.margin_voxels

    def _average(self) -> AveragedModel:
        """The denoiser's moving average, beginning with the weights that it has."""

        def average(ema: Tensor, value: Tensor, updates: Tensor | int) -> Tensor:
            decay = min(self.ema_decay, (1 + int(updates)) / (10 + int(updates)))
            return torch.lerp(value, ema, decay)

        return AveragedModel(self.denoiser, avg_fn=average).requires_grad_(False)

    # --- beginning -----------------------------------------------------------------------------

    def load_weights(self) -> None:
        """Load the autoencoder or the warm start.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If there is no autoencoder, or a file does not fit the config.
        """
        if self.init_from is not None:
            self.patients |= load_codec(self.codec, self.init_from, self.head.window)
            load_denoiser(self.denoiser, self.init_from, self._facts())
        elif self.autoencoder is not None:
            self.patients |= load_codec(self.codec, self.autoencoder, self.head.window)
        else:
            message = (
                "The diffusion model has no autoencoder: set model.autoencoder to a checkpoint of "
                "stage 1."
            )
            raise ValueError(message)

    def on_fit_start(self) -> None:
        """Load weights, cache latents, measure the codec's scale and the training set's statistics.

        Training that resumes has all but the cache from its checkpoint. All ranks read the same
        files and batches, so that all begin alike.
        """
        data = cast(NoduleDataModule, self.trainer.datamodule)  # type: ignore[attr-defined]
        resumed = self.trainer.ckpt_path is not None
        if not resumed:
            self.load_weights()
        self.patients |= data.training_patients
        self.checkpoint = ""
        if data.cache_dir is not None:
            report = data.cache_latents(
                self.encode,
                f"{self.codec.fingerprint()}-{self.head.window}-{self.head.margin_voxels}",
                self.global_rank,
                self.trainer.world_size,
                self.trainer.strategy.barrier,
            )
            rank_zero_info(f"Latent cache: {report}")
        if resumed:
            return
        if not self.codec.is_measured:
            self.codec.measure(
                (latents["latent_mean"], latents["latent_logvar"])
                for latents in map(self._latents, data.statistics_batches())
            )
        self.denoiser.prepare(data.statistics_batches())
        self.ema.module.load_state_dict(self.denoiser.state_dict())

    def _on_device(self, batch: NoduleBatch) -> NoduleBatch:
        moved = self.trainer.strategy.batch_to_device(batch, self.device)
        return cast(NoduleBatch, moved)

    # --- latents -------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, batch: NoduleBatch) -> dict[str, Tensor]:
        """Posterior of the image, and posterior mean of the image with the region filled in."""
        batch = self._on_device(batch)
        image = self.head.window.normalize(batch["image"])
        region = inpaint_mask(batch["mask"], self.head.margin_voxels)
        with self.trainer.precision_plugin.forward_context():
            mean, logvar = self.codec.encode(torch.cat([image, mean_fill(image, region)]))
        mean, context = mean.float().chunk(2)
        logvar, _ = logvar.float().chunk(2)
        return {"latent_mean": mean, "latent_logvar": logvar, "context": context}

    def _latents(self, batch: NoduleBatch) -> Mapping[str, Tensor]:
        return cast(Mapping[str, Tensor], batch if "context" in batch else self.encode(batch))

    def _region(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The region that is synthesized, in voxels of the image and of the latent."""
        region = inpaint_mask(mask, self.head.margin_voxels)
        return region, to_latent_mask(region, self.codec.compression)

    # --- training ------------------------------------------------------------------------------

    def training_step(self, batch: NoduleBatch, batch_idx: int) -> Tensor:
        """One step: diffusion loss and regularizers."""
        generators = self.generators(batch, "train", self.seed, self.current_epoch, batch_idx)
        denoising = self.denoise(self.denoiser, batch, generators, dropout=True)
        losses = self.losses(self.denoiser, batch, denoising)
        self.log_dict({f"train/{name}": value for name, value in losses.items()})
        self.log("loss", losses["diffusion"].detach(), prog_bar=True, logger=False)
        return self.weighted(losses)

    def trial_loss(self, batch: NoduleBatch) -> Tensor:
        """The loss of a step that is not taken, to see what memory it needs."""
        generators = SampleGenerators([("trial", place) for place in range(len(batch["index"]))])
        denoising = self.denoise(self.denoiser, batch, generators, dropout=True)
        return self.weighted(self.losses(self.denoiser, batch, denoising))

    def generators(self, batch: NoduleBatch, *keys: int | str) -> SampleGenerators:
        """Where a step's batch draws from; several processes draw what one would."""
        size = len(batch["index"])
        return SampleGenerators.of_step(size, self.global_rank, self.trainer.world_size, *keys)

    def denoise(
        self, denoiser: Denoiser, batch: NoduleBatch, generators: SampleGenerators, dropout: bool
    ) -> Denoising:
        """Put noise on a batch and ask the network for what training wants of it.

        Args:
            denoiser: the network; the one in training or the averaged one.
            batch: nodules, with cached latents or without.
            generators: where timesteps, noise and dropout are drawn from.
            dropout: whether conditions are withheld.
        """
        latents = self._latents(batch)
        mask = batch["mask"]
        _, region = self._region(mask)
        mean, logvar = latents["latent_mean"], latents["latent_logvar"]
        draw = mean + torch.exp(0.5 * logvar) * generators.normal(mean)
        context = self.codec.standardize(latents["context"])
        # outside the region the model meets what it will meet in synthesis
        latent = torch.where(region > 0, self.codec.standardize(draw), context)

        timestep = self.process.timesteps_at(generators.uniform()).to(mask.device)
        noise = generators.normal(latent)
        x_t = self.process.add_noise(latent, noise, timestep)
        withheld = self._dropout(generators) if dropout else None
        conditioning = denoiser.condition(batch, Surroundings(context, region), withheld)
        output = denoiser(x_t, timestep, conditioning)
        return Denoising(latent, noise, timestep, x_t, region, conditioning, output)

    def losses(
        self, denoiser: Denoiser, batch: NoduleBatch, denoising: Denoising
    ) -> dict[str, Tensor]:
        """The diffusion loss and each other's, before its weight.

        Args:
            denoiser: the network that answered.
            batch: what was asked for.
            denoising: question and answer.
        """
        latent, noise, timestep, x_t, region, _, output = denoising
        target = self.process.target(latent, noise, timestep)
        losses = {"diffusion": self.process.loss(output, target, timestep, region)}
        if self.head.regularizers:
            estimate = Estimate(
                x0=self.process.x0(x_t, output, timestep),
                latent=latent,
                signal_share=self.process.signal_share(timestep),
                image=self.head.window.normalize(batch["image"]),
                mask=batch["mask"],
                decode=self.codec.decode,
            )
            for name, regularizer in self.head.regularizers.items():
                losses[name] = regularizer(estimate)
        return losses

    def weighted(self, losses: Mapping[str, Tensor]) -> Tensor:
        """What is minimized: the diffusion loss and the others times their weights."""
        total = losses["diffusion"]
        for name, regularizer in self.head.regularizers.items():
            total = total + cast(Regularizer, regularizer).weight * losses[name]
        return total

    def _dropout(self, generators: SampleGenerators) -> dict[str, Tensor]:
        together = generators.uniform() < self.head.joint_dropout
        withheld = {}
        for name, conditioner in self.head.conditioners.items():
            alone = generators.uniform() < conditioner.dropout
            where = alone | together if conditioner.guided else alone
            withheld[name] = where.to(self.device)
        return withheld

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Update the averaged weights after each optimizer step."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update_parameters(self.denoiser)

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine decay."""
        optimizer: Optimizer = torch.optim.AdamW(
            [p for p in self.denoiser.parameters() if p.requires_grad],
            self.learning_rate,
            weight_decay=self.weight_decay,
        )
        return warmup_cosine(optimizer, self.warmup_steps, training_steps(self.trainer))

    def train(self, mode: bool = True) -> "NoduleDiffusion":
        """Set the mode; the frozen codec stays in evaluation mode."""
        super().train(mode)
        self.codec.eval()
        return self

    # --- evaluation and synthesis --------------------------------------------------------------

    def on_test_start(self) -> None:
        """Take the weights of `init_from` where there is neither training nor a checkpoint."""
        if self.trainer.ckpt_path is not None:
            self.checkpoint = Path(self.trainer.ckpt_path).name
        elif self.init_from is not None and not self.codec.is_measured:
            self.load_weights()
            self.checkpoint = Path(self.init_from).name
            self.ema.module.load_state_dict(self.denoiser.state_dict())

    on_predict_start = on_test_start

    def validation_step(self, batch: NoduleBatch, batch_idx: int) -> None:
        """Losses of the averaged weights, at the same timesteps and noise in every epoch."""
        self._evaluate(batch, "val")

    def test_step(self, batch: NoduleBatch, batch_idx: int) -> None:
        """Losses as in validation."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: NoduleBatch, batch_idx: int) -> Synthesis:
        """Synthetic nodules where the batch asks for them.

        A request without a histogram (or with one that is not a number) gets that of a real
        training nodule of its subtype.

        Raises:
            ValueError: If a histogram has another number of bins than the model.
        """
        if (conditioner := self.histogram_conditioner) is not None:
            bank, bins = conditioner.bank, conditioner.bins
            absent = torch.full((len(batch["index"]), bins), torch.nan, device=self.device)
            histogram = batch.get("histogram", absent)
            if histogram.shape[1] != bins:
                message = (
                    f"A histogram of {histogram.shape[1]} shares is asked for, but the model has "
                    f"{bins} bins: give {bins} shares"
                )
                raise ValueError(message)
            lacking = histogram.isnan().any(1)
            if lacking.any():
                rows = batch["subtype"][lacking], batch["index"][lacking]
                histogram = histogram.clone()
                histogram[lacking] = bank.draw(*rows, self.sampling.seed)
            batch = {**batch, "histogram": histogram}
        return self.sample(batch)

    def evaluation_generators(self, batch: NoduleBatch) -> SampleGenerators:
        """Where validation draws from: for each nodule the same in every epoch."""
        return SampleGenerators(
            [("evaluate", self.seed, index) for index in batch["index"].tolist()]
        )

    def _evaluate(self, batch: NoduleBatch, split: str) -> None:
        generators = self.evaluation_generators(batch)
        network = cast(Denoiser, self.ema.module)
        denoising = self.denoise(network, batch, generators, dropout=False)
        losses = self.losses(network, batch, denoising)
        named = {f"{split}/{name}": value for name, value in losses.items()}
        self.log_dict(named, batch_size=len(batch["index"]), sync_dist=True)

    @property
    def histogram_conditioner(self) -> HistogramConditioner | None:
        """The averaged network's histogram conditioner, if it has one."""
        network = cast(Denoiser, self.ema.module)
        for conditioner in network.conditioners.values():
            if isinstance(conditioner, HistogramConditioner):
                return conditioner
        return None

    @property
    def window(self) -> tuple[float, float]:
        """Intensities that are mapped to -1 and 1."""
        return self.head.window.low, self.head.window.high

    @property
    def provenance(self) -> Provenance:
        """Where synthetic nodules come from."""
        sampling = self.sampling
        patients = tuple(sorted(self.patients))
        return Provenance(self.checkpoint, sampling.seed, sampling.evaluations, patients)

    @torch.no_grad()
    def sample(self, batch: NoduleBatch, seed: int | None = None) -> Synthesis:
        """Synthesize a nodule in each image of the batch, with the averaged weights.

        Each sample depends on the seed and its index alone. Outside the nodule's margin the image
        is the background bit for bit.

        Args:
            batch: images, masks and conditions; what the images show inside the region is not
                seen. With `histogram` in it that is requested, else that of the image in the mask.
            seed: overrides the seed of the sampling settings.
        """
        settings = self.sampling
        seed = settings.seed if seed is None else seed
        mask, background = batch["mask"], batch["image"]
        region, latent_region = self._region(mask)
        image = self.head.window.normalize(background)
        mean, _ = self.codec.encode(mean_fill(image, region))
        context = self.codec.standardize(mean.float())
        predict, steps = self._predictor(batch, Surroundings(context, latent_region))
        latent = self.process.sample(
            predict,
            context,
            latent_region,
            sample_noise(batch["index"], context.shape[1:], seed),
            steps,
            settings.solver,
            [generator("solver", seed, index) for index in batch["index"].tolist()],
        )
        synthetic = self.head.window.denormalize(self.codec.decode(latent).float())
        pasted = paste(background, synthetic, feather(mask, self.head.margin_voxels))
        requested, generated = self._histograms(batch, pasted)
        return Synthesis(
            image=pasted,
            background=background,
            request=batch,
            requested_histogram=requested,
            generated_histogram=generated,
            bin_centers=self.bin_centers,
            window=self.window,
            provenance=replace(self.provenance, seed=seed),
        )

    def _predictor(self, batch: NoduleBatch, surroundings: Surroundings) -> tuple[Predict, int]:
        """The averaged network with guidance, and the number of steps its evaluations allow."""
        network = cast(Denoiser, self.ema.module)
        branches = self.guidance_branches(batch, surroundings)
        number = len(branches)
        together = interleave_conditions([conditioning for conditioning, _ in branches])
        weights = torch.tensor([weight for _, weight in branches], device=self.device)

        def predict(x_t: Tensor, timestep: Tensor) -> Tensor:
            repeated = (value.repeat_interleave(number, 0) for value in (x_t, timestep))
            output: Tensor = network(*repeated, together)
            if number == 1:
                return output
            return torch.einsum("a,ba...->b...", weights, output.view(-1, number, *x_t.shape[1:]))

        return predict, max(self.sampling.evaluations // number, 1)

    def guidance_branches(
        self, batch: NoduleBatch, surroundings: Surroundings
    ) -> list[tuple[Conditioning, float]]:
        """The conditions under which the network is asked at each step, and their weights.

        With guidance (Ho and Salimans 2022) e_0 + s (e - e_0) has the weights 1 - s and s.
        """
        network = cast(Denoiser, self.ema.module)
        given, scale = network.condition(batch, surroundings), self.sampling.guidance_scale
        if scale == 1:
            return [(given, 1.0)]
        everywhere = torch.ones_like(batch["index"], dtype=torch.bool)
        withheld = {n: everywhere for n, c in self.head.conditioners.items() if c.guided}
        without = network.condition(batch, surroundings, withheld)
        return [(without, 1 - scale), (given, scale)]

    @property
    def bin_centers(self) -> Tensor:
        """Centres of the histograms' bins in image units, `(bins,)`."""
        window = self.head.window
        return bin_centers(self.head.histogram_bins, window.low, window.high)

    def _histograms(self, batch: NoduleBatch, image: Tensor) -> tuple[Tensor, Tensor]:
        """Requested and generated histogram."""

        def measure(values: Tensor) -> Tensor:
            head = self.head
            return masked_histogram(values, batch["mask"], head.histogram_bins, head.window)

        requested = batch["histogram"] if "histogram" in batch else measure(batch["image"])
        return requested, measure(image)

    # --- checkpoints ---------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what a checkpoint must not be used without."""
        data = cast(NoduleDataModule, self.trainer.datamodule)  # type: ignore[attr-defined]
        checkpoint["noduleforge"] = {
            **self._facts(),
            "data_fingerprint": data.fingerprint,
            "training_patients": self.training_patients(),
        }

    def training_patients(self) -> list[str]:
        """Keys of all patients that trained weights have seen, the autoencoder's included."""
        data = cast(NoduleDataModule, self.trainer.datamodule)  # type: ignore[attr-defined]
        return sorted(self.patients | data.training_patients)

    def _facts(self) -> dict[str, Any]:
        """What the weights mean nothing without."""
        size = self.roi.shape(self.codec.spatial_dims)
        return {
            "window": [self.head.window.low, self.head.window.high],
            "margin_voxels": self.head.margin_voxels,
            "histogram_bins": self.head.histogram_bins,
            "roi_size": list(size),
            "roi_spacing_mm": self.roi.spacing_mm,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another stage, or whose facts are not the config's.

        Raises:
            ValueError: Naming what differs.
        """
        saved = checkpoint.get("noduleforge", {})
        if "margin_voxels" not in saved:
            message = (
                "The checkpoint is not one of a diffusion model: ckpt_path takes stage 2's, and "
                "model.autoencoder that of stage 1."
            )
            raise ValueError(message)
        check_facts(saved, self._facts())
        self.patients |= patients_of(checkpoint)
