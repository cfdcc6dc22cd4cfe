"""The diffusion process: noising, targets, loss, and guided sampling around a known background."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from lightning_modules.core.prediction import PREDICTIONS, BetaSchedule, PredictionName

if TYPE_CHECKING:
    from diffusers import DPMSolverMultistepScheduler

Weighting = Literal["uniform", "min_snr", "x0"]
Solver = Literal["dpm-solver++", "ddim", "sde-dpm-solver++"]
SOLVERS = {
    "dpm-solver++": ("dpmsolver++", 2),
    "ddim": ("dpmsolver++", 1),
    "sde-dpm-solver++": ("sde-dpmsolver++", 2),
}
"""Algorithm and order of diffusers' DPM-Solver (Lu et al. 2022); its first order is DDIM (Song et
al. 2021)."""

Predict = Callable[[Tensor, Tensor], Tensor]
"""From a noisy latent `(B, C, *latent)` and timesteps `(B,)` to the network's output."""

Adjust = Callable[[Tensor, float], Tensor]
"""From an estimate of x_0, `(B, C, *latent)`, and the share of steps done to a better one."""

WEIGHTINGS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "uniform": lambda error_of_x0, snr, gamma: torch.ones_like(error_of_x0),
    "x0": lambda error_of_x0, snr, gamma: error_of_x0,
    "min_snr": lambda error_of_x0, snr, gamma: error_of_x0 * snr.clamp(max=gamma),
}
"""Weight of the target's squared loss, `(B,)`, from the squared error that it means for x_0, the
signal-to-noise ratio and gamma."""


