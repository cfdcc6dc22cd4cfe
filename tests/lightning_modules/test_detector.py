"""The detector learns to say whether and where, and takes networks and weights as they come."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from lightning import Trainer, seed_everything
from safetensors.torch import save_file

from datamodules.base import NoduleDataModule
from datamodules.batch import Detection, Roi
from datamodules.collections import NoduleSet, Patch
from datamodules.dataset import NoduleDataset
from datamodules.io.volumes import Volume
from lightning_modules.detector import PRIOR, NoduleDetector, make_network
from noduleforge.evaluation.probabilities import auroc

SIDE = 64


class Discs(NoduleSet):
    """Noise, in every second image with a bright disc."""

    def __init__(self, number: int, seed: int) -> None:
        table = pd.DataFrame({"patient_id": [str(i) for i in range(number)]})
        super().__init__(table, [i % 2 for i in range(number)], (SIDE, SIDE))
        self.seed = seed

    def facts(self) -> Iterable[str]:
        yield str((self.seed, len(self)))

    def read(self, nodule: int, size: Sequence[int]) -> Patch:
        rng = np.random.default_rng((self.seed, nodule))
        y, x = np.mgrid[:SIDE, :SIDE]
        row, column = rng.uniform(12, SIDE - 12, 2)
        mask = np.hypot(y - row, x - column) < (6 if self.subtypes[nodule] else 0)
        image = (rng.normal(80, 15, mask.shape) + 80 * mask).astype(np.float32)
        volume = Volume(image, (1.0, 1.0), (0.0, 0.0), np.eye(2))
        known = {"nodule": float(self.subtypes[nodule])}
        return Patch(volume, mask.astype(np.uint8), known, str(nodule), str(nodule))


def discs(number: int, seed: int) -> NoduleDataset:
    return NoduleDataset(Discs(number, seed))


class DiscsData(NoduleDataModule):
    def build(self) -> dict[str, NoduleDataset]:
        splits = ("train", "val", "test", "predict")
        return {split: discs(32, seed) for seed, split in enumerate(splits)}


def make(encoder: str = "mobilenetv3_small_050", **settings: Any) -> NoduleDetector:
    seed_everything(0)
    given = {"decoder_channels": [16, 16, 8, 8, 8], "learning_rate": 5e-3, "warmup_steps": 2}
    return NoduleDetector(encoder, **{**given, **settings})


def test_it_learns_whether_and_where(tmp_path: Path) -> None:
    data, model = DiscsData(Roi(32), cache_dir=tmp_path / "cache"), make()
    trainer = Trainer(
        max_steps=60,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    batch = next(iter(torch.utils.data.DataLoader(discs(32, 9), 32)))
    before = model.eval().losses(model(batch["image"]), batch)
    trainer.fit(model.train(), data)
    model.eval()
    with torch.no_grad():
        after = model.losses(model(batch["image"]), batch)
        found = model.detect(batch["image"])
    assert after["loss"] < 0.6 * before["loss"]
    assert after["dice"] < 0.5
    labels = batch["attributes"]["nodule"].numpy()
    assert auroc(labels, found.nodule.numpy()) > 0.95
    inside = batch["mask"] > 0
    assert found.pixels[inside].mean() > 0.5 > 5 * found.pixels[~inside].mean()

    trainer.save_checkpoint(tmp_path / "detector.ckpt")
    stored = torch.load(tmp_path / "detector.ckpt", weights_only=True)
    again = NoduleDetector(**stored["noduleforge"]["detector"])
    again.load_state_dict(stored["state_dict"])
    torch.testing.assert_close(again.eval().detect(batch["image"]), found)


@pytest.mark.parametrize("encoder", ["swin_tiny_patch4_window7_224", "resnet10t", "convnext_atto"])
def test_encoders_of_every_kind_answer_at_full_resolution(encoder: str) -> None:
    """Swin and ConvNeXt have no features at half the resolution; Swin's windows are of 7."""
    model = make(encoder, decoder_channels=[16, 16, 8, 8, 8])
    side = 256 if "swin" in encoder else 64
    found = model.train()(255 * torch.rand(2, 1, side, side))
    assert found.nodule.shape == (2,)
    assert found.pixels.shape == (2, 1, side, side)
    assert PRIOR / 5 < float(found.pixels.detach().sigmoid().median()) < 5 * PRIOR
    (found.nodule.sum() + found.pixels.sum()).backward()
    used = [parameter.grad is not None for parameter in model.network.encoder.parameters()]
    assert sum(used) > 0.9 * len(used)


