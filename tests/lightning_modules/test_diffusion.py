"""Stage 2 in 2D and 3D: what it learns, what samples depend on, what checkpoints hold."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from callbacks import GenerationMetrics, HistogramFidelity
from datamodules.batch import NoduleBatch, Roi
from lightning_modules.checkpoints import load_codec
from lightning_modules.core.denoiser import Denoising
from lightning_modules.core.inpainting import dilate
from lightning_modules.core.randomness import SampleStreams
from lightning_modules.core.sampling import SamplingConfig
from lightning_modules.diffusion import NoduleDiffusion

DIMENSIONS = pytest.mark.parametrize("spatial_dims", [2, 3])
Make = Callable[..., Any]


def collate(data: Any, items: list[int], split: str = "test") -> NoduleBatch:
    dataset = data.datasets[split]
    return torch.utils.data.default_collate([dataset[i] for i in items])


def perturb(model: NoduleDiffusion) -> None:
    """Give the zero-initialized output layers weights, so that inputs matter."""
    stream = torch.Generator().manual_seed(0)
    for parameter in model.ema.module.parameters():
        if not parameter.any():
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=stream)


@DIMENSIONS
def test_learns(
    spatial_dims: int, make_data: Make, make_diffusion: Make, make_trainer: Make, stage1: Make
) -> None:
    """The loss on held-out nodules falls below that of a network that has learned nothing."""
    path, losses = stage1(spatial_dims, 40), []
    for steps in (1, 80):
        seed_everything(1)
        model = make_diffusion(spatial_dims, autoencoder=path, learning_rate=1e-2)
        data = make_data(spatial_dims)
        make_trainer(steps).fit(model, data)
        (figures,) = make_trainer().validate(model, data, verbose=False)
        losses.append(figures["val/diffusion"])
    assert losses[1] < 0.96 * losses[0], losses


@DIMENSIONS
def test_outside_the_margin_nothing_changes(spatial_dims: int, trained: Make) -> None:
    _, model, data = trained(spatial_dims)
    batch = collate(data, [0, 1, 2])
    synthesis = model.sample(batch)
    outside = dilate(batch["mask"], model.head.margin_voxels) == 0
    assert torch.equal(synthesis.image[outside], batch["image"][outside])
    inside = batch["mask"] > 0
    assert not torch.equal(synthesis.image[inside], batch["image"][inside])


def test_a_synthesis_says_where_it_comes_from(
    trained: Make, make_diffusion: Make, make_trainer: Make, tmp_path: Path
) -> None:
    """No checkpoint while weights are in training; all patients that they have seen."""
    trainer, model, data = trained(2)
    made = model.sample(collate(data, [0, 1]), seed=7)
    assert made.window == model.window == (model.head.window.low, model.head.window.high)
    assert (made.provenance.checkpoint, made.provenance.seed) == ("", 7)
    assert set(made.provenance.training_patients) == data.training_patients
    assert model.provenance.seed == model.sampling.seed
    path = tmp_path / "stage2.ckpt"
    trainer.save_checkpoint(path)
    again, started = make_diffusion(2, autoencoder=None), make_diffusion(2, init_from=path)
    again_trainer, started_trainer = make_trainer(), make_trainer()
    (found, *_) = again_trainer.predict(again, data, ckpt_path=path)
    (begun, *_) = started_trainer.predict(started, data)
    for synthesis in (found, begun):
        assert synthesis.provenance.checkpoint == "stage2.ckpt"
        assert set(synthesis.provenance.training_patients) == data.training_patients
    assert torch.equal(found.image, begun.image)


@DIMENSIONS
def test_what_lies_in_the_region_is_not_seen(spatial_dims: int, trained: Make) -> None:
    """Synthesis into an image depends on nothing that the image shows inside the margin."""
    _, model, data = trained(spatial_dims)
    perturb(model)
    batch = collate(data, [0, 1])
    batch["histogram"] = torch.full((2, 16), 1 / 16)
    hidden = copy.deepcopy(batch)
    region = dilate(batch["mask"], model.head.margin_voxels)
    hidden["image"] = torch.where(region > 0, 300.0, batch["image"])
    ours, theirs = model.sample(batch), model.sample(hidden)
    inside = batch["mask"] > 0
    assert torch.equal(ours.image[inside], theirs.image[inside])


@DIMENSIONS
def test_samples_depend_on_seed_and_index_alone(spatial_dims: int, trained: Make) -> None:
    _, model, data = trained(spatial_dims)
    perturb(model)
    together = model.sample(collate(data, [0, 1, 2])).image
    alone = model.sample(collate(data, [1])).image
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=0.05)  # of 1400 HU
    again = model.sample(collate(data, [0, 1, 2])).image
    assert torch.equal(together, again)
    other = model.sample(collate(data, [0, 1, 2]), seed=1).image
    assert not torch.equal(together, other)


@DIMENSIONS
@pytest.mark.parametrize(("guidance", "calls"), [(1.0, 8), (3.0, 4)])
def test_network_evaluations_are_what_is_configured(
    spatial_dims: int, guidance: float, calls: int, trained: Make
) -> None:
    _, model, data = trained(spatial_dims)
    model.sampling = SamplingConfig(evaluations=8, guidance_scale=guidance)
    batch, spent = collate(data, [0, 1, 2]), []
    model.ema.module.unet.register_forward_hook(
        lambda _module, inputs, _output: spent.append(len(inputs[0]))
    )
    synthesis = model.sample(batch)
    # guidance evaluates the network twice for each sample in one call
    assert len(spent) == calls
    assert sum(spent) == 8 * len(batch["index"]) == synthesis.provenance.evaluations * 3


@DIMENSIONS
def test_guidance_moves_away_from_the_unconditional(spatial_dims: int, trained: Make) -> None:
    _, model, data = trained(spatial_dims)
    perturb(model)
    batch, images = collate(data, [0, 1]), {}
    for scale in (1.0, 1.0001, 9.0):
        model.sampling = SamplingConfig(evaluations=8, guidance_scale=scale)
        if scale == 1.0:
            model.sampling.evaluations = 4  # as many steps
        images[scale] = model.sample(batch).image
    near = (images[1.0] - images[1.0001]).abs().max()
    far = (images[1.0] - images[9.0]).abs().max()
    assert near < 0.01 * far


@DIMENSIONS
def test_warm_start_takes_the_averaged_weights(
    spatial_dims: int,
    tmp_path: Path,
    trained: Make,
    make_data: Make,
    make_diffusion: Make,
    make_trainer: Make,
    stage1: Make,
) -> None:
    trainer, model, _ = trained(spatial_dims)
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    settings = {"autoencoder": stage1(spatial_dims), "init_from": tmp_path / "first.ckpt"}
    warm = make_diffusion(spatial_dims, learning_rate=0.0, **settings)
    make_trainer(1).fit(warm, make_data(spatial_dims))
    for name, value in model.ema.module.named_parameters():
        assert torch.equal(value, warm.denoiser.get_parameter(name)), name


def test_training_does_not_depend_on_the_cache(
    tmp_path: Path, make_data: Make, make_diffusion: Make, make_trainer: Make, stage1: Make
) -> None:
    """Cached latents are stored in half precision; else the runs are the same."""
    path, losses = stage1(3), []
    for cache_dir in (tmp_path / "cache", None):
        seed_everything(1)
        trainer = make_trainer(2)
        trainer.fit(make_diffusion(3, autoencoder=path), make_data(3, cache_dir=cache_dir))
        losses.append(trainer.callback_metrics["train/diffusion"])
    torch.testing.assert_close(losses[0], losses[1], rtol=5e-3, atol=0)


def test_second_run_hits_the_cache(
    caplog: pytest.LogCaptureFixture,
    make_data: Make,
    make_diffusion: Make,
    make_trainer: Make,
    stage1: Make,
) -> None:
    path = stage1(3)
    for hit in (False, True):
        caplog.clear()
        with caplog.at_level("INFO"):
            make_trainer(1).fit(make_diffusion(3, autoencoder=path), make_data(3))
        (line,) = [r.getMessage() for r in caplog.records if "Latent cache" in r.getMessage()]
        assert ("'misses': 0" in line) == hit


@DIMENSIONS
def test_no_parameter_is_ever_unused(
    spatial_dims: int, make_diffusion: Make, make_batch: Make
) -> None:
    """DDP stops on a parameter without gradient, whatever conditions are withheld."""
    model = make_diffusion(spatial_dims)
    model.codec.scale_factor.fill_(1), model.codec.shift.fill_(0)
    batch = make_batch(spatial_dims, size=3, side=16)
    batch |= {k: v.detach() for k, v in encode_on_cpu(model, batch).items()}
    for rate in (0.0, 0.999999):
        model.zero_grad()
        model.head.joint_dropout = rate
        streams = SampleStreams(batch["index"], "test")
        denoising = model.denoise(model.denoiser, batch, streams, dropout=True)
        losses = model.losses(model.denoiser, batch, denoising)
        sum(losses.values()).backward()
        unused = [n for n, p in model.denoiser.named_parameters() if p.grad is None]
        assert unused == []


def encode_on_cpu(model: NoduleDiffusion, batch: NoduleBatch) -> dict[str, Tensor]:
    mean, logvar = model.codec.encode(model.head.window.normalize(batch["image"]))
    return {"latent_mean": mean, "latent_logvar": logvar, "context": mean}


@DIMENSIONS
def test_what_is_minimized_has_the_regularizer_times_its_weight(
    spatial_dims: int, make_data: Make, make_diffusion: Make, make_trainer: Make, stage1: Make
) -> None:
    class Losses(Callback):
        def on_train_batch_end(
            self, trainer: Trainer, module: Any, outputs: Any, *rest: Any
        ) -> None:
            self.minimized, self.logged = outputs["loss"], dict(trainer.callback_metrics)

    path, losses = stage1(spatial_dims), Losses()
    for weight in (0.0, 3.0):
        model = make_diffusion(spatial_dims, autoencoder=path, regularizer_weight=weight)
        make_trainer(1, callbacks=[losses]).fit(model, make_data(spatial_dims))
        logged = losses.logged
        assert logged["train/histogram"] > 0.01
        expected = logged["train/diffusion"] + weight * logged["train/histogram"]
        torch.testing.assert_close(losses.minimized, expected)


def cached(model: NoduleDiffusion, batch: NoduleBatch) -> NoduleBatch:
    """The batch with random latents, for a model whose codec is made to have a scale."""
    model.codec.scale_factor.fill_(1.5), model.codec.shift.fill_(0.2)
    dims = model.codec.spatial_dims
    shape = (len(batch["index"]), 2, *(batch["image"].shape[2] // 2,) * dims)
    stream = torch.Generator().manual_seed(8)
    mean, context = (torch.randn(shape, generator=stream) for _ in range(2))
    latents = {"latent_mean": mean, "latent_logvar": torch.full(shape, -2.0), "context": context}
    return {**batch, **latents}  # type: ignore[typeddict-item]


def denoised(model: NoduleDiffusion, batch: NoduleBatch) -> Denoising:
    streams = SampleStreams(batch["index"], "test")
    return model.denoise(model.denoiser, batch, streams, dropout=True)


@DIMENSIONS
def test_in_training_the_real_latent_is_seen_in_the_region_alone(
    spatial_dims: int, make_diffusion: Make, make_batch: Make
) -> None:
    """Outside is what there will be in synthesis: the image with the region filled in."""
    model = make_diffusion(spatial_dims, margin_voxels=1)
    batch = cached(model, make_batch(spatial_dims, size=3, side=16))
    batch["mask"][(..., *(slice(None, 8),) * spatial_dims)] = 0
    question = denoised(model, batch)
    outside = (question.region == 0).expand_as(question.latent)
    assert outside.any()
    context = model.codec.standardize(batch["context"])
    assert torch.equal(question.latent[outside], context[outside])
    assert not torch.isclose(question.latent[~outside], context[~outside]).any()
    noisy = model.process.add_noise(context, question.noise, question.timestep)
    assert torch.equal(question.x_t[outside], noisy[outside])


@DIMENSIONS
def test_conditions_that_guidance_keeps_are_not_withheld_with_the_others(
    spatial_dims: int, make_diffusion: Make, make_batch: Make
) -> None:
    model = make_diffusion(spatial_dims)
    batch = cached(model, make_batch(spatial_dims, size=8, side=16))
    withheld: dict[str, Tensor] = {}
    for name, conditioner in model.denoiser.conditioners.items():
        conditioner.dropout = 0.0

        def keep(module: Any, inputs: Any, name: str = name) -> None:
            withheld[name] = inputs[2]

        conditioner.register_forward_pre_hook(keep)
    for joint, expected in ((0.0, False), (0.999999, True)):
        model.head.joint_dropout = joint
        denoised(model, batch)
        guided = {name for name, c in model.denoiser.conditioners.items() if c.guided}
        assert guided == {"subtype", "histogram"}
        assert withheld.keys() - guided == {"mask", "background"}
        for name, where in withheld.items():
            assert (where == (expected and name in guided)).all(), name


def test_the_moving_average_warms_up(make_diffusion: Make) -> None:
    """With (1 + n) / (10 + n) after n updates, until that is the decay that was set."""
    model = make_diffusion(2, ema_decay=0.5)

    def update(value: float) -> float:
        for parameter in model.denoiser.parameters():
            parameter.data.fill_(value)
        model.ema.update(model.denoiser)
        averaged = torch.cat([p.flatten() for p in model.ema.module.parameters()])
        assert (averaged == averaged[0]).all()
        return float(averaged[0])

    expected = update(1.0)
    assert expected == 1  # the first is a copy
    for number in range(1, 15):
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * (number % 3)
        assert update(number % 3) == pytest.approx(expected, rel=1e-5)


@DIMENSIONS
def test_figures_and_requests(spatial_dims: int, trained: Make, make_trainer: Make) -> None:
    _, model, data = trained(spatial_dims)
    trainer = make_trainer(callbacks=[GenerationMetrics({"histogram": HistogramFidelity()})])
    trainer.test(model, data, verbose=False)
    root = Path(trainer.default_root_dir)
    assert ",w1/all," in (root / "generation.csv").read_text()
    nodules = (root / "nodules.csv").read_text().splitlines()
    assert len(nodules) == 1 + len(data.datasets["test"])
    # in prediction the histogram is that of a real training nodule of the subtype
    batch = collate(data, [0, 1, 2])
    synthesis = model.predict_step(batch, 0)
    bank = model.synthesizer.bank
    for row, code in zip(synthesis.requested_histogram, batch["subtype"], strict=True):
        of_subtype = bank.histograms[bank.subtypes == code]
        assert (of_subtype == row).all(1).any()
    assert len(bank.histograms) == len(data.datasets["train"].subtypes)


def test_conditions_count_over_the_models_window_and_bins(make_diffusion: Make) -> None:
    """A histogram that is asked for means the same to the network, the bank and the figures."""
    model = make_diffusion(2, window=(-900, 500), histogram_bins=7)
    batch = {"image": torch.full((1, 1, 4, 4), -850.0), "mask": torch.ones(1, 1, 4, 4)}
    expected = model.facts.histogram(**batch)
    assert expected.shape == (1, 7)
    assert expected[0].argmax() == 0
    for network in (model.denoiser, model.ema.module):
        conditioner = network.conditioners["histogram"]
        assert torch.equal(conditioner.requested(batch), expected)
        assert conditioner.bank.histograms.shape[1] == 7


def test_mistakes_are_named(
    tmp_path: Path, make_data: Make, make_diffusion: Make, make_trainer: Make, stage1: Make
) -> None:
    with pytest.raises(ValueError, match=r"no autoencoder: set model\.autoencoder"):
        make_trainer().fit(make_diffusion(3), make_data(3))
    with pytest.raises(FileNotFoundError, match=r"absent\.ckpt is not a file: train it first"):
        make_trainer().fit(make_diffusion(3, autoencoder=tmp_path / "absent.ckpt"), make_data(3))
    path = stage1(3)
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(path.read_bytes()[:1000])
    for file in (broken, tmp_path / "store3/nodules.csv"):
        with pytest.raises(ValueError, match="is no checkpoint or is cut short"):
            make_trainer().fit(make_diffusion(3, autoencoder=file), make_data(3))
    with pytest.raises(ValueError, match="not one of a diffusion model"):
        make_trainer().test(make_diffusion(3), make_data(3), ckpt_path=path)
    other = make_diffusion(3, window=(-1000, 500))
    with pytest.raises(ValueError, match=r"trained with the window \[-1000, 400\].*\[-1000, 500\]"):
        load_codec(other.codec, path, other.head.window)
    with pytest.raises(ValueError, match=r"do not fit model\.codec"):
        load_codec(make_diffusion(2).codec, path, make_diffusion(2).head.window)


def test_a_checkpoint_of_other_facts_is_refused_by_name(
    tmp_path: Path, make_data: Make, make_diffusion: Make, make_trainer: Make, stage1: Make
) -> None:
    """What the weights mean nothing without, whether they are used or a new training starts."""
    trainer = make_trainer(1)
    trainer.fit(make_diffusion(2, autoencoder=stage1(2)), make_data(2))
    trainer.save_checkpoint(path := tmp_path / "base.ckpt")
    saved = torch.load(path, weights_only=True)["noduleforge"]
    differing: list[tuple[str, dict[str, Any], str]] = [
        ("window", {"window": (-1000, 500)}, r"\[-1000, 400\].*\[-1000, 500\]"),
        ("margin_voxels", {"margin_voxels": 3}, "2, but the config says 3"),
        ("histogram_bins", {"histogram_bins": 8}, "16, but the config says 8"),
        ("roi_size", {"roi": Roi((12, 12))}, r"\[16, 16\], but the config says \[12, 12\]"),
        ("roi_spacing_mm", {"roi": Roi((16, 16), 2.0)}, r"1\.0, but the config says 2"),
    ]
    assert {name for name, _, _ in differing} <= set(saved)
    for name, change, told in differing:
        with pytest.raises(ValueError, match=f"trained with {name} {told}"):
            make_trainer().test(make_diffusion(2, **change), make_data(2, roi=None), ckpt_path=path)
        with pytest.raises(ValueError, match=f"trained with (the )?{name} {told}"):
            make_trainer(1).fit(make_diffusion(2, init_from=path, **change), make_data(2, roi=None))


@pytest.mark.parametrize(
    ("saved_every", "killed_at", "num_workers"),
    [(5, 7, 0), (3, 5, 0), (4, 9, 0), (4, 9, 1), (5, 7, 1)],
)
def test_resumed_training_continues_bit_for_bit(
    saved_every: int,
    killed_at: int,
    num_workers: int,
    tmp_path: Path,
    make_data: Make,
    make_diffusion: Make,
    make_trainer: Make,
    stage1: Make,
) -> None:
    """Ten steps, and ten that were killed on the way and go on from the last checkpoint.

    An epoch has 5: the checkpoints lie at the end of one, in the first and in the second.
    """

    class Killed(Exception):
        pass

    class KillAt(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == killed_at:
                raise Killed

    def run(*callbacks: Callback, **settings: Any) -> dict[str, Tensor]:
        seed_everything(1)
        model = make_diffusion(3, autoencoder=path)
        make_trainer(10, callbacks=[*callbacks], enable_checkpointing=bool(callbacks)).fit(
            model, make_data(3, num_workers=num_workers), **settings
        )
        return {n: v.clone() for n, v in model.state_dict().items() if torch.is_tensor(v)}

    path = stage1(3)
    straight = run()
    saver = ModelCheckpoint(tmp_path, save_last=True, save_top_k=0, every_n_train_steps=saved_every)
    with pytest.raises(Killed):
        run(saver, KillAt())
    resumed = run(ckpt_path=tmp_path / "last.ckpt")
    for name, value in straight.items():
        assert torch.equal(value, resumed[name]), name


def test_a_warm_start_draws_histograms_of_its_own_data(
    tmp_path: Path, make_data: Make, make_diffusion: Make, make_trainer: Make, stage1: Make
) -> None:
    trainer = make_trainer(1)
    trainer.fit(make_diffusion(2, autoencoder=stage1(2)), make_data(2))
    trainer.save_checkpoint(path := tmp_path / "base.ckpt")
    data = make_data(2, select="subtype == 'solid'", batch_size=2)
    tuned = make_diffusion(2, init_from=path)
    make_trainer(1).fit(tuned, data)
    assert tuned.synthesizer.bank.subtypes.unique().tolist() == [0]


def test_training_by_epochs_is_training_by_steps(
    make_data: Make, make_diffusion: Make, make_trainer: Make, stage1: Make
) -> None:
    """With latents cached either way, and the same learning rates."""
    path = stage1(2)

    def fit(steps: int, **settings: Any) -> dict[str, Any]:
        seed_everything(1)
        model = make_diffusion(2, autoencoder=path)
        trainer = make_trainer(steps, **settings)
        trainer.fit(model, make_data(2))
        assert "context" in next(iter(trainer.train_dataloader))
        assert trainer.global_step == 10
        assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)
        weights: dict[str, Any] = model.state_dict()
        return weights

    by_steps, by_epochs = fit(10), fit(-1, max_epochs=2)
    for name, value in by_steps.items():
        if torch.is_tensor(value):
            assert torch.equal(value, by_epochs[name]), name
    fit(-1, max_epochs=5, limit_train_batches=4, accumulate_grad_batches=2)
    fit(-1, max_epochs=5, limit_train_batches=0.4)
