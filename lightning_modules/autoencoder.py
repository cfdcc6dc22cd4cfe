"""Stage 1: the autoencoder whose latents the diffusion model works in."""

from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import PatchDiscriminator
from torch import Tensor
from torch.func import functional_call

from datamodules.base import NoduleDataModule
from datamodules.batch import NoduleBatch, Roi
from lightning_modules.core.codec import LatentCodec
from lightning_modules.core.perceptual import PerceptualDistance
from lightning_modules.core.pretrained_codecs import PretrainedCodec
from lightning_modules.core.randomness import SampleStreams
from lightning_modules.core.reconstruction import reconstruction_error
from lightning_modules.core.window import IntensityWindow
from lightning_modules.optimization import adamw


class Autoencoder(LightningModule):
    """KL autoencoder with L1, perceptual and patch-adversarial losses (Rombach et al. 2022).

    One optimizer holds both the autoencoder and the discriminator, so that a step is a step: each
    network's loss reaches that network alone.

    Args:
        codec: the autoencoder; one that others have trained begins with their weights.
        window: intensities that are mapped to [-1, 1]; the diffusion model must use the same.
        roi: the region of an image that it is trained on; the diffusion model's may be larger.
        kl_weight: weight of the Kullback-Leibler divergence, a mean over latent values.
        perceptual_weights: torchvision's AlexNet weights for LPIPS; without, the loss is off.
        perceptual_weight: weight of the perceptual loss.
        adversarial_weight: weight of the patch-adversarial loss; 0 trains no discriminator.
        adversarial_start: step from which the adversarial loss counts for the autoencoder; the
            discriminator learns from the first step.
        learning_rate: peak learning rate of AdamW.
        warmup_steps: steps over which the learning rate rises, before it falls as a cosine.
        seed: seed of the posterior's draws.
    """

    def __init__(
        self,
        codec: LatentCodec | PretrainedCodec,
        window: tuple[float, float],
        roi: Roi,
        kl_weight: float = 1e-4,
        perceptual_weights: Path | None = None,
        perceptual_weight: float = 0.3,
        adversarial_weight: float = 0.0,
        adversarial_start: int = 1000,
        learning_rate: float = 1e-3,
        warmup_steps: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.codec, self.window, self.roi = codec, IntensityWindow(*window), roi
        codec.see(self.window)
        self.kl_weight, self.perceptual_weight = kl_weight, perceptual_weight
        self.adversarial_weight, self.adversarial_start = adversarial_weight, adversarial_start
        self.learning_rate, self.warmup_steps, self.seed = learning_rate, warmup_steps, seed
        # in a list: its weights belong in no checkpoint
        self.perceptual = [PerceptualDistance(perceptual_weights)] if perceptual_weights else []
        if adversarial_weight > 0:
            self.discriminator = PatchDiscriminator(
                spatial_dims=codec.spatial_dims,
                channels=32,
                in_channels=1,
                out_channels=1,
                num_layers_d=2,
                # batch statistics would differ between one process and several
                norm="INSTANCE",
            )
            self.adversarial_loss = PatchAdversarialLoss(criterion="least_squares")

    def on_fit_start(self) -> None:
        """Load the weights of a codec that others have trained; say which losses are off."""
        if isinstance(self.codec, PretrainedCodec) and self.trainer.ckpt_path is None:
            self.codec.load_pretrained()
        off = [] if self.perceptual else ["perceptual (no perceptual_weights were given)"]
        off += [] if self.adversarial_weight else ["adversarial (adversarial_weight is 0)"]
        if off:
            rank_zero_info(f"Losses that are off: {', '.join(off)}")

    def training_step(self, batch: NoduleBatch, batch_idx: int) -> Tensor:
        """One step on images of the batch."""
        image = self.window.normalize(batch["image"])
        mean, logvar = self.codec.encode(image)
        noise = SampleStreams(batch["draw"], "posterior", self.seed).normal(mean)
        output = self.codec.reconstruct(mean + torch.exp(0.5 * logvar) * noise).float()
        losses = {"l1": F.l1_loss(output, image), "kl": _kl(mean.float(), logvar.float())}
        loss = losses["l1"] + self.kl_weight * losses["kl"]
        for network in self.perceptual:
            losses["perceptual"] = network.to(image.device)(output, image)
            loss = loss + self.perceptual_weight * losses["perceptual"]
        if self.adversarial_weight > 0:
            losses |= self._adversarial(image, output)
            started = float(self.global_step >= self.adversarial_start)
            loss = loss + self.adversarial_weight * started * losses["generator"]
            loss = loss + losses["discriminator"]
        self.log_dict({f"train/{name}": value for name, value in losses.items()})
        return loss

    def trial_loss(self, batch: NoduleBatch) -> Tensor:
        """The loss of a step that is not taken, to see what memory it needs."""
        image = self.window.normalize(batch["image"])
        mean, logvar = self.codec.encode(image)
        return F.l1_loss(self.codec.reconstruct(mean).float(), image) + _kl(mean, logvar)

    def _adversarial(self, image: Tensor, output: Tensor) -> dict[str, Tensor]:
        """Loss of the autoencoder with the discriminator held still, and the other way round."""
        still = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        fooled = functional_call(self.discriminator, still, (output,))[-1]
        # one pass over real and reconstructed patches
        judged = self.discriminator(torch.cat([image, output.detach()]))[-1]
        real, fake = judged.chunk(2)
        judge = self.adversarial_loss
        return {
            "generator": judge(fooled, target_is_real=True, for_discriminator=False),
            "discriminator": 0.5
            * (
                judge(real, target_is_real=True, for_discriminator=True)
                + judge(fake, target_is_real=False, for_discriminator=True)
            ),
        }

    def validation_step(self, batch: NoduleBatch, batch_idx: int) -> None:
        """Mean absolute error in physical units, over the ROI and inside the nodules."""
        self._evaluate(batch, "val")

    def test_step(self, batch: NoduleBatch, batch_idx: int) -> None:
        """As in validation, on the test patients."""
        self._evaluate(batch, "test")

    def _evaluate(self, batch: NoduleBatch, split: str) -> None:
        error = reconstruction_error(self.codec, self.window, batch)
        size = len(batch["index"])
        # the names say HU for CT; a radiograph's window is in detector units
        self.log(f"{split}/mae", error.image.mean(), batch_size=size, sync_dist=True, prog_bar=True)
        self.log(f"{split}/mae_nodule", error.nodule.mean(), batch_size=size, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record the window, which the diffusion model must share, and the patients."""
        data = cast(NoduleDataModule, self.trainer.datamodule)  # type: ignore[attr-defined]
        checkpoint["noduleforge"] = {
            "window": list(self.window.ends),
            "training_patients": sorted({*data.training_patients, *self.codec.patients}),
        }

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with warm-up and cosine decay."""
        rates = (self.learning_rate, self.warmup_steps)
        return adamw(self.parameters(), self.trainer, *rates, betas=(0.9, 0.99))


def _kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """Kullback-Leibler divergence from the standard normal, the mean over latent values."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
