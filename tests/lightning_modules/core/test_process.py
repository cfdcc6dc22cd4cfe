"""The diffusion process against closed forms, diffusers and a toy that has an exact answer."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor

from lightning_modules.core.process import DiffusionProcess
from lightning_modules.core.randomness import generator

PREDICTIONS = ("epsilon", "v", "flow")
SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
SOLVERS = [
    (prediction, solver)
    for prediction in PREDICTIONS
    for solver in ("dpm-solver++", "ddim", "sde-dpm-solver++")
]
T = 1000

dims = pytest.mark.parametrize("spatial_dims", [2, 3])


def scheduler(schedule: str = "squaredcos_cap_v2", prediction: str = "epsilon") -> DDPMScheduler:
    prediction_type = {"epsilon": "epsilon", "v": "v_prediction"}[prediction]
    return DDPMScheduler(T, beta_schedule=schedule, prediction_type=prediction_type)


def exact_path(
    prediction: str, schedule: str = "squaredcos_cap_v2", shift: float = 1.0
) -> tuple[Tensor, Tensor]:
    """a_t and s_t of every t, in float64."""
    if prediction == "flow":
        sigma = torch.arange(T, dtype=torch.float64) / T
        return 1 - sigma, sigma
    alpha_bar = (1 - scheduler(schedule).betas.double()).cumprod(0)
    ratio = shift * ((1 - alpha_bar) / alpha_bar).sqrt()
    return 1 / (1 + ratio**2).sqrt(), ratio / (1 + ratio**2).sqrt()


def spread(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (like.ndim - 1))


def draw(spatial_dims: int, size: int = 3, side: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Latents that are not standard normal, and noise."""
    stream = torch.Generator().manual_seed(seed)
    shape = (size, 2, *(side,) * spatial_dims)
    return 2 * torch.randn(shape, generator=stream) + 1, torch.randn(shape, generator=stream)


def box(spatial_dims: int, size: int = 3, side: int = 4) -> Tensor:
    region = torch.zeros(size, 1, *(side,) * spatial_dims)
    region[(..., *(slice(1, 3),) * spatial_dims)] = 1
    return region


# --- the path ------------------------------------------------------------------------------------


@dims
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_noise_is_added_in_closed_form(prediction: Any, spatial_dims: int) -> None:
    process, (x0, noise) = DiffusionProcess(prediction), draw(spatial_dims)
    timestep = torch.tensor([0, 400, 999])
    alpha, sigma = (spread(c[timestep], x0) for c in exact_path(prediction))
    expected = alpha * x0.double() + sigma * noise.double()
    got = process.add_noise(x0, noise, timestep).double()
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("shift", [0.5, 4.0])
def test_a_shift_multiplies_noise_over_signal(shift: float, schedule: Any) -> None:
    alpha, sigma = exact_path("v", schedule)
    shifted = DiffusionProcess("v", schedule, shift)
    timestep = torch.arange(T - 1)  # at the last one the signal is nearly zero
    ours = shifted.sigma[timestep].double() / shifted.alpha[timestep].double()
    torch.testing.assert_close(ours, shift * (sigma / alpha)[timestep], rtol=1e-5, atol=0)
    torch.testing.assert_close(shifted.sigma**2 + shifted.alpha**2, torch.ones(T))


