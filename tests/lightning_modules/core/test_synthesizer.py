"""Synthesis from a checkpoint alone: the same nodules, and what is refused."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import adapted
import pytest
import torch
from radiographs import SETTINGS, Make, parts, some
from torch import Tensor

from datamodules.batch import NoduleBatch, Roi, Synthesis
from datamodules.patients import patient_key
from lightning_modules.core.adapters import save_adapter
from lightning_modules.core.codec import LatentCodec
from lightning_modules.core.conditioners import BackgroundConditioner
from lightning_modules.core.description import KNOWN, Parts, build, describe
from lightning_modules.core.facts import ModelFacts, check_facts
from lightning_modules.core.histogram import wasserstein1
from lightning_modules.core.inpainting import inpaint_mask
from lightning_modules.core.sampling import SamplingConfig
from lightning_modules.core.synthesizer import Synthesizer
from lightning_modules.core.transformer import TransformerConfig
from lightning_modules.core.window import IntensityWindow
from lightning_modules.cxr import CXRLabels
from lightning_modules.diffusion import NoduleDiffusion

TRAINING = Path(__file__).parents[3] / "docs/training.md"
DIMENSIONS = pytest.mark.parametrize("spatial_dims", [2, 3])


@pytest.fixture
def checkpoint(trained: Make, tmp_path: Path) -> Callable[[int], tuple[Path, Any, NoduleBatch]]:
    """A function that trains a model and gives its checkpoint, itself and nodules."""

    def make(spatial_dims: int) -> tuple[Path, Any, NoduleBatch]:
        trainer, model, data = trained(spatial_dims)
        trainer.save_checkpoint(tmp_path / "elsewhere/model.ckpt")
        return tmp_path / "elsewhere/model.ckpt", model.eval(), some(data)

    return make


@DIMENSIONS
def test_a_checkpoint_alone_gives_the_same_nodules(checkpoint: Make, spatial_dims: int) -> None:
    path, model, batch = checkpoint(spatial_dims)
    synthesizer = Synthesizer.load(path)
    for guidance_scale in (1.0, 3.0):
        synthesizer.sampling.guidance_scale = model.sampling.guidance_scale = guidance_scale
        ours, theirs = synthesizer(batch, seed=5), model.sample(batch, seed=5)
        assert torch.equal(ours.image, theirs.image)
        assert torch.equal(ours.generated_histogram, theirs.generated_histogram)
    drawn = synthesizer(synthesizer.with_histograms(batch))
    predicted = model.predict_step(batch, 0)
    assert torch.equal(drawn.requested_histogram, predicted.requested_histogram)
    assert torch.equal(drawn.image, predicted.image)
    assert not torch.equal(drawn.image, ours.image)


def test_a_histogram_of_ones_own_needs_no_like_nodule(checkpoint: Make) -> None:
    """What is asked for stays; the bank is asked for the rest alone."""
    path, _, batch = checkpoint(2)
    synthesizer = Synthesizer.load(path)
    drawn = synthesizer.with_histograms(batch)["histogram"]
    own = torch.eye(16)[:1]
    unknown = {**batch, "subtype": torch.cat([torch.tensor([-1]), batch["subtype"][1:]])}
    asked = {**unknown, "histogram": torch.cat([own, torch.full((2, 16), torch.nan)])}
    given = synthesizer.with_histograms(asked)["histogram"]
    assert torch.equal(given, torch.cat([own, drawn[1:]]))
    assert asked["histogram"][1:].isnan().all()  # the batch itself is left as it is
    with pytest.raises(ValueError, match="holds no unknown nodule"):
        synthesizer.with_histograms(unknown)


@DIMENSIONS
@pytest.mark.parametrize("meeting", ["final", "guided"])
def test_a_requested_histogram_is_met(
    checkpoint: Make, spatial_dims: int, meeting: Literal["final", "guided"]
) -> None:
    """Whatever an untrained network paints; beyond the mask nothing is moved to it."""
    path, _, batch = checkpoint(spatial_dims)
    synthesizer = Synthesizer.load(path)
    asked = synthesizer.with_histograms(batch)
    plain = synthesizer(asked)
    width = 1400 / 16
    synthesizer.sampling.histogram = meeting
    met = synthesizer(asked)

    def missed(synthesis: Synthesis) -> Tensor:
        found, wanted = synthesis.generated_histogram, synthesis.requested_histogram
        return wasserstein1(found, wanted, width)

    assert torch.equal(met.requested_histogram, plain.requested_histogram)
    assert (missed(met) < 0.25 * width).all()
    assert (missed(plain) > 2 * missed(met)).all()
    outside = batch["mask"] == 0
    assert torch.equal(met.image[outside], plain.image[outside]) == (meeting == "final")
    far = inpaint_mask(batch["mask"], synthesizer.facts.margin_voxels) == 0
    assert far.any()
    assert torch.equal(met.image[far], batch["image"][far])


def test_only_a_histogram_that_is_asked_for_is_met(checkpoint: Make) -> None:
    """What lies where a nodule is wanted is nobody's request."""
    path, _, batch = checkpoint(2)
    synthesizer = Synthesizer.load(path)
    del synthesizer.network.conditioners["histogram"]
    synthesizer.sampling.histogram = "final"
    with pytest.raises(ValueError, match=r"sampling\.histogram is 'final', but .* set it to none"):
        synthesizer(batch)
    with pytest.raises(ValueError, match="is 'rank', expected one of none, final, guided"):
        SamplingConfig(histogram="rank")  # type: ignore[arg-type]


