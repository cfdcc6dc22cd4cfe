"""What a user would take instead, built from MONAI's classes with random weights.

MAISI-v2 is a UNet with a ControlNet that reads a segmentation, on latents at a quarter of the
resolution, and makes a whole volume in 30 steps. MONAI's tutorials of latent diffusion encode each
batch in the training step.
"""

from typing import Any

import torch
import torch.nn.functional as F
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.apps.generation.maisi.networks.controlnet_maisi import ControlNetMaisi
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import (
    DiffusionModelUNetMaisi,
)
from monai.inferers import LatentDiffusionInferer
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler, RFlowScheduler

from timing.clock import Machine, Step

COMPRESSION = 4
STEPS = 30

TINY_MAISI = {"num_channels": [32, 32], "attention_levels": [False, True], "norm_num_groups": 32,
    "num_head_channels": [0, 32]}  # fmt: skip
STOCK_MAISI = {"num_channels": [64, 128, 256, 512], "num_head_channels": [0, 0, 32, 32],
    "attention_levels": [False, False, True, True]}  # fmt: skip


class Maisi:
    """MAISI-v2's networks in the phase that trains the ControlNet, and its synthesis.

    Args:
        sides: of the volume, voxels.
        machine: where.
    """

    def __init__(self, sides: tuple[int, ...], machine: Machine) -> None:
        self.machine, device = machine, machine.device
        sizes: dict[str, Any] = TINY_MAISI if machine.sizes == "tiny" else STOCK_MAISI
        common = {**sizes, "spatial_dims": 3, "in_channels": 4, "num_res_blocks": 2}
        # on the CPU the fused kernel is refused by MONAI's classes
        common |= {"use_flash_attention": device == "cuda", "include_fc": True}
        common |= {"num_class_embeds": 128, "resblock_updown": True}
        unet = DiffusionModelUNetMaisi(out_channels=4, include_spacing_input=True, **common)
        self.unet = unet.to(device).requires_grad_(False)
        self.control = ControlNetMaisi(
            conditioning_embedding_in_channels=8,
            conditioning_embedding_num_channels=[8, 32, 64],
            **common,
        ).to(device)
        self.latent = torch.randn(1, 4, *(side // COMPRESSION for side in sides), device=device)
        self.mask = torch.zeros(1, 8, *sides, device=device)
        self.label = torch.ones(1, dtype=torch.long, device=device)
        self.spacing = torch.full((1, 3), 100.0, device=device)
        self.scheduler = RFlowScheduler(
            num_train_timesteps=1000,
            use_discrete_timesteps=False,
            use_timestep_transform=True,
            sample_method="uniform",
            scale=1.4,
        )
        self.optimizer = torch.optim.AdamW(self.control.parameters(), fused=True)

    def answer(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """The velocity that ControlNet and UNet say."""
        down, middle = self.control(
            x=x, timesteps=timestep, controlnet_cond=self.mask, class_labels=self.label
        )
        velocity: torch.Tensor = self.unet(
            x=x,
            timesteps=timestep,
            spacing_tensor=self.spacing,
            class_labels=self.label,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        )
        return velocity

    def step(self) -> None:
        """A training step of the ControlNet on a cached latent."""
        self.optimizer.zero_grad()
        noise = torch.randn_like(self.latent)
        timestep = self.scheduler.sample_timesteps(self.latent)
        with self.machine.autocast():
            x = self.scheduler.add_noise(self.latent, noise, timestep)
            loss = F.l1_loss(self.answer(x, timestep).float(), self.latent - noise)
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def evaluation(self) -> None:
        """One of the evaluations of synthesis."""
        with self.machine.autocast():
            self.answer(self.latent, torch.full((1,), 500.0, device=self.latent.device))

    @torch.no_grad()
    def denoise(self) -> torch.Tensor:
        """Synthesis without decoding."""
        x = torch.randn_like(self.latent)
        voxels = torch.tensor(x[0, 0].numel())
        self.scheduler.set_timesteps(num_inference_steps=STEPS, input_img_size_numel=voxels)
        times = self.scheduler.timesteps
        for now, after in zip(times, [*times[1:], times.new_zeros(())], strict=True):
            with self.machine.autocast():
                velocity = self.answer(x, now.reshape(1).to(x.device))
            x, _ = self.scheduler.step(velocity.float(), now, x, after)
        return x


def maisi_decoder(machine: Machine) -> torch.nn.Module:
    """MAISI's autoencoder."""
    channels = [32, 32, 32] if machine.sizes == "tiny" else [64, 128, 256]
    autoencoder: torch.nn.Module = AutoencoderKlMaisi(
        spatial_dims=3, in_channels=1, out_channels=1, latent_channels=4, num_channels=channels,
        num_res_blocks=[2, 2, 2], norm_num_groups=32, norm_eps=1e-6, attention_levels=[False] * 3,
        with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False,
        use_checkpointing=False, use_convtranspose=False, norm_float16=False, num_splits=1,
        dim_split=1,
    )  # fmt: skip
    return autoencoder.to(machine.device).eval()


def latent_diffusion(dims: int, side: int, batch: int, machine: Machine) -> Step:
    """The training step of MONAI's tutorials 2d_ldm and 3d_ldm, which encodes the images."""
    tiny, device = machine.sizes == "tiny", machine.device
    volumes = dims == 3
    autoencoder = AutoencoderKL(
        spatial_dims=dims, in_channels=1, out_channels=1,
        channels=(32, 32, 32) if tiny else (64, 128, 256), latent_channels=8 if volumes else 3,
        num_res_blocks=2, norm_num_groups=32, norm_eps=1e-6, attention_levels=(False,) * 3,
        with_encoder_nonlocal_attn=not volumes, with_decoder_nonlocal_attn=not volumes,
    ).to(device).eval().requires_grad_(False)  # fmt: skip
    channels: tuple[int, ...] = (256, 256, 512) if volumes else (32, 64, 128, 256)
    heads: tuple[int, ...] = (0, 64, 64) if volumes else (0, 32, 32, 32)
    if tiny:
        channels, heads = (32, 32), (0, 32)
    unet = DiffusionModelUNet(
        spatial_dims=dims, in_channels=8 if volumes else 3, out_channels=8 if volumes else 3,
        channels=channels, num_res_blocks=2, num_head_channels=heads,
        attention_levels=tuple(head > 0 for head in heads),
    ).to(device)  # fmt: skip
    scheduler = DDPMScheduler(num_train_timesteps=1000, schedule="scaled_linear_beta")
    inferer = LatentDiffusionInferer(scheduler, scale_factor=1.0)
    optimizer = torch.optim.AdamW(unet.parameters(), fused=True)
    images = torch.randn(batch, 1, *(side,) * dims, device=device)
    latent = (batch, 8 if volumes else 3, *(side // COMPRESSION,) * dims)

    def step() -> None:
        optimizer.zero_grad()
        noise = torch.randn(latent, device=device)
        timesteps = torch.randint(0, 1000, (batch,), device=device)
        with machine.autocast():
            answer = inferer(
                inputs=images,
                autoencoder_model=autoencoder,
                diffusion_model=unet,
                noise=noise,
                timesteps=timesteps,
            )
            loss = F.mse_loss(answer.float(), noise)
        loss.backward()
        optimizer.step()

    return step
