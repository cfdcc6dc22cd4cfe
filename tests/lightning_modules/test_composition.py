"""Several adapters on one base."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from peft.tuners.lora import LoraLayer
from radiographs import SETTINGS, Make, parts, some

from lightning_modules.composition import CXRComposition, CXRZip, OrthogonalityConfig
from lightning_modules.core.adapters import AdapterConfig, save_adapter, updates
from lightning_modules.core.composition import normalized_overlap
from lightning_modules.core.merging import Weighted
from lightning_modules.core.ziplora import coefficients


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
        acts = [key for key in logged if key.startswith("val/calcified-irregular/")]
        assert len(acts) == 16 + 1 + 4
        assert all(0 <= float(logged[key]) <= 1 for key in acts)
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
        image: torch.Tensor = model.eval().sample(batch).image
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
            assert torch.equal(a.image, b.image)
        return torch.cat([synthesis.image for synthesis in once])

    added = predicted()
    torch.testing.assert_close(predicted(merging=Weighted("cat")), added, atol=0.01, rtol=0)
    assert not torch.allclose(predicted(merging=Weighted("linear")), added, atol=0.05, rtol=0)


def test_what_a_composition_cannot_do_is_said(
    base: Path, composition: Make, mixed: Make, make_codec: Make, make_trainer: Make
) -> None:
    with pytest.raises(ValueError, match=r"are \['a'\]: give a composition two or more"):
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
            **SETTINGS,
        )


@pytest.fixture
def grown(adapter: Make, tmp_path: Path) -> dict[str, Path]:
    """Folders of two adapters with large updates."""
    folders = {}
    for name in ("calcified", "irregular"):
        torch.manual_seed(len(folders))
        model = adapter(characteristic=name)
        model.configure_model()
        for low in updates(model.denoiser, name):
            torch.nn.init.normal_(low.b)
        save_adapter(model.denoiser, name, tmp_path / name, [])
        folders[name] = tmp_path / name
    return folders


def test_bases_of_new_adapters_follow_on_each_other(
    base: Path, composition: Make, mixed: Make, make_trainer: Make
) -> None:
    model = composition(init_from=base, adapter=AdapterConfig(2, 2.0, basis=1))
    make_trainer(2).fit(model, mixed())
    assert overlaps(model) == pytest.approx(0, abs=1e-6)
    assert all(low.b.any() for name in model.adapters for low in updates(model.denoiser, name))


def test_zipping_learns_coefficients_alone_and_writes_adapters(
    base: Path,
    grown: dict[str, Path],
    make_codec: Make,
    composition: Make,
    mixed: Make,
    make_trainer: Make,
    make_data: Make,
    tmp_path: Path,
) -> None:
    seed_everything(0)
    checkpoint = torch.load(base, weights_only=True)
    for name, value in checkpoint["state_dict"].items():
        if name.startswith("ema.module.unet"):  # hardly trained: it answers next to nothing
            value += 0.2 * torch.randn_like(value)
    torch.save(checkpoint, base)
    for folder in grown.values():  # of another base now, which nobody need know
        for name in ("base.json", "SHA256SUMS"):
            (folder / name).unlink()
    settings = {**SETTINGS, "learning_rate": 0.05, "warmup_steps": 0}
    zipped = CXRZip(*parts(make_codec), grown, init_from=base, **settings)
    kept = composition(
        init_from=base,
        adapters=grown,
        orthogonality=OrthogonalityConfig(0.0),
        learning_rate=0.0,
    )
    losses = []

    class Losses(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            logged = trainer.callback_metrics
            losses.append(sum(float(logged[f"train/diffusion/{name}"]) for name in grown))

    make_trainer(1).fit(kept, mixed())
    make_trainer(40, callbacks=[Losses()]).fit(zipped, mixed())
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    for name in grown:
        assert all((part.values != 1).all() for part in coefficients(zipped.denoiser, name))
        for low, was in zip(
            updates(zipped.denoiser, name), updates(kept.denoiser, name), strict=True
        ):
            assert torch.equal(low.b, was.b)
    for name, value in zipped.denoiser.named_parameters():
        if ".lora_" not in name:
            assert torch.equal(value, dict(kept.denoiser.named_parameters())[name])

    # the adapters that are written, added up, are what was trained
    data = make_data(2, cache_dir=None)
    data.setup()
    image = zipped.eval().sample(some(data)).image
    assert not torch.allclose(image, kept.eval().sample(some(data)).image, atol=1)
    written = composition(
        init_from=base,
        adapters={name: tmp_path / "run/adapters" / name for name in grown},
        orthogonality=OrthogonalityConfig(0.0),
        learning_rate=0.0,
    )
    make_trainer(1).fit(written, mixed())
    torch.testing.assert_close(written.eval().sample(some(data)).image, image, atol=0.1, rtol=0)
