"""Radiographs: patches without a nodule, then nodules into them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from radiographs import SETTINGS, Make, parts, some

from datamodules.batch import NoduleBatch, Roi
from datamodules.lidc import LIDCDataModule
from lightning_modules.core.adapters import updates
from lightning_modules.core.conditioning import Surroundings
from lightning_modules.core.merging import Weighted
from lightning_modules.core.process import DiffusionProcess
from lightning_modules.core.sampling import guided
from lightning_modules.core.unet import UNetConfig
from lightning_modules.cxr import CXRDiffusion, CXRLabels
from lightning_modules.heads.cxr import CXRHead


class WithoutNodules(LIDCDataModule):
    """The same images, with empty masks."""

    def transfer_batch_to_device(self, batch: Any, *args: Any) -> NoduleBatch:
        moved: NoduleBatch = super().transfer_batch_to_device(batch, *args)
        return {**moved, "mask": torch.zeros_like(moved["mask"])}


def test_the_second_stage_starts_from_patches_without_nodules(
    base: Path, tmp_path: Path, model: Make, make_data: Make, make_trainer: Make
) -> None:
    data = make_data(2, cache_dir=None)
    settings = {"roi": Roi((16, 16)), "fractions": (0.6, 0.2, 0.2), "cache_dir": None}
    normal = WithoutNodules(data.collection.root, batch_size=4, **settings)
    first = model(autoencoder=tmp_path / "codec.ckpt")
    trainer = make_trainer(2)
    trainer.fit(first, normal)
    trainer.save_checkpoint(tmp_path / "first.ckpt")

    second = model(init_from=tmp_path / "first.ckpt", learning_rate=0.0)
    make_trainer(1).fit(second, data)
    for ours, theirs in ((second.denoiser, first.ema.module), (second.codec, first.codec)):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)
    # the scale comes with the autoencoder, and is not measured again
    assert torch.equal(second.codec.scale_factor, first.codec.scale_factor)

    batch = some(data)
    batch["mask"][1] = 0
    synthesis = second.eval().sample(batch)
    kept = synthesis.image == batch["image"]
    assert not kept[1].any()  # without a nodule the whole patch is synthesized
    assert kept[0].any()
    assert torch.isfinite(synthesis.image).all()


def test_an_adapter_learns_and_the_base_stays(
    base: Path, model: Make, adapter: Make, make_data: Make, make_trainer: Make, tmp_path: Path
) -> None:
    data = make_data(2, cache_dir=None)
    plain = model(init_from=base, learning_rate=0.0)
    make_trainer(1).fit(plain, data)
    expected = plain.eval().sample(some(data)).image

    trained = adapter(init_from=base)
    trainer = make_trainer(3)
    trainer.fit(trained, data)
    trainer.save_checkpoint(tmp_path / "adapter.ckpt")
    frozen = dict(plain.denoiser.named_parameters())
    updated = 0
    for name, value in trained.denoiser.named_parameters():
        if ".lora_" in name:
            updated += int("lora_B" in name and bool(value.any()))
            continue
        plain_name = name.replace("base_model.model.", "").replace(".base_layer", "")
        assert torch.equal(value, frozen[plain_name])
    assert updated == 16
    trained.eval()
    assert not torch.equal(trained.sample(some(data)).image, expected)

    # at strength 0 it is the base; the folder is what plain peft reads
    off = adapter(init_from=base, strength=0.0, learning_rate=0.0)
    make_trainer(1).fit(off, data)
    assert torch.equal(off.eval().sample(some(data)).image, expected)
    folder = tmp_path / "run" / "adapters" / "calcified"
    assert (folder / "adapter_model.safetensors").is_file()


def test_an_adapter_resumes_bit_for_bit(
    base: Path, adapter: Make, make_data: Make, make_trainer: Make, tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    class KillAt(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 3:
                raise Killed

    def run(
        seed: int, *callbacks: Callback, init_from: Path | None = base, **settings: Any
    ) -> dict[str, Any]:
        seed_everything(seed)  # an adapter begins at random
        model = adapter(init_from=init_from, warmup_steps=1)
        trainer = make_trainer(5, callbacks=[*callbacks], enable_checkpointing=bool(callbacks))
        trainer.fit(model, make_data(2, cache_dir=None), **settings)
        return {n: v.clone() for n, v in model.state_dict().items() if torch.is_tensor(v)}

    straight = run(0)
    saver = ModelCheckpoint(tmp_path, save_last=True, save_top_k=0, every_n_train_steps=2)
    with pytest.raises(Killed):
        run(0, saver, KillAt())
    # the checkpoint holds the base
    resumed = run(1, init_from=None, ckpt_path=tmp_path / "last.ckpt")
    assert any("lora_B" in name and value.any() for name, value in resumed.items())
    for name, value in straight.items():
        assert torch.equal(value, resumed[name]), name


def test_an_adapter_without_a_base_is_refused(
    adapter: Make, make_data: Make, make_trainer: Make
) -> None:
    with pytest.raises(ValueError, match=r"need a base: set model\.init_from"):
        make_trainer(1).fit(adapter(), make_data(2))


def test_localization_keeps_the_outside_as_it_was(
    base: Path, adapter: Make, make_data: Make, make_trainer: Make
) -> None:
    """The loss falls when it is weighed, and there is none where it is not."""
    found = {}
    for weight in (0.0, 1e-9, 1e5):
        seed_everything(0)
        trained = adapter(init_from=base, localization=weight, learning_rate=0.1)
        trainer = make_trainer(20)
        data = make_data(2, cache_dir=None)
        trainer.fit(trained, data)
        found[weight] = trainer.callback_metrics.get("train/localization", torch.tensor(torch.nan))
        assert all(low.b.requires_grad for low in updates(trained.denoiser, "calcified"))
    assert torch.isnan(found[0.0])
    assert 0 < found[1e5] < 0.3 * found[1e-9]


class Labelled(LIDCDataModule):
    """Says of each nodule whether it is solid."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> NoduleBatch:
        batch = super().on_before_batch_transfer(batch, dataloader_idx)
        solid = (batch["subtype"] == 0).float()
        nothing = torch.full_like(solid, torch.nan)
        return {**batch, "attributes": {**batch["attributes"], "solid": solid, "old": nothing}}


