"""The classifier learns what is known, and is used only where it was trained."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from lightning import seed_everything
from radiographs import Make

from datamodules.batch import NoduleBatch, Roi
from datamodules.lidc import LIDCDataModule
from lightning_modules.classifier import NoduleClassifier
from lightning_modules.core.classifier import label, load_classifier
from lightning_modules.core.pretrained import read_pretrained

dims = pytest.mark.parametrize("spatial_dims", [2, 3])


class Bright(LIDCDataModule):
    """Some nodules are made bright, and most of them say whether they are."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> NoduleBatch:
        return bright(super().on_before_batch_transfer(batch, dataloader_idx))

    def statistics_batches(self) -> Any:
        return [bright(batch) for batch in super().statistics_batches()]


def bright(batch: NoduleBatch) -> NoduleBatch:
    is_bright = torch.tensor([float(sum(name.encode()) % 2) for name in batch["name"]])
    batch["image"] = batch["image"] + is_bright.view(-1, *(1,) * (batch["image"].ndim - 1)) * 300
    known = torch.tensor([sum(name.encode()) % 5 > 0 for name in batch["name"]])
    label = torch.where(known, is_bright, torch.nan)
    return {**batch, "attributes": {**batch["attributes"], "bright": label, "odd": 1 - label}}


@pytest.fixture
def make_bright(make_data: Make) -> Make:
    def make(spatial_dims: int, **settings: Any) -> Bright:
        root = make_data(spatial_dims).collection.root
        settings = {"batch_size": 8, "cache_dir": None, **settings}
        return Bright(root, roi=Roi((16,) * spatial_dims), fractions=(0.6, 0.2, 0.2), **settings)

    return make


def make(spatial_dims: int, *names: str) -> NoduleClassifier:
    seed_everything(0)
    roi, settings = Roi((16,) * spatial_dims), {"learning_rate": 1e-2, "warmup_steps": 2}
    return NoduleClassifier(names, roi, (-1000, 400), spatial_dims, 8, **settings)


def test_a_pretrained_encoder_is_trained_and_loaded_again(
    make_bright: Make, make_trainer: Make, tmp_path: Path
) -> None:
    seed_everything(0)
    model = NoduleClassifier(
        ("bright",),
        Roi((16, 16)),
        (-1000, 400),
        encoder="tf_efficientnet_lite0",
        encoder_weights="installed",
        encoder_pixels=32,
    )
    three = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    three.load_state_dict(read_pretrained("tf_efficientnet_lite0", "installed"))
    image = torch.rand(2, 1, 16, 16) * 1400 - 1000
    shown = F.interpolate(model.network.window.normalize(image), (32, 32), mode="bilinear")
    expected = three.eval()(shown.expand(-1, 3, -1, -1))
    found = model.eval().network.features(image)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)

    data = make_bright(2)
    trainer = make_trainer(3)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "classifier.ckpt")
    again = load_classifier(tmp_path / "classifier.ckpt")
    torch.testing.assert_close(again(image), model.eval()(image))
    assert not torch.allclose(again.features(image), found)


def test_encoders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    roi, window = Roi(16), (-1000, 400)
    with pytest.raises(ValueError, match="sees images, but these are volumes"):
        NoduleClassifier(("a",), roi, window, 3, encoder="resnet10t")
    with pytest.raises(ValueError, match="there is no encoder: name it"):
        NoduleClassifier(("a",), roi, window, encoder_weights="installed")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="are not those of timm's resnet10t"):
        NoduleClassifier(
            ("a",), roi, window, encoder="resnet10t", encoder_weights=tmp_path / "other.pth"
        )


@dims
def test_it_learns_what_can_be_seen(
    spatial_dims: int, make_bright: Make, make_trainer: Make, tmp_path: Path
) -> None:
    data = make_bright(spatial_dims, cache_dir=tmp_path / "cache")
    model = make(spatial_dims, "bright", "odd")
    trainer = make_trainer(60)
    trainer.fit(model, data)
    for batch in data.statistics_batches():
        said = model.eval()(batch["image"]).sigmoid()
        labels = model.network.labels(batch)
        known = torch.isfinite(labels)
        assert ((said > 0.5) == (labels > 0.5))[known].all()

    trainer.save_checkpoint(tmp_path / "classifier.ckpt")
    again = load_classifier(tmp_path / "classifier.ckpt", data.roi.spacing_mm)
    assert again.characteristics == ("bright", "odd")
    torch.testing.assert_close(again(batch["image"]), model(batch["image"]))
    assert again.features(batch["image"]).shape == (len(batch["name"]), 64)
    assert not any(p.requires_grad for p in again.parameters())
    with pytest.raises(ValueError, match="was trained at an ROI spacing of"):
        load_classifier(tmp_path / "classifier.ckpt", 99.0)