def test_it_says_what_it_is(checkpoint: Make) -> None:
    path, model, batch = checkpoint(3)
    synthesizer = Synthesizer.load(str(path))
    assert synthesizer.roi == Roi((16, 16, 16), 1.0)
    assert synthesizer.facts == model.facts
    synthesis = synthesizer(batch, seed=3)
    assert synthesis.window == synthesizer.window == (-1000, 400)
    said = synthesis.provenance
    assert (said.checkpoint, said.seed, said.evaluations) == ("model.ckpt", 3, 4)
    assert set(said.training_patients) == model.patients
    assert patient_key(batch["patient_id"][0]) not in said.training_patients
    assert synthesis.bin_centers[0].item() == -1000 + 1400 / 32
    parameters = [*synthesizer.codec.parameters(), *synthesizer.network.parameters()]
    assert not any(p.requires_grad for p in parameters)


def test_the_documented_lines_run(
    checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _, _ = checkpoint(3)
    (lines,) = re.findall(r"```python\n(.*?)```", TRAINING.read_text(), re.DOTALL)
    for written, here in (
        ("runs/quickstart/checkpoints/last.ckpt", path),
        ("data/sample", tmp_path / "store3"),
    ):
        assert written in lines
        lines = lines.replace(written, str(here))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(lines, names)
    assert names["synthesis"].provenance.checkpoint == "model.ckpt"
    assert torch.isfinite(names["synthesis"].image).all()


def test_what_a_checkpoint_says_of_its_model_is_plain_data(
    checkpoint: Make, make_diffusion: Make
) -> None:
    path, _, _ = checkpoint(2)

    def check(value: object) -> None:
        if isinstance(value, dict):
            assert all(isinstance(name, str) for name in value)
            value = list(value.values())
        if isinstance(value, list | tuple):
            for part in value:
                check(part)
        else:
            assert value is None or type(value) in (int, float, str, bool), value

    check(torch.load(path, weights_only=True)["noduleforge"])
    # every conditioner there is comes back with its settings
    model = make_diffusion(2)
    described = describe(
        Parts(model.codec, model.denoiser, model.process, model.sampling, model.guidance)
    )
    again = build(described, model.facts)
    assert describe(again) == described
    assert again.denoiser.state_dict().keys() == model.denoiser.state_dict().keys()


def test_settings_of_every_known_class_make_another_like_it() -> None:
    arguments: dict[str, dict[str, Any]] = {
        "MaskConditioner": {"embedding_channels": 3, "dropout": 0.2, "guided": True},
        "BackgroundConditioner": {"dropout": 0.3, "guided": True, "through": True},
        "SubtypeConditioner": {
            "slots": ["channels"],
            "spread_channels": 5,
            "dropout": 0.4,
            "guided": False,
        },
        "HistogramConditioner": {
            "slots": ["tokens"],
            "spread_channels": 7,
            "dropout": 0.5,
            "guided": False,
        },
        "AttributeConditioner": {
            "ranges": {"diameter_mm": (3.0, 30.0)},
            "slots": ["tokens"],
            "spread_channels": 2,
            "dropout": 0.6,
            "guided": True,
        },
        "ClassifierFreeGuidance": {},
        "LabelGuidance": {"labels": {"solid": 1.0}, "strengths": {"solid": 2.0}},
    }
    assert arguments.keys() == KNOWN.keys()
    for name, settings in arguments.items():
        assert KNOWN[name](**settings).settings == settings


NAMES = {
    2: "70b2e3a01f57e851a18295993d8b1ec6d27f0ecce193c014089b9efde6c0eb20",
    3: "86f66822abbe216066d5f344c765089a8953fd0a916883eb28f74185f8a86d1b",
}
"""SHA-256 of the names and shapes of a UNet's weights, when there was no other network."""


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_unet_keeps_the_names_that_older_checkpoints_have(spatial_dims: int) -> None:
    state = adapted.build(spatial_dims).state_dict()
    named = repr([(name, tuple(value.shape)) for name, value in state.items()])
    assert hashlib.sha256(named.encode()).hexdigest() == NAMES[spatial_dims]


def test_a_checkpoint_of_before_there_were_several_codecs_is_read(
    checkpoint: Make, tmp_path: Path
) -> None:
    path, _, _ = checkpoint(2)
    stored = torch.load(path, weights_only=True)
    described = stored["noduleforge"]["synthesizer"]
    described["codec"] = described["codec"]["settings"]
    assert "transformer" not in described
    torch.save(stored, tmp_path / "older.ckpt")
    new, old = (Synthesizer.load(p) for p in (path, tmp_path / "older.ckpt"))
    assert new.codec.fingerprint() == old.codec.fingerprint()
    described["codec"] = {"class_name": "HomemadeCodec", "settings": {}}
    torch.save(stored, tmp_path / "unknown.ckpt")
    with pytest.raises(ValueError, match="'HomemadeCodec', expected one of LatentCodec"):
        Synthesizer.load(tmp_path / "unknown.ckpt")


def test_a_transformer_comes_back_from_its_checkpoint(
    model: Make, base: Path, make_data: Make, make_trainer: Make, tmp_path: Path
) -> None:
    small = TransformerConfig(24, 1, 2, 2, 16, 16, checkpointing=True)
    data, trainer = make_data(2, cache_dir=None), make_trainer(2)
    trained = model(autoencoder=tmp_path / "codec.ckpt", transformer=small, unet=None)
    trainer.fit(trained, data)
    trainer.save_checkpoint(tmp_path / "transformer.ckpt")
    batch = some(data)
    synthesizer = Synthesizer.load(tmp_path / "transformer.ckpt")
    assert torch.equal(synthesizer(batch).image, trained.eval().sample(batch).image)
    with pytest.raises(ValueError, match="do not fit model"):
        model(init_from=base, transformer=small, unet=None).load_weights()
    for networks in ({"unet": None}, {"transformer": small}):
        with pytest.raises(ValueError, match=r"model\.unet and model\.transformer"):
            model(**networks)


class Homemade(BackgroundConditioner):
    """A condition that a user wrote."""


def test_a_class_that_is_not_known_is_refused(checkpoint: Make, tmp_path: Path) -> None:
    path, _, _ = checkpoint(2)
    stored = torch.load(path, weights_only=True)
    described = stored["noduleforge"]["synthesizer"]

    def refused(told: str) -> None:
        torch.save(stored, tmp_path / "changed.ckpt")
        with pytest.raises(ValueError, match=told):
            Synthesizer.load(tmp_path / "changed.ckpt")

    described["conditioners"]["background"]["class_name"] = Homemade.__name__
    refused("'Homemade', expected one of MaskConditioner, .*lightning predict")
    described["conditioners"]["background"]["class_name"] = "os.system"
    refused(r"'os\.system', expected one of")
    described["conditioners"]["background"] = {"class_name": "MaskConditioner"}
    refused("description cannot be read .*'settings'.*version of noduleforge")
    described["conditioners"]["background"] = {
        "class_name": "BackgroundConditioner",
        "settings": {"color": 1},
    }
    refused("description cannot be read .*'color'")


def test_other_checkpoints_are_refused(checkpoint: Make, tmp_path: Path) -> None:
    checkpoint(2)
    with pytest.raises(ValueError, match=r"stage1-2\.ckpt is not one of a diffusion model"):
        Synthesizer.load(tmp_path / "stage1-2.ckpt")
    with pytest.raises(FileNotFoundError, match=r"absent\.ckpt is not a file"):
        Synthesizer.load(tmp_path / "absent.ckpt")


def test_adapters_come_in_their_folders(
    base: Path, adapter: Make, make_data: Make, make_trainer: Make, tmp_path: Path
) -> None:
    data = make_data(2, cache_dir=None)
    model = adapter(init_from=base, strength=1.7)
    trainer = make_trainer(3)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "adapter.ckpt")
    batch = some(data)
    with model.using({"calcified": 1.7}):
        expected = model.eval().sample(batch).image
    adapters = {"calcified": tmp_path / "run/adapters/calcified"}
    synthesizer = Synthesizer.load(base, adapters, {"calcified": 1.7})
    assert torch.equal(synthesizer(batch).image, expected)
    assert set(synthesizer.provenance.training_patients) == model.patients
    alone, at_one = Synthesizer.load(base)(batch).image, Synthesizer.load(base, adapters)(batch)
    assert not torch.equal(alone, expected)
    assert not torch.equal(at_one.image, expected)
    # one that takes no part leaves the base, up to rounding: it is added and taken away
    unused = Synthesizer.load(base, adapters, {})(batch).image
    torch.testing.assert_close(unused, alone, rtol=0, atol=0.01)  # of 1400 HU

    with pytest.raises(ValueError, match=r"adapter\.ckpt holds adapters: give that of their base"):
        Synthesizer.load(tmp_path / "adapter.ckpt")
    with pytest.raises(ValueError, match="no adapter 'irregular'"):
        Synthesizer.load(base, adapters, {"irregular": 1.0})
    stored = torch.load(base, weights_only=True)
    name = next(n for n in stored["state_dict"] if n.startswith("ema.module.unet.conv_in"))
    stored["state_dict"][name] *= 1.5
    torch.save(stored, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"calcified in .* was trained on another base"):
        Synthesizer.load(tmp_path / "other.ckpt", adapters)
    save_adapter(model.denoiser, "calcified", tmp_path / "other", ["somebody"])
    patients = Synthesizer.load(base, {"c": tmp_path / "other"}).provenance.training_patients
    assert "somebody" in patients