@pytest.fixture
def labels(
    base: Path, tmp_path: Path, make_codec: Make, make_data: Make, make_trainer: Make
) -> Any:
    """A model with two labels, trained for three steps, and nodules."""
    root = make_data(2).collection.root
    data = Labelled(root, roi=Roi((16, 16)), fractions=(0.6, 0.2, 0.2), cache_dir=None)
    model = CXRLabels(
        *parts(make_codec),
        labels={"solid": (0.0, 1.0), "old": (0.0, 1.0)},
        autoencoder=tmp_path / "codec.ckpt",
        learning_rate=1e-2,
        warmup_steps=0,
        **SETTINGS,
    )
    make_trainer(3).fit(model, data)
    return model.eval(), some(data)


def test_labels_are_composed_as_the_formula_says(labels: Any) -> None:
    """Against one network call for each answer."""
    model, batch = labels
    context = torch.randn(3, 2, 8, 8)
    surroundings = Surroundings(context, torch.ones(3, 1, 8, 8))
    x_t, timestep = torch.randn(3, 2, 8, 8), torch.full((3,), 300)
    network = model.ema.module

    def alone(**asked: float) -> torch.Tensor:
        attributes = {name: torch.full((3,), asked.get(name, torch.nan)) for name in model.labels}
        off = {name: torch.full((3,), name not in asked) for name in model.labels}
        given = network.condition({**batch, "attributes": attributes}, surroundings, off)
        answer: torch.Tensor = network(x_t, timestep, given)
        return answer

    nothing = alone()
    expected = nothing + 3 * (alone(solid=1.0) - nothing) + 0.5 * (alone(old=1.0) - nothing)
    for strengths, wanted, close in (
        ({"solid": 3.0, "old": 0.5}, expected, 1e-4),
        ({}, nothing, 1e-5),
    ):
        with torch.no_grad(), model.using(strengths):
            branches = model.guidance.branches(network, batch, surroundings, 1.0)
            answer = guided(network, branches)(x_t, timestep)
        assert len(branches) == 1 + len(strengths)
        torch.testing.assert_close(answer, wanted, atol=close, rtol=1e-4)


def test_every_label_costs_an_evaluation_at_each_step(labels: Any) -> None:
    model, batch = labels
    spent: list[int] = []
    model.ema.module.unet.register_forward_hook(
        lambda _module, inputs, _output: spent.append(len(inputs[0]))
    )
    for strengths, calls in (({"solid": 3.0, "old": 0.5}, [9]), ({}, [3] * 4)):
        spent.clear()
        with model.using(strengths):
            model.sample(batch)
        assert spent == calls  # of 4 evaluations for each of 3 samples


def test_what_labels_cannot_do_is_said(labels: Any, make_codec: Make) -> None:
    model, _ = labels
    with pytest.raises(ValueError, match=r"strengths names \['new'\], but the labels are"):
        CXRLabels(
            *parts(make_codec), labels={"old": (0.0, 1.0)}, strengths={"new": 1.0}, **SETTINGS
        )
    with (
        pytest.raises(ValueError, match="composed by guidance, but Weighted was given"),
        model.using({}, Weighted()),
    ):
        pass
    assert dict(model.strengths) == {"solid": 1.0, "old": 1.0}


def test_guidance_contrasts_with_no_mask(model: Make) -> None:
    conditioners = model().head.conditioners
    assert conditioners["mask"].guided
    assert not conditioners["background"].guided


def test_a_codec_of_volumes_is_refused(make_codec: Make) -> None:
    with pytest.raises(ValueError, match=r"spatial_dims 2, but model\.codec has 3"):
        CXRDiffusion(CXRHead(), make_codec(3), UNetConfig(), DiffusionProcess(), roi=Roi(16))