def test_swin_tiny_is_the_default() -> None:
    model = NoduleDetector()
    assert model.size["encoder"] == "swin_tiny_patch4_window7_224"
    assert model.network.encoder.out_channels == [1, 0, 96, 192, 384, 768]


def test_an_image_is_as_suspicious_as_its_most_suspicious_pixel() -> None:
    model = make("test_resnet").eval()
    image = 255 * torch.rand(2, 1, 64, 64)
    _, whole = model.network(model.window.normalize(image))
    found = model(image)
    expected = whole[:, 0] + found.pixels.flatten(1).max(1).values
    torch.testing.assert_close(found.nodule, expected)


def test_no_nodule_at_all_is_no_division_by_zero() -> None:
    batch: Any = {"mask": torch.zeros(1, 1, 32, 32), "attributes": {"nodule": torch.zeros(1)}}
    losses = make().losses(Detection(torch.zeros(1), torch.zeros(1, 1, 32, 32)), batch)
    assert all(torch.isfinite(value) for value in losses.values())


def test_losses_are_those_of_pixels_and_images() -> None:
    model = make(dice_weight=2.0, pixel_weight=3.0, image_weight=0.5)
    mask = torch.zeros(2, 1, 32, 32)
    mask[0, 0, 4:8, 4:8] = 1
    batch: Any = {"mask": mask, "attributes": {"nodule": torch.tensor([1.0, 0.0])}}
    losses = model.losses(Detection(torch.zeros(2), torch.zeros_like(mask)), batch)
    # every probability is one half; Dice is of the batch, so an empty mask is no loss of its own
    assert float(losses["dice"]) == pytest.approx(1 - 2 * 8 / (1024 + 16), abs=1e-6)
    # focal: half the cross-entropy, a quarter of it for being right by half, per pixel in a nodule
    assert float(losses["pixels"]) == pytest.approx(2048 / 16 * 0.5 * 0.5**2 * np.log(2))
    assert float(losses["image"]) == pytest.approx(np.log(2))
    expected = 2 * losses["dice"] + 3 * losses["pixels"] + 0.5 * losses["image"]
    torch.testing.assert_close(losses["loss"], expected)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_come_from_a_file(suffix: str, tmp_path: Path) -> None:
    whole = timm.create_model("resnet10t")
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(whole.state_dict(), path)
    else:
        save_file(whole.state_dict(), path)
    encoder = make_network("resnet10t", path, [8] * 5).encoder.model
    torch.testing.assert_close(encoder.layer3[0].conv1.weight, whole.layer3[0].conv1.weight)
    # one channel sees what three grey ones would
    torch.testing.assert_close(encoder.conv1[0].weight, whole.conv1[0].weight.sum(1, keepdim=True))
    with pytest.raises(ValueError, match="are not those of timm"):
        make_network("resnet18", path, [8] * 5)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="timm has no network 'swine'"):
        make("swine")
    with pytest.raises(ValueError, match="vit_tiny_patch16_224 cannot be the encoder"):
        make("vit_tiny_patch16_224")
    with pytest.raises(ValueError, match=r"decoder_channels is \[8, 8\]: give five numbers"):
        make(decoder_channels=[8, 8])
    with pytest.raises(FileNotFoundError, match="are not a file: give a local path"):
        make(encoder_weights=tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match="holds no weights that can be read"):
        make(encoder_weights=tmp_path / "text.pth")
    with pytest.raises(ValueError, match=r"have 48 x 64 pixels, .* a multiple of 32"):
        make()(torch.zeros(1, 1, 48, 64))
