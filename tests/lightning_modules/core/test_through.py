"""Models that are shown what lies under a nodule."""

from pathlib import Path
from typing import Any

import pytest
import torch
from radiographs import Make, some

from datamodules.batch import NoduleBatch
from lightning_modules.core.conditioners import BackgroundConditioner
from lightning_modules.core.inpainting import dilate, known_image
from lightning_modules.core.synthesizer import Synthesizer
from lightning_modules.core.window import IntensityWindow


@pytest.fixture
def seeing(trained: Make) -> tuple[Synthesizer, NoduleBatch]:
    """A model that is taken for one that sees through nodules, and nodules with what is under."""
    _, model, data = trained(2)
    found = model.eval().synthesizer
    background = found.network.conditioners["background"]
    assert isinstance(background, BackgroundConditioner)
    background.through = True
    batch: Any = some(data)
    return found, {**batch, "underlay": batch["image"] - 100}


def test_a_nodule_is_put_into_what_lies_under_it(seeing: tuple[Synthesizer, NoduleBatch]) -> None:
    ours, batch = seeing
    found = ours(batch, seed=1)
    assert torch.equal(found.background, batch["underlay"])
    outside = dilate(batch["mask"], ours.facts.margin_voxels) == 0
    assert torch.equal(found.image[outside], batch["underlay"][outside])
    # the nodule that is there is not seen, what is under it is
    hidden: Any = {**batch, "histogram": found.requested_histogram}
    other = torch.where(batch["mask"] > 0, batch["image"] + 300, batch["image"])
    torch.testing.assert_close(ours({**hidden, "image": other}, seed=1).image, found.image)
    under = torch.where(batch["mask"] > 0, batch["underlay"] + 300, batch["underlay"])
    again = ours({**hidden, "underlay": under}, seed=1).image
    assert not torch.allclose(again[batch["mask"] > 0], found.image[batch["mask"] > 0])


def test_data_without_it_are_refused(seeing: tuple[Synthesizer, NoduleBatch]) -> None:
    ours, batch = seeing
    del batch["underlay"]
    with pytest.raises(ValueError, match="the data have no image without them"):
        ours(batch, seed=1)


def test_what_is_known_is_the_image_without_the_nodule() -> None:
    window = IntensityWindow(0, 200)
    batch: Any = {"image": torch.full((1, 1, 4, 4), 150.0), "underlay": torch.zeros(1, 1, 4, 4)}
    region = torch.zeros(1, 1, 4, 4)
    region[..., 1:3, 1:3] = 1
    assert (known_image(batch, region, window, through=True) == -1).all()
    assert (known_image(batch, region, window, through=False) == 0.5).all()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"shift": 3.0}, r"trained with process.shift 1.0, but the config says 3.0"),
        ({"prediction": "epsilon"}, "trained with process.prediction v, but"),
    ],
)
def test_a_checkpoint_of_another_process_is_refused(
    changed: dict[str, Any], said: str, trained: Make, tmp_path: Path
) -> None:
    trainer, model, _ = trained(2)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    model.process.settings.update(changed)
    saved = torch.load(tmp_path / "model.ckpt", weights_only=True)
    with pytest.raises(ValueError, match=said):
        model.on_load_checkpoint(saved)
    model.init_from = tmp_path / "model.ckpt"
    with pytest.raises(ValueError, match=said):
        model.load_weights()


def test_a_checkpoint_that_does_not_see_through_is_refused(trained: Make, tmp_path: Path) -> None:
    trainer, model, _ = trained(2)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    model.denoiser.conditioners["background"].through = True
    saved = torch.load(tmp_path / "model.ckpt", weights_only=True)
    with pytest.raises(ValueError, match=r"background\.through False, but the config"):
        model.on_load_checkpoint(saved)
    # nor one that is older than the setting
    del saved["noduleforge"]["synthesizer"]["conditioners"]["background"]["settings"]["through"]
    with pytest.raises(ValueError, match=r"background\.through False, but the config"):
        model.on_load_checkpoint(saved)
    # stage 2 may begin with the weights of stage 1, which saw nothing
    model.init_from = tmp_path / "model.ckpt"
    model.load_weights()