def test_shifted_flow_is_trained_where_the_sampler_goes() -> None:
    process = DiffusionProcess("flow", shift=3.0)
    drawn = process.timesteps_at(torch.rand(100_000, generator=generator("test", 0))).double()
    share = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=torch.float64)
    expected = 3 * share / (1 + 2 * share)
    torch.testing.assert_close(drawn.quantile(share) / T, expected, atol=0.01, rtol=0)
    visited = process.solver("dpm-solver++", 100).timesteps.double().flip(0)
    torch.testing.assert_close(visited.quantile(share) / T, expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_timesteps_are_drawn_evenly_without_a_shift(prediction: Any) -> None:
    share = torch.rand(100_000, generator=generator("test", 0))
    drawn = DiffusionProcess(prediction).timesteps_at(share)
    assert drawn.min() == 0
    assert drawn.max() == T - 1
    counts = torch.bincount(drawn // 100, minlength=10)
    assert (counts / 10_000 - 1).abs().max() < 0.05


@pytest.mark.parametrize("shift", [0.0, -1.0])
def test_a_shift_must_be_positive(shift: float) -> None:
    with pytest.raises(ValueError, match=f"shift is {shift}, expected more than 0"):
        DiffusionProcess(shift=shift)


@dims
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_variance_preserving_predictions_equal_diffusers(
    prediction: Any, schedule: Any, spatial_dims: int
) -> None:
    process, theirs = DiffusionProcess(prediction, schedule), scheduler(schedule, prediction)
    timestep = torch.arange(T)
    torch.testing.assert_close(
        process.signal_share(timestep), theirs.alphas_cumprod, atol=1e-6, rtol=1e-4
    )
    x0, noise = draw(spatial_dims)
    timestep = torch.tensor([1, 700, 999])
    x_t = theirs.add_noise(x0, noise, timestep)
    torch.testing.assert_close(process.add_noise(x0, noise, timestep), x_t, atol=1e-4, rtol=1e-5)
    expected = noise if prediction == "epsilon" else theirs.get_velocity(x0, noise, timestep)
    target = process.target(x0, noise, timestep)
    torch.testing.assert_close(target, expected, atol=1e-4, rtol=1e-5)
    # their step knows x_0 by its own formula
    for row, t in enumerate(timestep.tolist()):
        one = slice(row, row + 1)
        theirs.config.clip_sample = False
        known = theirs.step(target[one], t, x_t[one]).pred_original_sample
        ours = process.x0(x_t[one], target[one], timestep[one])
        torch.testing.assert_close(ours, known, atol=2e-2, rtol=1e-3)


@dims
def test_flow_is_the_velocity_of_a_straight_path(spatial_dims: int) -> None:
    process, (x0, noise) = DiffusionProcess("flow"), draw(spatial_dims)
    here, there = torch.tensor([0, 400, 998]), torch.tensor([1, 600, 999])
    moved = process.add_noise(x0, noise, there) - process.add_noise(x0, noise, here)
    velocity = moved / spread((there - here) / T, x0)
    torch.testing.assert_close(process.target(x0, noise, here), velocity, atol=2e-3, rtol=1e-3)
    t = here / T
    torch.testing.assert_close(process.signal_share(here), (1 - t) ** 2 / ((1 - t) ** 2 + t**2))


@dims
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_x0_is_recovered_from_the_true_target(
    prediction: Any, schedule: Any, spatial_dims: int
) -> None:
    process = DiffusionProcess(prediction, schedule)
    timestep = torch.arange(T)
    x0, noise = draw(spatial_dims, size=T, side=2)
    x_t = process.add_noise(x0, noise, timestep)
    found = process.x0(x_t, process.target(x0, noise, timestep), timestep)
    error = (found - x0).abs().flatten(1).amax(1).double()
    # rounding of x_t, magnified by 1 / a_t where the noise is predicted
    alpha, _ = exact_path(prediction, schedule)
    allowed = 1e-5 / alpha if prediction == "epsilon" else torch.full_like(alpha, 1e-5)
    assert (error <= allowed).all()


# --- the loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_min_snr_equals_its_formula(prediction: Any, gamma: float, schedule: Any) -> None:
    process = DiffusionProcess(prediction, schedule, weighting="min_snr", snr_gamma=gamma)
    timestep = torch.arange(T)
    snr = compute_snr(scheduler(schedule), timestep).double()
    expected = snr.clamp(max=gamma) / (snr if prediction == "epsilon" else snr + 1)
    torch.testing.assert_close(process.weight(timestep).double(), expected, rtol=2e-3, atol=1e-6)


@dims
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_weights_of_an_error_of_x0(prediction: Any, spatial_dims: int) -> None:
    timestep = torch.tensor([1, 300, 950])
    x0, noise = draw(spatial_dims)
    output, _ = draw(spatial_dims, seed=1)
    process = DiffusionProcess(prediction, weighting="x0")
    target = process.target(x0, noise, timestep)
    found = process.x0(process.add_noise(x0, noise, timestep), output, timestep)
    squares = (found - x0).double().square().flatten(1).mean(1)
    weighted = process.weight(timestep).double() * (
        (output - target).double().square().flatten(1).mean(1)
    )
    torch.testing.assert_close(weighted, squares, rtol=1e-2, atol=0)

    alpha, sigma = (c[timestep] for c in exact_path(prediction))
    capped = DiffusionProcess(prediction, weighting="min_snr").weight(timestep).double()
    expected = process.weight(timestep) * (alpha / sigma).square().clamp(max=5)
    torch.testing.assert_close(capped, expected, rtol=1e-3, atol=0)

    rooted = DiffusionProcess(prediction, weighting="x0", loss="l1").weight(timestep)
    torch.testing.assert_close(rooted.square(), process.weight(timestep))


@pytest.mark.parametrize("weighting", ["uniform", "min_snr", "x0"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_weights_are_finite_at_every_timestep(prediction: Any, weighting: Any) -> None:
    weight = DiffusionProcess(prediction, weighting=weighting).weight(torch.arange(T))
    assert torch.isfinite(weight).all()
    assert (weight >= 0).all()
    if weighting == "uniform":
        assert (weight == 1).all()


REGIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "one voxel": lambda order: order == 0,
    "a few": lambda order: order < 5,
    "half": lambda order: order <= order.max() // 2,
    "all but one": lambda order: order > 0,
    "all": lambda order: order >= 0,
    "none": lambda order: order < 0,
}


@dims
@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_a_uniform_error_costs_the_same_for_every_region(
    norm: Any, region: str, spatial_dims: int
) -> None:
    order = (
        torch.arange(4**spatial_dims)
        .view(1, 1, *(4,) * spatial_dims)
        .expand(3, -1, *(-1,) * spatial_dims)
    )
    where = REGIONS[region](order).float()
    target, _ = draw(spatial_dims)
    loss = DiffusionProcess("v", loss=norm).loss(
        target + 0.5, target, torch.tensor([1, 2, 3]), where
    )
    assert loss.item() == pytest.approx({"l1": 0.5, "l2": 0.25}[norm], rel=1e-4)


@dims
@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("factor", [0.0, 1.0, 4.0])
def test_loss_weighs_the_means_inside_and_outside(
    norm: Any, factor: float, spatial_dims: int
) -> None:
    process = DiffusionProcess("v", loss=norm, weighting="min_snr", roi_weight=factor)
    (target, output), region = draw(spatial_dims), box(spatial_dims)
    region[1] = 0
    region[(1, 0, *(0,) * spatial_dims)] = 1
    timestep = torch.tensor([3, 500, 900])
    alpha, sigma = (c[timestep] for c in exact_path("v"))
    weights = sigma**2 * (alpha / sigma).square().clamp(max=5)
    expected = 0.0
    for sample in range(3):
        error = (output[sample] - target[sample]).double().abs()
        error = error if norm == "l1" else error**2
        inside = region[sample].expand_as(error) > 0
        mean = (factor * error[inside].mean() + error[~inside].mean()) / (factor + 1)
        weight = weights[sample].sqrt() if norm == "l1" else weights[sample]
        expected += (weight * mean).item() / 3
    got = process.loss(output, target, timestep, region).item()
    assert got == pytest.approx(expected, rel=1e-3)


# --- the sampler ---------------------------------------------------------------------------------


class Oracle:
    """Predicts the target of a latent that it knows; remembers what it was asked."""

    def __init__(self, prediction: str, x0: Tensor, shift: float = 1.0) -> None:
        self.prediction, self.x0 = prediction, x0.double()
        self.alpha, self.sigma = exact_path(prediction, shift=shift)
        self.asked: list[tuple[Tensor, Tensor]] = []

    def estimate(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return self.x0

    def __call__(self, x_t: Tensor, timestep: Tensor) -> Tensor:
        self.asked.append((x_t.clone(), timestep.clone()))
        assert timestep.shape == (len(x_t),)
        assert (timestep >= 0).all()
        assert (timestep < T).all()
        alpha, sigma = (spread(c[timestep], x_t) for c in (self.alpha, self.sigma))
        x0 = self.estimate(x_t.double(), alpha, sigma)
        noise = (x_t.double() - alpha * x0) / sigma
        targets = {"epsilon": noise, "v": alpha * noise - sigma * x0, "flow": noise - x0}
        return targets[self.prediction].float()


class Gaussian(Oracle):
    """The best possible network for data that are N(mean, deviation^2) in every voxel."""

    mean, deviation = 1.5, 0.4

    def estimate(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        # posterior mean of x_0 given x_t = alpha x_0 + sigma noise
        variance = self.deviation**2
        gain = alpha * variance / (alpha**2 * variance + sigma**2)
        return self.mean + gain * (x_t - alpha * self.mean)


def generators(numbers: range) -> list[torch.Generator]:
    return [generator("solver", 0, number) for number in numbers]


@dims
@pytest.mark.parametrize(("prediction", "solver"), SOLVERS)
@pytest.mark.parametrize(("steps", "shift"), [(1, 1.0), (2, 1.0), (10, 1.0), (37, 1.0), (10, 4.0)])
def test_a_perfect_network_gives_the_latent_and_the_known_part_is_kept(
    prediction: Any, solver: Any, steps: int, shift: float, spatial_dims: int
) -> None:
    process = DiffusionProcess(prediction, shift=shift)
    x0, noise = draw(spatial_dims)
    known, _ = draw(spatial_dims, seed=1)
    region, oracle = box(spatial_dims), Oracle(prediction, x0, shift)
    got = process.sample(oracle, known, region, noise, steps, solver, generators(range(3)))
    inside = region.expand_as(x0) > 0
    assert torch.equal(got[~inside], known[~inside])
    # one step is a division by a_T where the noise is predicted
    torch.testing.assert_close(got[inside], x0[inside], atol=1e-2 if steps == 1 else 1e-3, rtol=0)
    assert len(oracle.asked) == steps


def test_estimates_are_adjusted_inside_the_region_alone() -> None:
    """The last estimate is what a sampler ends at; it is told how far it has come."""
    process = DiffusionProcess()
    known, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    region = torch.zeros(2, 1, 4, 4)
    region[..., 1:3, 1:3] = 1
    told: list[float] = []

    def adjust(x0: Tensor, done: float) -> Tensor:
        told.append(done)
        return torch.full_like(x0, 0.25)

    found = process.sample(
        lambda x_t, timestep: torch.zeros_like(x_t), known, region, noise, 4, adjust=adjust
    )
    assert told == [0, 0.25, 0.5, 0.75]
    inside = region.expand_as(known) > 0
    torch.testing.assert_close(found[inside], torch.full_like(found[inside], 0.25))
    assert torch.equal(found[~inside], known[~inside])


@pytest.mark.parametrize(("prediction", "solver"), SOLVERS)
def test_any_number_of_steps_is_that_number_of_evaluations(prediction: Any, solver: Any) -> None:
    process = DiffusionProcess(prediction)
    wrong = []
    for steps in [*range(1, 130), 250, 500]:
        timesteps = process.solver(solver, steps).timesteps
        if len(timesteps) != steps or timesteps.min() < 0 or timesteps.max() >= T:
            wrong.append((steps, len(timesteps), int(timesteps.min())))
    assert wrong == []


@dims
@pytest.mark.parametrize(
    ("prediction", "solver"), [pair for pair in SOLVERS if pair[1] != "sde-dpm-solver++"]
)
@pytest.mark.parametrize("shift", [1.0, 4.0])
def test_the_known_part_stays_on_its_path(
    shift: float, prediction: Any, solver: Any, spatial_dims: int
) -> None:
    # the network meets around the region what it met in training: add_noise of the same noise
    process = DiffusionProcess(prediction, shift=shift)
    x0, noise = draw(spatial_dims)
    region, oracle = box(spatial_dims), Oracle(prediction, x0, shift)
    process.sample(oracle, x0 + 1, region, noise, 20, solver)
    outside = region.expand_as(x0) == 0
    # the straight path is left by up to 1 / T, the rounding of the solver's times to integers
    allowed = 1.1e-3 * (noise - x0 - 1).abs().max().item() if prediction == "flow" else 1e-4
    for x_t, timestep in oracle.asked:
        expected = process.add_noise(x0 + 1, noise, timestep)
        torch.testing.assert_close(x_t[outside], expected[outside], atol=allowed, rtol=0)


@dims
@pytest.mark.parametrize(("prediction", "solver"), SOLVERS)
def test_samples_do_not_depend_on_their_batch(
    prediction: Any, solver: Any, spatial_dims: int
) -> None:
    process = DiffusionProcess(prediction)
    known, noise = draw(spatial_dims)
    region = box(spatial_dims)

    def sample(rows: range) -> Tensor:
        some = slice(rows.start, rows.stop)
        predict = Gaussian(prediction, known[some])
        return process.sample(
            predict, known[some], region[some], noise[some], 5, solver, generators(rows)
        )

    together = sample(range(3))
    alone = torch.cat([sample(range(row, row + 1)) for row in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-6)
    torch.manual_seed(7)
    assert torch.equal(sample(range(3)), together)


@dims
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", ["scaled_linear", "squaredcos_cap_v2"])
def test_dpm_solver_reproduces_a_gaussian(
    prediction: Any, schedule: Any, spatial_dims: int
) -> None:
    process = DiffusionProcess(prediction, schedule)
    shape = (8, 2, *((16, 16) if spatial_dims == 2 else (8, 8, 8)))
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    network = Gaussian(prediction, torch.zeros(()))
    network.alpha, network.sigma = exact_path(prediction, schedule)
    everywhere = torch.ones(8, 1, *shape[2:])
    got = process.sample(network, torch.zeros(shape), everywhere, noise, 20)
    # the probability flow is x_0 = mean + deviation (x_T - a_T mean) / |x_T|, voxel by voxel
    alpha, sigma = network.alpha[-1], network.sigma[-1]
    scale = (alpha**2 * network.deviation**2 + sigma**2).sqrt()
    start = sigma * noise.double() - alpha * network.mean
    exact = network.mean + network.deviation * start / scale
    torch.testing.assert_close(got.double(), exact, atol=0.05, rtol=0)
    assert got.mean().item() == pytest.approx(exact.mean().item(), abs=0.01)
    assert got.std().item() == pytest.approx(exact.std().item(), rel=0.03)
    assert got.mean().item() == pytest.approx(network.mean, abs=0.03)
    assert got.std().item() == pytest.approx(network.deviation, rel=0.03)


@dims
@pytest.mark.parametrize(("prediction", "solver"), [s for s in SOLVERS if s[1] != "dpm-solver++"])
def test_other_solvers_reproduce_a_gaussian(
    prediction: Any, solver: Any, spatial_dims: int
) -> None:
    process = DiffusionProcess(prediction)
    shape = (4, 2, *((16, 16) if spatial_dims == 2 else (8, 8, 8)))
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    network = Gaussian(prediction, torch.zeros(()))
    everywhere = torch.ones(4, 1, *shape[2:])
    known = torch.zeros(shape)
    got = process.sample(network, known, everywhere, noise, 200, solver, generators(range(4)))
    assert got.mean().item() == pytest.approx(network.mean, abs=0.03)
    assert got.std().item() == pytest.approx(network.deviation, rel=0.06)


def test_an_unknown_prediction_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'noise', expected one of epsilon, v, flow"):
        DiffusionProcess("noise")  # type: ignore[arg-type]


def test_an_unknown_solver_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'euler', expected one of dpm-solver\+\+, ddim, sde"):
        DiffusionProcess("v").solver("euler", 10)  # type: ignore[arg-type]