class DiffusionProcess(nn.Module):
    """Gaussian diffusion x_t = a_t x_0 + s_t eps, its training loss and its sampler.

    Epsilon and v prediction use a variance-preserving schedule (Ho et al. 2020; Salimans and Ho
    2022), flow prediction the straight path a_t = 1 - t/T, s_t = t/T (Liu et al. 2023).

    Args:
        prediction: what the network predicts: the noise, v = a eps - s x_0, or eps - x_0.
        schedule: beta schedule of diffusers' DDPMScheduler for epsilon and v.
        shift: factor of s_t / a_t over that of the schedule. The mean of n voxels is still seen
            when the noise of one has drowned it: the larger a nodule, the more of the schedule
            must lie at strong noise for its intensity to be learned from the conditions
            (Hoogeboom et al. 2023, simple diffusion; Esser et al. 2024, eq. 23).
        timesteps: number of training timesteps T.
        loss: `l1` or `l2`.
        weighting: how the loss is weighted over t. `uniform`: that of the target is not weighted;
            `x0`: as if it were that of x_0; `min_snr`: that of x_0 times min(SNR, gamma) (Hang et
            al. 2023).
        snr_gamma: gamma of `min_snr`.
        roi_weight: weight of the loss inside the nodule's region relative to outside. The loss is
            the weighted mean of both means, so that it does not grow with the lesion's size.

    Attributes:
        settings: the arguments, as plain data.
    """

    def __init__(
        self,
        prediction: PredictionName = "v",
        schedule: BetaSchedule = "squaredcos_cap_v2",
        shift: float = 1.0,
        timesteps: int = 1000,
        loss: Literal["l1", "l2"] = "l2",
        weighting: Weighting = "uniform",
        snr_gamma: float = 5.0,
        roi_weight: float = 4.0,
    ) -> None:
        super().__init__()
        if shift <= 0:
            message = f"The diffusion process's shift is {shift}, expected more than 0."
            raise ValueError(message)
        if prediction not in PREDICTIONS:
            message = f"The prediction is {prediction!r}, expected one of {', '.join(PREDICTIONS)}."
            raise ValueError(message)
        self.settings = {
            "prediction": prediction,
            "schedule": schedule,
            "shift": shift,
            "timesteps": timesteps,
            "loss": loss,
            "weighting": weighting,
            "snr_gamma": snr_gamma,
            "roi_weight": roi_weight,
        }
        self.prediction, self.shift, self.timesteps = PREDICTIONS[prediction], shift, timesteps
        self.loss_norm, self.weighting, self.snr_gamma = loss, weighting, snr_gamma
        self.roi_weight = roi_weight
        with torch.device("cpu"):  # its values are looked at, which other devices may lack
            alpha, sigma, self.betas = self.prediction.schedule(timesteps, schedule, shift)
        self.register_buffer("alpha", alpha.float(), persistent=False)
        self.register_buffer("sigma", sigma.float(), persistent=False)

    def timesteps_at(self, share: Tensor) -> Tensor:
        """Timesteps to train at, `(B,)`, as dense as the sampler takes them.

        Args:
            share: `(B,)`, uniform in [0, 1).
        """
        share = self.prediction.share(share, self.shift)
        # the largest float below 1 may be rounded up to it
        return (share * self.timesteps).long().clamp(max=self.timesteps - 1)

    def coefficients(self, timestep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """a_t and s_t of timesteps `(B,)`, broadcastable to `like`."""
        alpha, sigma = self.get_buffer("alpha"), self.get_buffer("sigma")
        shape = (-1, *(1,) * (like.ndim - 1))
        return alpha[timestep].view(shape), sigma[timestep].view(shape)

    def signal_share(self, timestep: Tensor) -> Tensor:
        """Share of the signal in the power of x_t, a^2 / (a^2 + s^2), `(B,)` in [0, 1].

        It is alpha-bar of a variance-preserving schedule.
        """
        alpha, sigma = self.get_buffer("alpha")[timestep], self.get_buffer("sigma")[timestep]
        return alpha.square() / (alpha.square() + sigma.square())

    def add_noise(self, x0: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """x_t of latents `(B, C, *latent)` at timesteps `(B,)`."""
        alpha, sigma = self.coefficients(timestep, x0)
        return alpha * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """What the network is to predict."""
        return self.prediction.target(x0, noise, *self.coefficients(timestep, x0))

    def x0(self, x_t: Tensor, output: Tensor, timestep: Tensor) -> Tensor:
        """Estimate of x_0 from the network's output at x_t."""
        return self.prediction.x0(x_t, output, *self.coefficients(timestep, x_t))

    def weight(self, timestep: Tensor) -> Tensor:
        """Weight of the target's squared loss at timesteps `(B,)`; its root weighs an L1 loss."""
        alpha, sigma = self.get_buffer("alpha")[timestep], self.get_buffer("sigma")[timestep]
        snr = alpha.square() / sigma.square().clamp(min=1e-8)
        error_of_x0 = self.prediction.error_of_x0(alpha, sigma)
        weight = WEIGHTINGS[self.weighting](error_of_x0, snr, self.snr_gamma)
        return weight.sqrt() if self.loss_norm == "l1" else weight

    def loss(self, output: Tensor, target: Tensor, timestep: Tensor, region: Tensor) -> Tensor:
        """Weighted loss of the network's output.

        Args:
            output: `(B, C, *latent)`.
            target: `(B, C, *latent)`.
            timestep: `(B,)`.
            region: `(B, 1, *latent)`; 1 where the nodule is synthesized.

        Returns:
            A scalar.
        """
        error = output - target
        error = error.abs() if self.loss_norm == "l1" else error.square()
        axes = tuple(range(1, error.ndim))
        error = error.mean(1, keepdim=True)

        total = torch.zeros_like(timestep, dtype=error.dtype)
        weights = torch.zeros_like(total)
        for where, weight in ((region, self.roi_weight), (1 - region, 1.0)):
            voxels = where.sum(axes)
            present = weight * (voxels > 0)
            total = total + present * (error * where).sum(axes) / voxels.clamp(min=1)
            weights = weights + present
        return (self.weight(timestep) * total / weights).mean()

    def solver(self, name: Solver, steps: int) -> "DPMSolverMultistepScheduler":
        """A diffusers scheduler of `steps` network evaluations that takes estimates of x_0.

        Raises:
            ValueError: If there is no solver of that name.
        """
        if name not in SOLVERS:
            message = f"The solver is {name!r}, expected one of {', '.join(SOLVERS)}."
            raise ValueError(message)
        from diffusers import DPMSolverMultistepScheduler

        algorithm, order = SOLVERS[name]
        solver = DPMSolverMultistepScheduler(
            self.timesteps,
            trained_betas=self.betas,
            prediction_type="sample",
            algorithm_type=algorithm,
            solver_order=order,
            use_flow_sigmas=self.betas is None,
            flow_shift=self.shift,
        )
        solver.set_timesteps(steps)
        return solver

    @torch.no_grad()
    def sample(
        self,
        predict: Predict,
        known: Tensor,
        region: Tensor,
        noise: Tensor,
        steps: int,
        solver: Solver = "dpm-solver++",
        generators: list[torch.Generator] | None = None,
        adjust: Adjust | None = None,
    ) -> Tensor:
        """Synthesize the region and keep the rest.

        At every step the estimate of x_0 is replaced by the known latent outside the region (as
        RePaint, Lugmayr et al. 2022, replaces x_t): the solver then carries the known part along
        its exact path, from the same noise, and higher-order solvers stay consistent.

        Args:
            predict: the network, called `steps` times.
            known: `(B, C, *latent)`; what is outside the region.
            region: `(B, 1, *latent)`; 1 where to synthesize.
            noise: `(B, C, *latent)`; standard normal.
            steps: number of network evaluations.
            solver: which solver; `sde-dpm-solver++` draws noise at each step.
            generators: one for each sample, on the CPU; where that noise is drawn from.
            adjust: what is done to the estimates of x_0; nothing by default.

        Returns:
            `(B, C, *latent)`, equal to `known` outside the region.
        """
        scheduler = self.solver(solver, steps)
        first = scheduler.timesteps[0].expand(len(known)).to(known.device)
        x_t = self.add_noise(known, noise, first)
        for number, step in enumerate(scheduler.timesteps):
            timestep = step.expand(len(known)).to(known.device)
            x0 = self.x0(x_t, predict(x_t, timestep), timestep)
            if adjust is not None:
                x0 = adjust(x0, number / steps)
            x0 = torch.where(region > 0, x0, known)
            x_t = scheduler.step(x0, step, x_t, generator=generators).prev_sample
        return torch.where(region > 0, x_t, known)
