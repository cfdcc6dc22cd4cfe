"""The codec: geometry, and a scale that is measured once and kept."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules.core.codec import LatentCodec

dims = pytest.mark.parametrize("spatial_dims", [2, 3])


def build(spatial_dims: int, levels: int = 2, seed: int = 0, **settings: Any) -> LatentCodec:
    torch.manual_seed(seed)
    return LatentCodec(
        spatial_dims, channels=(4,) * levels, latent_channels=3, norm_num_groups=2, **settings
    ).eval()


def images(spatial_dims: int, side: int = 8) -> Tensor:
    stream = torch.Generator().manual_seed(0)
    return 2 * torch.rand((2, 1, *(side,) * spatial_dims), generator=stream) - 1


def posteriors(spatial_dims: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of unequal size, channels of unequal scale, far from zero."""
    stream = torch.Generator().manual_seed(0)
    shape = (1, 3, *(1,) * spatial_dims)
    center = torch.tensor([-30.0, 0.0, 5.0]).view(shape)
    spread = torch.tensor([0.1, 1.0, 20.0]).view(shape)

    def draw(size: int) -> tuple[Tensor, Tensor]:
        full = (size, 3, *(4,) * spatial_dims)
        mean = center + spread * torch.randn(full, generator=stream)
        logvar = 2 * spread.log() + torch.rand(full, generator=stream) - 1
        return mean, logvar

    return [draw(size) for size in (1, 4, 3)]


@dims
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_shapes(spatial_dims: int, levels: int) -> None:
    codec = build(spatial_dims, levels)
    assert codec.compression == 2 ** (levels - 1)
    image = images(spatial_dims)
    mean, logvar = codec.encode(image)
    side = 8 // codec.compression
    assert mean.shape == logvar.shape == (2, 3, *(side,) * spatial_dims)
    assert codec.reconstruct(mean).shape == image.shape
    # the log-variance is that of the autoencoder's own posterior
    torch.testing.assert_close(torch.exp(0.5 * logvar), codec.autoencoder.encode(image)[1])


@dims
def test_a_side_that_is_no_multiple_is_refused(spatial_dims: int) -> None:
    codec = build(spatial_dims, 3)
    shape = (*(8,) * (spatial_dims - 1), 6)
    with pytest.raises(ValueError, match=r"6\) voxels.*multiple of 4.*ROI's size"):
        codec.encode(torch.zeros(1, 1, *shape))


@dims
def test_measure_equals_the_statistics_of_all_batches(spatial_dims: int) -> None:
    codec, batches = build(spatial_dims), posteriors(spatial_dims)
    assert not codec.is_measured
    codec.measure(iter(batches))
    assert codec.is_measured
    mean = torch.cat([mean for mean, _ in batches]).double().transpose(0, 1).flatten(1)
    logvar = torch.cat([logvar for _, logvar in batches]).double().transpose(0, 1).flatten(1)
    variance = torch.std(mean, 1, correction=0) ** 2 + logvar.exp().mean(1)
    torch.testing.assert_close(codec.shift.double(), torch.mean(mean, 1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(codec.scale_factor.double(), variance.rsqrt(), rtol=1e-6, atol=0)


@dims
def test_standardized_draws_have_mean_zero_and_deviation_one(spatial_dims: int) -> None:
    codec = build(spatial_dims)
    stream = torch.Generator().manual_seed(0)
    means = 7 + 3 * torch.randn((40, 3, *(8,) * spatial_dims), generator=stream)
    codec.measure([(means, torch.full_like(means, math.log(16.0)))])
    draws = means + 4 * torch.randn(means.shape, generator=stream)
    latent = codec.standardize(draws).transpose(0, 1).flatten(1)
    torch.testing.assert_close(latent.mean(1), torch.zeros(3), atol=0.06, rtol=0)
    torch.testing.assert_close(latent.std(1), torch.ones(3), atol=0.06, rtol=0)


@dims
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_statistics_that_are_not_finite_are_refused(
    spatial_dims: int, bad: float, which: int
) -> None:
    codec, batches = build(spatial_dims), posteriors(spatial_dims)
    batches[1][which][(0, 1, *(0,) * spatial_dims)] = bad
    with pytest.raises(ValueError, match="scale factor"):
        codec.measure(batches)
    assert not codec.is_measured


@dims
@pytest.mark.parametrize("logvar", [-math.inf, -30.0])
def test_a_constant_channel_is_refused(spatial_dims: int, logvar: float) -> None:
    # -30 is the smallest log-variance that MONAI's autoencoder gives
    codec, batches = build(spatial_dims), posteriors(spatial_dims)
    for mean, log_variance in batches:
        mean[:, 1], log_variance[:, 1] = 3.0, logvar
    with pytest.raises(ValueError, match="ignores a channel"):
        codec.measure(batches)


@dims
def test_no_batch_is_refused(spatial_dims: int) -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        build(spatial_dims).measure([])


@dims
def test_an_unmeasured_codec_does_not_standardize(spatial_dims: int) -> None:
    codec = build(spatial_dims)
    mean, _ = codec.encode(images(spatial_dims))
    with pytest.raises(RuntimeError, match="has not been measured"):
        codec.standardize(mean)


@dims
def test_decode_undoes_standardize(spatial_dims: int) -> None:
    codec = build(spatial_dims)
    codec.measure(posteriors(spatial_dims))
    z = 3 * torch.randn((2, 3, *(4,) * spatial_dims), generator=torch.Generator().manual_seed(1))
    latent = codec.standardize(z)
    assert (latent - z).abs().max() > 1
    torch.testing.assert_close(codec.decode(latent), codec.reconstruct(z), atol=1e-4, rtol=1e-4)


@dims
def test_a_checkpoint_keeps_the_scale(spatial_dims: int) -> None:
    codec = build(spatial_dims)
    codec.measure(posteriors(spatial_dims))
    other = build(spatial_dims, seed=1)
    other.load_state_dict(codec.state_dict())
    assert other.is_measured
    latent = torch.ones(1, 3, *(4,) * spatial_dims)
    assert torch.equal(other.standardize(latent), codec.standardize(latent))
    assert torch.equal(other.decode(latent), codec.decode(latent))


@dims
def test_fingerprint_is_that_of_the_weights_alone(spatial_dims: int) -> None:
    codec, same = build(spatial_dims), build(spatial_dims)
    before = codec.fingerprint()
    assert before == same.fingerprint()
    codec.measure(posteriors(spatial_dims))
    assert codec.fingerprint() == before
    for name, weight in codec.autoencoder.named_parameters():
        with torch.no_grad():
            original = weight.flatten()[0].item()
            weight.view(-1)[0] += 1e-3
            assert codec.fingerprint() != before, name
            weight.view(-1)[0] = original
    assert codec.fingerprint() == before


@dims
def test_checkpointing_changes_no_value_and_no_gradient(spatial_dims: int) -> None:
    gradients = []
    for checkpointing in (False, True):
        codec = build(spatial_dims, checkpointing=checkpointing).train()
        image = images(spatial_dims)
        mean, logvar = codec.encode(image)
        loss = (codec.reconstruct(mean) - image).square().mean() + logvar.square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        gradients.append([loss, *(p.grad for p in codec.autoencoder.parameters())])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_an_unmeasured_codec_decodes_nothing(spatial_dims: int) -> None:
    codec = LatentCodec(spatial_dims, (4, 8), 2, norm_num_groups=2)
    with pytest.raises(RuntimeError, match="has not been measured"):
        codec.decode(torch.zeros(1, 2, *(4,) * spatial_dims))
