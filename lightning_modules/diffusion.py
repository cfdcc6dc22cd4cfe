"""Stage 2: latent diffusion of nodules, whatever the modality."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from datamodules.base import NoduleDataModule
from datamodules.batch import NoduleBatch, Provenance, Roi, Synthesis
from lightning_modules.checkpoints import load_codec, load_denoiser
from lightning_modules.core.averaging import MovingAverage
from lightning_modules.core.checkpoint_files import patients_of
from lightning_modules.core.codec import LatentCodec
from lightning_modules.core.conditioning import Surroundings, sees_through
from lightning_modules.core.denoiser import Denoiser, Denoising
from lightning_modules.core.description import (
    Parts,
    check_conditioners,
    check_process,
    describe,
)
from lightning_modules.core.facts import ModelFacts, check_facts
from lightning_modules.core.inpainting import inpaint_mask, known_image, to_latent_mask
from lightning_modules.core.pretrained_codecs import PretrainedCodec
from lightning_modules.core.process import DiffusionProcess
from lightning_modules.core.randomness import SampleStreams
from lightning_modules.core.reconstruction import check_error, mean_error
from lightning_modules.core.regularizer import Estimate
from lightning_modules.core.sampling import ClassifierFreeGuidance, Guidance, SamplingConfig
from lightning_modules.core.synthesizer import Synthesizer
from lightning_modules.core.transformer import TransformerConfig
from lightning_modules.core.unet import UNetConfig
from lightning_modules.heads.head import ModalityHead
from lightning_modules.optimization import adamw


class NoduleDiffusion(LightningModule):
    """Mask-conditioned latent diffusion around a known background.

    Args:
        head: the modality: window, conditioners, regularizers.
        codec: the autoencoder; of the same size as the one in `autoencoder`, or one that others
            have trained, which needs no `autoencoder`. It is frozen.
        unet: size of the denoising UNet; null where a transformer takes its place.
        process: the diffusion process.
        roi: the region of an image in which a nodule is synthesized.
        transformer: size of the denoising transformer, in the place of `unet`.
        autoencoder: checkpoint of stage 1, needed to begin training if the codec brings no weights;
            a diffusion checkpoint holds the autoencoder's weights itself.
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

    Raises:
        ValueError: If there is neither a UNet nor a transformer, or both.
    """

    def __init__(
        self,
        head: ModalityHead,
        codec: LatentCodec | PretrainedCodec,
        unet: UNetConfig | None,
        process: DiffusionProcess,
        roi: Roi,
        transformer: TransformerConfig | None = None,
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
        codec.see(head.window)
        self.codec = codec.requires_grad_(False).eval()
        size = _one_of(unet, transformer)
        self.denoiser = Denoiser(size, codec, head.conditioners, head.window, head.histogram_bins)
        self.ema_decay = ema_decay
        self.ema = MovingAverage(self.denoiser, ema_decay)
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

    @property
    def histogram_bins(self) -> int:
        """How many shares a histogram that is asked for has."""
        return self.head.histogram_bins

    # --- beginning -----------------------------------------------------------------------------

    def load_weights(self) -> None:
        """Load the autoencoder or the warm start.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If there is no autoencoder, or a file does not fit the config.
        """
        if self.init_from is not None:
            self.patients |= load_codec(self.codec, self.init_from, self.head.window)
            load_denoiser(self.denoiser, self.init_from, self._plain_facts(), self.description)
        elif self.autoencoder is not None:
            self.patients |= load_codec(self.codec, self.autoencoder, self.head.window)
        elif isinstance(self.codec, PretrainedCodec):
            self.codec.load_pretrained()
            self.patients |= self.codec.patients
        else:
            message = (
                "The diffusion model has no autoencoder: set model.autoencoder to a checkpoint of "
                "stage 1, or model.codec to one that others have trained."
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
        if not resumed and isinstance(self.codec, PretrainedCodec):
            self._check_codec(self.codec, data)
        if data.cache_dir is not None:
            report = data.cache_latents(
                self.encode,
                f"{self.codec.fingerprint()}-{self.head.window}-{self.head.margin_voxels}"
                + ("-through" if sees_through(self.denoiser.conditioners) else ""),
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

    def _check_codec(self, codec: PretrainedCodec, data: NoduleDataModule) -> None:
        """Say what a codec of others loses on this data, and refuse it above its limit."""
        batches = map(self._on_device, data.statistics_batches())
        with self.trainer.precision_plugin.forward_context():
            error = mean_error(codec, self.head.window, batches)
        rank_zero_info(
            f"Codec: reconstructions are off by {error.image:.3g} over the region and "
            f"{error.nodule:.3g} inside the nodules (mean absolute error in the images' units)"
        )
        check_error(error, codec.error_limit)

    def _on_device(self, batch: NoduleBatch) -> NoduleBatch:
        moved = self.trainer.strategy.batch_to_device(batch, self.device)
        return cast(NoduleBatch, moved)

    # --- latents -------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, batch: NoduleBatch) -> dict[str, Tensor]:
        """Posterior of the image, and posterior mean of what is known of it (`known_image`)."""
        batch = self._on_device(batch)
        image = self.head.window.normalize(batch["image"])
        region = inpaint_mask(batch["mask"], self.head.margin_voxels)
        with self.trainer.precision_plugin.forward_context():
            known = known_image(
                batch, region, self.head.window, sees_through(self.denoiser.conditioners)
            )
            mean, logvar = self.codec.encode(torch.cat([image, known]))
        mean, context = mean.float().chunk(2)
        logvar, _ = logvar.float().chunk(2)
        return {"latent_mean": mean, "latent_logvar": logvar, "context": context}

    def _latents(self, batch: NoduleBatch) -> Mapping[str, Tensor]:
        return cast(Mapping[str, Tensor], batch if "context" in batch else self.encode(batch))

    # --- training ------------------------------------------------------------------------------

    def training_step(self, batch: NoduleBatch, batch_idx: int) -> Tensor:
        """One step: diffusion loss and regularizers."""
        streams = SampleStreams(batch["draw"], "train", self.seed)
        denoising = self.denoise(self.denoiser, batch, streams, dropout=True)
        losses = self.losses(self.denoiser, batch, denoising)
        self.log_dict({f"train/{name}": value for name, value in losses.items()})
        return self.weighted(losses)

    def trial_loss(self, batch: NoduleBatch) -> Tensor:
        """The loss of a step that is not taken, to see what memory it needs."""
        streams = SampleStreams(batch["index"], "trial")
        denoising = self.denoise(self.denoiser, batch, streams, dropout=True)
        return self.weighted(self.losses(self.denoiser, batch, denoising))

    def denoise(
        self, denoiser: Denoiser, batch: NoduleBatch, streams: SampleStreams, dropout: bool
    ) -> Denoising:
        """Put noise on a batch and ask the network for what training wants of it.

        Args:
            denoiser: the network; the one in training or the averaged one.
            batch: nodules, with cached latents or without.
            streams: where timesteps, noise and dropout are drawn from.
            dropout: whether conditions are withheld.
        """
        latents = self._latents(batch)
        mask = batch["mask"]
        region = inpaint_mask(mask, self.head.margin_voxels)
        region = to_latent_mask(region, self.codec.compression)
        mean, logvar = latents["latent_mean"], latents["latent_logvar"]
        draw = mean + torch.exp(0.5 * logvar) * streams.normal(mean)
        context = self.codec.standardize(latents["context"])
        # outside the region the model meets what it will meet in synthesis
        latent = torch.where(region > 0, self.codec.standardize(draw), context)

        timestep = self.process.timesteps_at(streams.uniform())
        noise = streams.normal(latent)
        x_t = self.process.add_noise(latent, noise, timestep)
        withheld = self.head.withhold(streams) if dropout else None
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
            losses |= {name: loss(estimate) for name, loss in self.head.regularizers.items()}
        return losses

    def weighted(self, losses: Mapping[str, Tensor]) -> Tensor:
        """What is minimized: the diffusion loss and the others times their weights."""
        return self.head.weighted(losses)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Update the averaged weights after each optimizer step."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update(self.denoiser)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with warm-up and cosine decay."""
        rates = (self.learning_rate, self.warmup_steps, self.weight_decay)
        return adamw(self.denoiser.parameters(), self.trainer, *rates)

    def train(self, mode: bool = True) -> "NoduleDiffusion":
        """Set the mode; the frozen codec stays in evaluation mode."""
        super().train(mode)
        self.codec.eval()
        return self

    # --- evaluation and synthesis --------------------------------------------------------------

    def on_test_start(self) -> None:
        """Take the weights of `init_from` where there is neither training nor a checkpoint.

        The averaged network is compiled here, and not for the few batches of validation.

        Raises:
            ValueError: If there is no `init_from` either.
        """
        if self.trainer.ckpt_path is not None:
            self.checkpoint = Path(self.trainer.ckpt_path).name
        elif not self.codec.is_measured:
            if self.init_from is None:
                message = (
                    "The model has no weights to synthesize with: give ckpt_path, or set "
                    "model.init_from to a diffusion checkpoint."
                )
                raise ValueError(message)
            self.load_weights()
            self.checkpoint = Path(self.init_from).name
            self.ema.module.load_state_dict(self.denoiser.state_dict())
        cast(Denoiser, self.ema.module).compile_unet()

    on_predict_start = on_test_start

    def validation_step(self, batch: NoduleBatch, batch_idx: int) -> None:
        """Losses of the averaged weights, at the same timesteps and noise in every epoch."""
        self._evaluate(batch, "val")

    def test_step(self, batch: NoduleBatch, batch_idx: int) -> None:
        """Losses as in validation."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: NoduleBatch, batch_idx: int) -> Synthesis:
        """Synthetic nodules where the batch asks for them.

        A request without a histogram gets one: `Synthesizer.with_histograms`.
        """
        return self.sample(self.synthesizer.with_histograms(batch))

    def evaluation_streams(self, batch: NoduleBatch) -> SampleStreams:
        """Where validation draws from: for each nodule the same in every epoch."""
        return SampleStreams(batch["index"], "evaluate", self.seed)

    def _evaluate(self, batch: NoduleBatch, split: str) -> None:
        network = cast(Denoiser, self.ema.module)
        denoising = self.denoise(network, batch, self.evaluation_streams(batch), dropout=False)
        losses = self.losses(network, batch, denoising)
        named = {f"{split}/{name}": value for name, value in losses.items()}
        self.log_dict(named, batch_size=len(batch["index"]), sync_dist=True)

    @property
    def guidance(self) -> Guidance:
        """Of the network's answers in synthesis."""
        return ClassifierFreeGuidance()

    @property
    def synthesizer(self) -> Synthesizer:
        """What synthesizes with the averaged weights, as they are."""
        return Synthesizer(
            self.facts,
            self.codec,
            cast(Denoiser, self.ema.module),
            self.process,
            self.guidance,
            self.sampling,
            self.provenance,
        )

    @property
    def window(self) -> tuple[float, float]:
        """Intensities that are mapped to -1 and 1."""
        return self.head.window.ends

    @property
    def provenance(self) -> Provenance:
        """Where synthetic nodules come from."""
        sampling = self.sampling
        patients = tuple(sorted(self.patients))
        return Provenance(self.checkpoint, sampling.seed, sampling.evaluations, patients)

    def sample(self, batch: NoduleBatch, seed: int | None = None) -> Synthesis:
        """Synthesize a nodule in each image of the batch: `Synthesizer.__call__`.

        Args:
            batch: images, masks and conditions.
            seed: overrides the seed of the sampling settings.
        """
        return self.synthesizer(batch, seed)

    # --- checkpoints ---------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what a checkpoint must not be used without, and what `Synthesizer.load` needs."""
        data = cast(NoduleDataModule, self.trainer.datamodule)  # type: ignore[attr-defined]
        checkpoint["noduleforge"] = {
            **self._plain_facts(),
            "synthesizer": self.description,
            "data_fingerprint": data.fingerprint,
            "training_data": {n: data.describe(part) for n, part in data.training.items()},
            "training_patients": sorted(self.patients),
        }

    @property
    def description(self) -> dict[str, Any]:
        """The model's parts as plain data."""
        return describe(
            Parts(self.codec, self.denoiser, self.process, self.sampling, self.guidance)
        )

    @property
    def facts(self) -> ModelFacts:
        """What the weights mean nothing without."""
        head = self.head
        return ModelFacts(head.window, head.margin_voxels, head.histogram_bins, self.roi)

    def _plain_facts(self) -> dict[str, Any]:
        return self.facts.plain(self.codec.spatial_dims)

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
        check_facts(saved, self._plain_facts())
        check_process(saved.get("synthesizer", {}), self.description)
        check_conditioners(saved.get("synthesizer", {}), self.description)
        self.patients |= patients_of(checkpoint)


def _one_of(
    unet: UNetConfig | None, transformer: TransformerConfig | None
) -> UNetConfig | TransformerConfig:
    """The network that is asked for."""
    if unet is not None and transformer is None:
        return unet
    if transformer is not None and unet is None:
        return transformer
    message = (
        f"Of model.unet and model.transformer the config has {'both' if unet else 'none'}: give "
        "one, and set the other to null."
    )
    raise ValueError(message)