def test_what_is_unknown_does_not_count(make_bright: Make, make_trainer: Make) -> None:
    """Images without a label give no gradient, and the weight balances the answers."""
    data, model = make_bright(2, balance=False), make(2, "bright")
    make_trainer(1).fit(model, data)
    labels = torch.cat([model.network.labels(batch) for batch in data.statistics_batches()])
    assert torch.isnan(labels).any()
    expected = (labels == 0).sum() / (labels == 1).sum()
    torch.testing.assert_close(model.positive_weight, expected.view(1))

    batch = next(iter(data.statistics_batches()))
    unknown = torch.isnan(model.network.labels(batch)[:, 0])
    images = batch["image"].clone().requires_grad_()
    model.eval()  # in training, batch statistics join the images
    loss, _ = model._loss({**batch, "image": images})
    (gradient,) = torch.autograd.grad(loss, images)
    seen = gradient.flatten(1).any(1)
    assert torch.equal(seen, ~unknown)
    nothing = {**batch["attributes"], "bright": torch.full((len(images),), torch.nan)}
    loss, _ = model._loss({**batch, "attributes": nothing})
    assert loss == 0


def test_probabilities_are_calibrated_at_the_prevalence_of_real_nodules(
    make_bright: Make, make_trainer: Make
) -> None:
    """Odds of an answer for which both weigh alike, times its odds among real nodules (Bayes)."""

    class HalfBright(Bright):
        def real_batches(self) -> Any:
            batch = next(iter(super().statistics_batches()))
            values = torch.full((len(batch["name"]),), torch.nan)
            values[:4] = torch.tensor([1.0, 0.0, 0.0, 0.0])
            return [{**batch, "attributes": {"bright": values}}]

    data, model = make_bright(2), make(2, "bright")
    data.__class__ = HalfBright
    make_trainer(1).fit(model, data)
    even = torch.tensor([[0.2], [0.5], [0.9]])
    odds = even / (1 - even) / 3
    torch.testing.assert_close(model.network.calibrate(even), odds / (1 + odds))


def test_what_is_wrong_is_said(
    make_bright: Make, make_data: Make, make_trainer: Make, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="characteristics is empty"):
        make(2)
    with pytest.raises(ValueError, match=r"no attribute 'round', only .*bright"):
        make_trainer(1).fit(make(2, "round"), make_bright(2))
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="is not a classifier's"):
        load_classifier(tmp_path / "other.ckpt", 1.0)

    class AllBright(Bright):
        def statistics_batches(self) -> Any:
            batches = list(super().statistics_batches())
            for batch in batches:
                batch["attributes"]["bright"].fill_(1)
            return batches

    data = make_bright(2)
    data.__class__ = AllBright
    with pytest.raises(ValueError, match="are bright and 0 are not: it cannot be learned"):
        make_trainer(1).fit(make(2, "bright"), data)


def test_labels_are_attributes_subtypes_and_malignancy() -> None:
    ratings = torch.tensor([1.0, 2.49, 2.5, 3.0, 3.5, 3.51, 5.0, torch.nan])
    subtypes = torch.tensor([0, 1, 2, -1, 0, 1, 2, -1])
    batch: Any = {"subtype": subtypes, "attributes": {"malignancy": ratings, "round": ratings}}
    nan = float("nan")
    expected = {
        "malignant": [0, 0, nan, nan, nan, 1, 1, nan],
        "solid": [1, 0, 0, nan, 1, 0, 0, nan],
        "ground-glass": [0, 0, 1, nan, 0, 0, 1, nan],
        "round": ratings.tolist(),
    }
    for name, labels in expected.items():
        torch.testing.assert_close(label(batch, name), torch.tensor(labels), equal_nan=True)
    with pytest.raises(ValueError, match="The data has no attribute 'spiky', only"):
        label(batch, "spiky")


@pytest.mark.parametrize("balance", [False, True])
def test_both_answers_weigh_alike_however_nodules_are_drawn(
    balance: bool, make_data: Make, make_trainer: Make
) -> None:
    data = make_data(2, balance=balance, cache_dir=None)
    model = make(2, "solid")
    make_trainer(1).fit(model, data)
    train = data.datasets["train"]
    shares = [train.subtypes.count(code) / len(train) for code in range(3)]
    drawn = [1 / 3] * 3 if balance else shares
    weight = model.get_buffer("positive_weight")
    assert weight.item() * drawn[0] == pytest.approx(drawn[1] + drawn[2])
    # a sure answer stays sure, an even one becomes the training set's share
    assert model.network.calibrate(torch.tensor([[0.5]])).item() == pytest.approx(shares[0])
    assert model.network.calibrate(torch.tensor([[1.0]])).item() == pytest.approx(1, abs=1e-5)
