"""Stage 1 in 2D and 3D: it learns, and each loss reaches the network that it is for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import seed_everything
from torchvision.models import alexnet

DIMENSIONS = pytest.mark.parametrize("spatial_dims", [2, 3])
Make = Callable[..., Any]


@DIMENSIONS
def test_learns_to_reconstruct(
    spatial_dims: int, make_data: Make, make_autoencoder: Make, make_trainer: Make
) -> None:
    seed_everything(0)
    data, model = make_data(spatial_dims), make_autoencoder(spatial_dims, learning_rate=1e-2)
    (before,) = make_trainer().validate(model, data, verbose=False)
    make_trainer(80).fit(model, data)
    (after,) = make_trainer().validate(model, data, verbose=False)
    assert after["val/mae"] < 0.3 * before["val/mae"]


@DIMENSIONS
def test_error_is_in_physical_units(
    spatial_dims: int, make_batch: Make, make_autoencoder: Make, make_data: Make, make_trainer: Make
) -> None:
    """A decoder that always answers 0, the middle of the window, errs by |HU + 300|."""
    model, data = make_autoencoder(spatial_dims), make_data(spatial_dims)
    for parameter in model.codec.autoencoder.decoder.parameters():
        parameter.data.zero_()
    (figures,) = make_trainer().validate(model, data, verbose=False)
    images = torch.stack([item["image"] for item in data.datasets["val"]]).clamp(-1000, 400)
    masks = torch.stack([item["mask"] for item in data.datasets["val"]])
    error = (images + 300).abs()
    inside = (error * masks).flatten(1).sum(1) / masks.flatten(1).sum(1)
    # the last batch is smaller, and Lightning weighs batches by their size
    assert figures["val/mae"] == pytest.approx(float(error.mean()), rel=1e-4)
    assert figures["val/mae_nodule"] == pytest.approx(float(inside.mean()), rel=1e-4)


@DIMENSIONS
def test_adversarial_losses_reach_their_own_network(
    spatial_dims: int, make_batch: Make, make_autoencoder: Make
) -> None:
    model = make_autoencoder(spatial_dims, adversarial_weight=0.1)
    image = torch.randn(2, 1, *(16,) * spatial_dims)
    output = model.codec.reconstruct(model.codec.encode(image)[0])
    losses = model._adversarial(image, output)

    def reached(loss: torch.Tensor) -> set[str]:
        model.zero_grad()
        loss.backward(retain_graph=True)
        touched = [n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()]
        return {name.split(".")[0] for name in touched}

    assert reached(losses["generator"]) == {"codec"}
    assert reached(losses["discriminator"]) == {"discriminator"}


def test_adversarial_training_counts_steps_once(
    make_data: Make, make_autoencoder: Make, make_trainer: Make
) -> None:
    trainer = make_trainer(3)
    trainer.fit(make_autoencoder(3, adversarial_weight=0.1, adversarial_start=1), make_data(3))
    assert trainer.global_step == 3


def test_perceptual_network_is_in_no_checkpoint(
    tmp_path: Path, make_data: Make, make_autoencoder: Make, make_trainer: Make
) -> None:
    torch.save(alexnet(weights=None).state_dict(), tmp_path / "alexnet.pth")
    model = make_autoencoder(2, perceptual_weights=tmp_path / "alexnet.pth")
    trainer = make_trainer(1, logger=False)
    trainer.fit(model, make_data(2))
    assert trainer.callback_metrics["train/perceptual"] > 0
    assert all(name.startswith("codec.") for name in model.state_dict())
