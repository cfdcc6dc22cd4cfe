"""Radiographs: patches without a nodule, then nodules into them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from peft.tuners.lora import LoraLayer

from datamodules.batch import NoduleBatch
from datamodules.lidc import LIDCDataModule
from datamodules.mixed import MixedDataModule
from lightning_modules.core.adapters import AdapterConfig, updates
from lightning_modules.core.composition import normalized_overlap
from lightning_modules.core.denoiser import UNetConfig
from lightning_modules.core.merging import Weighted
from lightning_modules.core.process import DiffusionProcess
from lightning_modules.cxr import (
    CXRAdapter,
    CXRComposition,
    CXRDiffusion,
    OrthogonalityConfig,
)
from lightning_modules.diffusion import SamplingConfig
from lightning_modules.heads.cxr import CXRHead

Make = Callable[..., Any]


class WithoutNodules(LIDCDataModule):
    """The same images, with empty masks."""

    def transfer_batch_to_device(self, batch: Any, *args: Any) -> NoduleBatch:
        moved: NoduleBatch = super().transfer_batch_to_device(batch, *args)
        return {**moved, "mask": torch.zeros_like(moved["mask"])}


def parts(make_codec: Make) -> tuple[Any, ...]:
    unet = UNetConfig((8, 16), (False, True), 1, 8, 4, 16, 16)
    return CXRHead((-1000, 400), margin_voxels=2), make_codec(2), unet, DiffusionProcess()


SETTINGS: dict[str, Any] = {"sampling": SamplingConfig(evaluations=4), "ema_decay": 0.9}


@pytest.fixture
def model(make_codec: Make) -> Callable[..., CXRDiffusion]:
    return lambda **settings: CXRDiffusion(*parts(make_codec), **SETTINGS, **settings)


@pytest.fixture
def adapter(make_codec: Make) -> Callable[..., CXRAdapter]:
    def make(**settings: Any) -> CXRAdapter:
        given: dict[str, Any] = {"characteristic": "calcified", "adapter": AdapterConfig(2, 2.0)}
        given |= {"learning_rate": 1e-2, **SETTINGS, **settings}
        return CXRAdapter(*parts(make_codec), **given)

    return make


@pytest.fixture
def base(
    tmp_path: Path, model: Make, make_data: Make, make_autoencoder: Make, make_trainer: Make
) -> Path:
    """The checkpoint of a base, trained for two steps."""
    seed_everything(0)
    data = make_data(2, cache_dir=None)
    trainer = make_trainer(2)
    trainer.fit(make_autoencoder(2), data)
    trainer.save_checkpoint(tmp_path / "codec.ckpt")
    trainer = make_trainer(2)
    settings = {"autoencoder": tmp_path / "codec.ckpt", "learning_rate": 1e-2, "warmup_steps": 0}
    trainer.fit(model(**settings), data)
    trainer.save_checkpoint(tmp_path / "base.ckpt")
    return tmp_path / "base.ckpt"


def some(data: Any, size: int = 3) -> NoduleBatch:
    batch: NoduleBatch = torch.utils.data.default_collate(
        [data.datasets["test"][i] for i in range(size)]
    )
    return batch


def test_the_second_stage_starts_from_patches_without_nodules(
    base: Path, tmp_path: Path, model: Make, make_data: Make, make_trainer: Make
) -> None:
    data = make_data(2, cache_dir=None)
    settings = {"roi_size": [16, 16], "fractions": (0.6, 0.2, 0.2), "cache_dir": None}
    normal = WithoutNodules(data.root, batch_size=4, **settings)
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
    kept = synthesis["image"] == batch["image"]
    assert not kept[1].any()  # without a nodule the whole patch is synthesized
    assert kept[0].any()
    assert torch.isfinite(synthesis["image"]).all()


def test_an_adapter_learns_and_the_base_stays(
    base: Path, model: Make, adapter: Make, make_data: Make, make_trainer: Make, tmp_path: Path
) -> None:
    data = make_data(2, cache_dir=None)
    plain = model(init_from=base, learning_rate=0.0)
    make_trainer(1).fit(plain, data)
    expected = plain.eval().sample(some(data))["image"]

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
    assert not torch.equal(trained.sample(some(data))["image"], expected)

    # at strength 0 it is the base; the folder is what plain peft reads
    off = adapter(init_from=base, strength=0.0, learning_rate=0.0)
    make_trainer(1).fit(off, data)
    assert torch.equal(off.eval().sample(some(data))["image"], expected)
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


@pytest.fixture
def composition(make_codec: Make) -> Callable[..., CXRComposition]:
    def make(**settings: Any) -> CXRComposition:
        given: dict[str, Any] = {
            "adapters": {"calcified": None, "irregular": None},
            "adapter": AdapterConfig(2, 2.0),
            "orthogonality": OrthogonalityConfig(),
            "learning_rate": 1e-2,
            "warmup_steps": 0,
        }
        return CXRComposition(*parts(make_codec), **{**SETTINGS, **given, **settings})

    return make


@pytest.fixture
def mixed(make_data: Make) -> Callable[..., MixedDataModule]:
    """Two parts with nodules of their own."""

    def make(names: tuple[str, str] = ("calcified", "irregular")) -> MixedDataModule:
        queries = ("subtype == 'solid'", "subtype != 'solid'")
        selected = [make_data(2, cache_dir=None, select=query) for query in queries]
        return MixedDataModule(dict(zip(names, selected, strict=True)))

    return make


def overlaps(model: CXRComposition) -> float:
    lists = [list(updates(model.denoiser, name)) for name in model.adapters]
    shares = [normalized_overlap(a, b, "input").item() for a, b in zip(*lists, strict=True)]
    return sum(shares) / len(shares)


def test_a_composition_trains_all_adapters_and_keeps_them_apart(
    base: Path, composition: Make, mixed: Make, make_trainer: Make, tmp_path: Path
) -> None:
    found = {}
    for weight in (0.0, 1000.0):
        seed_everything(0)
        model = composition(init_from=base, orthogonality=OrthogonalityConfig(weight, "input"))
        trainer = make_trainer(12)
        trainer.fit(model, mixed())
        for name in model.adapters:
            assert all(low.b.any() for low in updates(model.denoiser, name))
        found[weight] = overlaps(model)
        logged = trainer.callback_metrics
        assert {"train/orthogonality", "train/diffusion/calcified"} <= set(logged)
        named = [key for key in logged if key.startswith("overlap/input/calcified-irregular/")]
        assert len(named) == 16
        assert all(0 <= float(logged[key]) <= 1 for key in named)
    assert found[1000.0] < 0.5 * found[0.0]
    for name in ("calcified", "irregular"):
        assert (tmp_path / "run/adapters" / name / "adapter_model.safetensors").is_file()


def test_each_adapter_learns_from_its_own_data_alone(
    base: Path, composition: Make, mixed: Make, make_trainer: Make
) -> None:
    """With one part's images all alike, the other's adapter is the same as with real images."""

    def fit(spoil: str | None) -> dict[str, torch.Tensor]:
        class Spoiled(CXRComposition):
            def transfer_batch_to_device(self, batch: Any, *args: Any) -> Any:
                moved = super().transfer_batch_to_device(batch, *args)
                if spoil in moved:
                    moved[spoil]["image"] = torch.zeros_like(moved[spoil]["image"])
                return moved

        seed_everything(0)
        model = composition(init_from=base, orthogonality=OrthogonalityConfig(0.0))
        model.__class__ = Spoiled
        make_trainer(3).fit(model, mixed())
        weights = model.denoiser.named_parameters()
        return {name: value.detach().clone() for name, value in weights if ".lora_" in name}

    plain, spoiled = fit(None), fit("irregular")
    for name, value in plain.items():
        assert torch.equal(value, spoiled[name]) == (".calcified." in name), name


def test_a_composition_resumes_bit_for_bit_and_takes_trained_adapters(
    base: Path,
    adapter: Make,
    composition: Make,
    mixed: Make,
    make_data: Make,
    make_trainer: Make,
    tmp_path: Path,
) -> None:
    trained = adapter(init_from=base)
    make_trainer(2).fit(trained, make_data(2, cache_dir=None))
    # the composition writes its own adapters into the run's folder
    folder = (tmp_path / "run/adapters/calcified").rename(tmp_path / "calcified")
    chosen = {"calcified": folder, "irregular": None}

    class Killed(Exception):
        pass

    class KillAt(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 2:
                raise Killed

    def run(seed: int, *callbacks: Callback, **settings: Any) -> dict[str, Any]:
        seed_everything(seed)
        model = composition(init_from=base, adapters=chosen)
        trainer = make_trainer(4, callbacks=[*callbacks], enable_checkpointing=bool(callbacks))
        trainer.fit(model, mixed(), **settings)
        return {n: v.clone() for n, v in model.state_dict().items() if torch.is_tensor(v)}

    saver = ModelCheckpoint(tmp_path, save_last=True, save_top_k=0, every_n_train_steps=1)
    with pytest.raises(Killed):
        run(0, saver, KillAt())
    resumed = run(1, ckpt_path=tmp_path / "last.ckpt")
    straight = run(0)
    for name, value in straight.items():
        assert torch.equal(value, resumed[name]), name


def test_strengths_choose_what_takes_part(
    base: Path, composition: Make, mixed: Make, make_data: Make, make_trainer: Make
) -> None:
    data = make_data(2, cache_dir=None)
    data.setup()
    batch = some(data)

    def sampled(strengths: dict[str, float]) -> torch.Tensor:
        seed_everything(0)
        model = composition(init_from=base, strengths=strengths)
        make_trainer(3).fit(model, mixed())
        image: torch.Tensor = model.eval().sample(batch)["image"]
        return image

    both, one, none = (
        sampled(strengths)
        for strengths in ({"calcified": 1.0, "irregular": 1.0}, {"calcified": 1.0}, {})
    )
    assert not torch.equal(both, one)
    assert not torch.equal(one, none)


def test_prediction_is_fused_and_takes_the_strategy(
    base: Path, composition: Make, mixed: Make, make_trainer: Make, tmp_path: Path
) -> None:
    data, trainer = mixed(), make_trainer(3)
    seed_everything(0)
    trainer.fit(composition(init_from=base), data)
    trainer.save_checkpoint(tmp_path / "composed.ckpt")

    def merged(model: CXRComposition) -> set[bool]:
        return {m.merged for m in model.ema.module.modules() if isinstance(m, LoraLayer)}

    class Fused(Callback):
        def on_predict_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
            assert merged(module) == {True}

    def predicted(**settings: Any) -> torch.Tensor:
        strengths = {"calcified": 10.0, "irregular": 10.0}
        model = composition(strengths=strengths, **settings)
        once, again = (
            make_trainer(callbacks=[Fused()]).predict(model, data, ckpt_path=path)
            for path in (tmp_path / "composed.ckpt", None)
        )
        assert merged(model) == {False}
        assert list(model.ema.module.unet.peft_config) == ["calcified", "irregular"]
        for a, b in zip(once, again, strict=True):
            assert torch.equal(a["image"], b["image"])
        return torch.cat([synthesis["image"] for synthesis in once])

    added = predicted()
    torch.testing.assert_close(predicted(merging=Weighted("cat")), added, atol=0.01, rtol=0)
    assert not torch.allclose(predicted(merging=Weighted("linear")), added, atol=0.05, rtol=0)


def test_what_a_composition_cannot_do_is_said(
    base: Path, composition: Make, mixed: Make, make_codec: Make, make_trainer: Make
) -> None:
    with pytest.raises(ValueError, match=r"he adapters are \['a'\]: a composition needs two"):
        composition(adapters={"a": None})
    with pytest.raises(ValueError, match=r"strengths names \['b'\]"):
        composition(strengths={"b": 1.0})
    with pytest.raises(ValueError, match=r"need a base: set model\.init_from"):
        make_trainer(1).fit(composition(), mixed())
    with pytest.raises(ValueError, match=r"parts \['calcified', 'texture'\]"):
        make_trainer(1).fit(composition(init_from=base), mixed(("calcified", "texture")))
    head, codec, unet, process = parts(make_codec)
    unet.checkpointing = True
    with pytest.raises(ValueError, match=r"set model\.unet\.checkpointing to false"):
        CXRComposition(
            head,
            codec,
            unet,
            process,
            {"a": None, "b": None},
            AdapterConfig(),
            OrthogonalityConfig(),
        )


def test_an_adapter_without_a_base_is_refused(
    adapter: Make, make_data: Make, make_trainer: Make
) -> None:
    with pytest.raises(ValueError, match=r"need a base: set model\.init_from"):
        make_trainer(1).fit(adapter(), make_data(2))


def test_guidance_contrasts_with_no_mask(model: Make) -> None:
    conditioners = model().head.conditioners
    assert conditioners["mask"].guided
    assert not conditioners["background"].guided


def test_a_codec_of_volumes_is_refused(make_codec: Make) -> None:
    with pytest.raises(ValueError, match=r"spatial_dims 2, but model\.codec has 3"):
        CXRDiffusion(CXRHead(), make_codec(3), UNetConfig(), DiffusionProcess())
