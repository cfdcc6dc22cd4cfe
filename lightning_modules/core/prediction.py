"""What the network predicts, and the schedule of noise that goes with it.

Everywhere x_t = a_t x_0 + s_t eps, and a prediction is a function of a_t, s_t, x_0 and eps.
"""

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor

PredictionName = Literal["epsilon", "v", "flow"]
BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]


class Schedule(NamedTuple):
    """How much of x_t is signal and how much noise, for each timestep.

    Attributes:
        alpha: `(timesteps,)` float64; a_t.
        sigma: `(timesteps,)` float64; s_t.
        betas: those of a variance-preserving schedule, as diffusers' solvers take them; None for
            the straight path, which these know themselves.
    """

    alpha: Tensor
    sigma: Tensor
    betas: list[float] | None


class Prediction(ABC):
    """What the network is to say at x_t, and how x_0 follows from it."""

    @abstractmethod
    def schedule(self, timesteps: int, beta_schedule: BetaSchedule, shift: float) -> Schedule:
        """The schedule of noise.

        Args:
            timesteps: number of training timesteps.
            beta_schedule: see `DiffusionProcess`.
            shift: factor of s_t / a_t over that of the schedule.
        """

    @abstractmethod
    def share(self, uniform: Tensor, shift: float) -> Tensor:
        """How far along the timesteps to train, `(B,)` in [0, 1], of numbers uniform in [0, 1)."""

    @abstractmethod
    def target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What the network is to predict, of the shape of `x0`."""

    @abstractmethod
    def x0(self, x_t: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Estimate of x_0 from the network's output at x_t."""

    @abstractmethod
    def error_of_x0(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Squared error of x_0 for a squared error of 1 of what is predicted."""


class VariancePreserving(Prediction):
    """Predictions along a schedule with a_t^2 + s_t^2 = 1 (Ho et al. 2020)."""

    def schedule(self, timesteps: int, beta_schedule: BetaSchedule, shift: float) -> Schedule:
        """Diffusers' schedule of that name, with s_t / a_t shifted."""
        from diffusers import DDPMScheduler

        betas = DDPMScheduler(timesteps, beta_schedule=beta_schedule).betas.double()
        alpha_bar = torch.cumprod(1 - betas, 0)
        alpha_bar = alpha_bar / (alpha_bar + shift**2 * (1 - alpha_bar))
        before = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
        shifted = (1 - alpha_bar / before).tolist()
        return Schedule(alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), shifted)

    def share(self, uniform: Tensor, shift: float) -> Tensor:
        """As they are: the schedule itself is shifted."""
        return uniform


class Epsilon(VariancePreserving):
    """The noise (Ho et al. 2020)."""

    def target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The noise itself."""
        return noise

    def x0(self, x_t: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """x_0 = (x_t - s eps) / a."""
        return (x_t - sigma * output) / alpha

    def error_of_x0(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """It is (s / a)^2."""
        return sigma.square() / alpha.square()


class Velocity(VariancePreserving):
    """The velocity v = a eps - s x_0 (Salimans and Ho 2022)."""

    def target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """It is v = a eps - s x_0."""
        return alpha * noise - sigma * x0

    def x0(self, x_t: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """x_0 = a x_t - s v."""
        return alpha * x_t - sigma * output

    def error_of_x0(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """It is s^2."""
        return sigma.square()


class Flow(Prediction):
    """The direction eps - x_0 of the straight path a_t = 1 - t/T, s_t = t/T (Liu et al. 2023)."""

    def schedule(self, timesteps: int, beta_schedule: BetaSchedule, shift: float) -> Schedule:
        """The straight path; where along it is trained and sampled is shifted, not itself."""
        sigma = torch.arange(timesteps, dtype=torch.float64) / timesteps
        return Schedule(1 - sigma, sigma, None)

    def share(self, uniform: Tensor, shift: float) -> Tensor:
        """Shifted to stronger noise, as the sampler's timesteps are (Esser et al. 2024, eq. 23)."""
        return shift * uniform / (1 + (shift - 1) * uniform)

    def target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """It is eps - x_0."""
        return noise - x0

    def x0(self, x_t: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """x_0 = x_t - s (eps - x_0)."""
        return x_t - sigma * output

    def error_of_x0(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """It is s^2."""
        return sigma.square()


PREDICTIONS: dict[str, Prediction] = {"epsilon": Epsilon(), "v": Velocity(), "flow": Flow()}
"""By the names that configs use."""