def test_labels_are_asked_for_as_they_were(
    base: Path, tmp_path: Path, make_codec: Make, make_data: Make, make_trainer: Make
) -> None:
    data = make_data(2, cache_dir=None)
    labels = {"subtlety": (1.0, 5.0), "margin": (1.0, 5.0)}
    settings = {"labels": labels, "strengths": {"subtlety": 2.0}, **SETTINGS}
    model = CXRLabels(*parts(make_codec), autoencoder=tmp_path / "codec.ckpt", **settings)
    trainer = make_trainer(2)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "labels.ckpt")
    synthesizer, batch = Synthesizer.load(tmp_path / "labels.ckpt"), some(data)
    assert synthesizer.guidance.settings == {
        "labels": {"subtlety": 5.0, "margin": 5.0},
        "strengths": {"subtlety": 2.0},
    }
    assert torch.equal(synthesizer(batch).image, model.eval().sample(batch).image)


def test_all_parts_move_together(make_diffusion: Make) -> None:
    model: NoduleDiffusion = make_diffusion(2)
    moved = model.synthesizer.to("meta")
    parts = (moved.codec, moved.network, moved.process)
    tensors = [t for part in parts for t in (*part.parameters(), *part.buffers())]
    assert {t.device.type for t in tensors} == {"meta"}


def test_facts_survive_a_checkpoint_and_what_differs_is_named() -> None:
    facts = ModelFacts(IntensityWindow(-1000, 400), 3, 16, Roi(32, 0.7))
    plain = facts.plain(3)
    again = ModelFacts.of(plain)
    assert again.plain(3) == plain
    assert again.roi.shape(3) == (32, 32, 32)
    check_facts({**plain, "data_fingerprint": "x"}, plain)
    for name in plain:
        with pytest.raises(ValueError, match=f"trained with {name} None, but the config says"):
            check_facts({**plain, name: None}, plain)


def test_a_codec_says_what_makes_another() -> None:
    codec = LatentCodec(2, (4, 8, 8), 3, 2, 4)
    assert LatentCodec(**codec.settings).state_dict().keys() == codec.state_dict().keys()
