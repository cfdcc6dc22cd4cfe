"""Codecs of others: their own networks' answers, from files of their own forms."""

import json
from pathlib import Path

import pytest
import torch
from codec_files import MAISI_SIZES, write_diffusers, write_maisi
from torch import Tensor

from datamodules.patients import UNKNOWN_PATIENTS
from lightning_modules.core.pretrained_codecs import DiffusersCodec, MaisiCodec
from lightning_modules.core.window import IntensityWindow


def images(spatial_dims: int, side: int = 8) -> Tensor:
    stream = torch.Generator().manual_seed(0)
    return 2 * torch.rand((2, 1, *(side,) * spatial_dims), generator=stream) - 1


@torch.no_grad()
def test_a_grey_image_goes_into_three_channels_and_comes_out_of_them(tmp_path: Path) -> None:
    network = write_diffusers(tmp_path / "vae")
    codec = DiffusersCodec(tmp_path / "vae").eval()
    codec.load_pretrained()
    image = images(2)
    mean, logvar = codec.encode(image)
    theirs = network.encode(image.repeat(1, 3, 1, 1)).latent_dist
    assert torch.equal(mean, theirs.mean)
    assert torch.equal(logvar, theirs.logvar)
    output = network.decode(mean).sample
    assert output.shape == (2, 3, 8, 8)
    torch.testing.assert_close(codec.reconstruct(mean), output.mean(1, keepdim=True))
    assert (codec.compression, codec.latent_channels, codec.spatial_dims) == (2, 4, 2)
    assert codec.patients == frozenset()


@pytest.mark.parametrize(
    ("settings", "scale", "shift"),
    [
        ({}, [0.18215] * 4, [0.0] * 4),
        ({"scaling_factor": 0.5, "shift_factor": 0.1}, [0.5] * 4, [0.1] * 4),
        (
            {"latents_mean": [0.0, 1.0, 2.0, 3.0], "latents_std": [1.0, 2.0, 4.0, 8.0]},
            [1, 0.5, 0.25, 0.125],
            [0, 1, 2, 3],
        ),
    ],
)
def test_the_scale_is_that_of_the_config(
    tmp_path: Path, settings: dict[str, object], scale: list[float], shift: list[float]
) -> None:
    write_diffusers(tmp_path / "vae", **settings)
    codec = DiffusersCodec(tmp_path / "vae")
    assert not codec.is_measured  # the weights are not there either
    codec.load_pretrained()
    torch.testing.assert_close(codec.scale_factor, torch.tensor(scale, dtype=torch.float32))
    torch.testing.assert_close(codec.shift, torch.tensor(shift, dtype=torch.float32))


def test_one_of_the_same_settings_needs_no_folder(tmp_path: Path) -> None:
    write_diffusers(tmp_path / "vae")
    codec = DiffusersCodec(tmp_path / "vae")
    codec.load_pretrained()
    settings = json.loads(json.dumps(codec.settings))
    other = DiffusersCodec(**settings)
    other.load_state_dict(codec.state_dict())
    assert other.fingerprint() == codec.fingerprint()
    with pytest.raises(ValueError, match=r"set codec\.init_args\.folder"):
        other.load_pretrained()
    with pytest.raises(ValueError, match=r"needs a folder or a config"):
        DiffusersCodec()
    wrong = {**settings["config"], "layers_per_block": 2}
    with pytest.raises(ValueError, match=r"not of codec\.init_args\.config: leave it out"):
        DiffusersCodec(tmp_path / "vae", wrong).load_pretrained()


@torch.no_grad()
def test_maisi_sees_its_own_range(tmp_path: Path) -> None:
    network = write_maisi(tmp_path / "autoencoder.pt")
    codec = MaisiCodec(tmp_path / "autoencoder.pt", **MAISI_SIZES).eval()
    codec.load_pretrained()
    window = IntensityWindow(-1000, 400)
    codec.see(window)
    image = images(3)
    theirs = (window.denormalize(image) + 1000) / 2000
    mean, sigma = network.encode(theirs)
    ours, logvar = codec.encode(image)
    torch.testing.assert_close(ours, mean)
    torch.testing.assert_close(torch.exp(0.5 * logvar), sigma)
    hu = network.decode(mean) * 2000 - 1000
    output = codec.reconstruct(ours)
    torch.testing.assert_close((output + 1) / 2 * 1400 - 1000, hu, rtol=1e-4, atol=1e-2)
    assert codec.compression == 2
    assert codec.patients == {UNKNOWN_PATIENTS}
    with pytest.raises(ValueError, match=r"-1000, 2000.*sees -1000 to 1000 HU"):
        codec.see(IntensityWindow(-1000, 2000))


def test_maisi_is_of_its_published_size() -> None:
    with torch.device("meta"):
        codec = MaisiCodec()
    assert sum(p.numel() for p in codec.parameters()) == 20_944_897
    assert len(codec.autoencoder.state_dict()) == 130


@pytest.mark.parametrize("named", [False, True])
def test_maisi_reads_either_form(tmp_path: Path, named: bool) -> None:
    network = write_maisi(tmp_path / "a.pt", named=named)
    codec = MaisiCodec(tmp_path / "a.pt", **MAISI_SIZES)
    codec.load_pretrained()
    for name, value in network.state_dict().items():
        assert torch.equal(codec.autoencoder.state_dict()[name], value)


def spoil_class(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_class_name": "AutoencoderTiny"}))


def spoil_size(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "layers_per_block": 2}))


def spoil_width(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "latent_channels": 3}))


def cut(folder: Path) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "kind", "said"),
    [
        (spoil_class, ValueError, "'AutoencoderTiny', expected AutoencoderKL"),
        (lambda f: (f / "config.json").unlink(), FileNotFoundError, "config.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), ValueError, "is no JSON"),
        (lambda f: (f / "config.json").rename(f / "c.json"), FileNotFoundError, "is missing"),
        (spoil_size, ValueError, "not those of its config"),
        (spoil_width, ValueError, "copy it again"),
        (cut, ValueError, "copy it again"),
        (
            lambda f: (f / "diffusion_pytorch_model.safetensors").unlink(),
            FileNotFoundError,
            "expected diffusion_pytorch_model",
        ),
    ],
)
def test_a_faulty_folder_is_refused(tmp_path: Path, spoil, kind, said) -> None:  # noqa: ANN001
    write_diffusers(tmp_path / "vae")
    spoil(tmp_path / "vae")
    with pytest.raises(kind, match=said):
        DiffusersCodec(tmp_path / "vae").load_pretrained()


def test_the_folder_of_a_whole_pipeline_is_pointed_into(tmp_path: Path) -> None:
    write_diffusers(tmp_path / "sd/vae")
    with pytest.raises(FileNotFoundError, match=r"give .*sd/vae"):
        DiffusersCodec(tmp_path / "sd")


def test_faulty_weights_of_maisi_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with pytest.raises(FileNotFoundError, match="are not a file"):
        MaisiCodec(path, **MAISI_SIZES).load_pretrained()
    write_maisi(path)
    with pytest.raises(ValueError, match=r"not those of MAISI.*channels \[4, 16\]"):
        MaisiCodec(path, **{**MAISI_SIZES, "channels": [4, 16]}).load_pretrained()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged or cut short"):
        MaisiCodec(path, **MAISI_SIZES).load_pretrained()
