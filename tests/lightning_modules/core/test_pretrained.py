"""Weights from an installed package are those that they should be, and work."""

import shutil
from pathlib import Path

import pytest
import torch
from matplotlib import cbook
from PIL import Image
from torchvision.transforms.functional import normalize, to_tensor

from lightning_modules.core import pretrained
from lightning_modules.core.checkpoint_files import load_weights
from lightning_modules.core.features import TimmFeatures
from lightning_modules.core.pretrained import INSTALLED_MODEL, read_pretrained, weights_file

MILITARY_UNIFORM = 652
"""ImageNet's class of what the portrait wears."""


def test_installed_weights_know_imagenets_classes() -> None:
    import timm

    network = timm.create_model(INSTALLED_MODEL)
    last = list(load_weights(weights_file("installed")).values())[-2:]
    stored = read_pretrained(INSTALLED_MODEL, "installed")
    network.load_state_dict({**stored, "classifier.weight": last[0], "classifier.bias": last[1]})
    network.eval()
    portrait = Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    image = normalize(to_tensor(portrait.convert("RGB").resize((224, 224))), [0.5] * 3, [0.5] * 3)
    with torch.inference_mode():
        assert int(network(image[None]).argmax()) == MILITARY_UNIFORM


def test_features_of_installed_weights_tell_pictures_apart() -> None:
    extractor = TimmFeatures()
    stripes = (torch.arange(64) // 4 % 2).float().expand(1, 1, 64, 64)
    flat = torch.full((1, 1, 64, 64), 0.5)
    features = extractor(torch.cat([stripes, stripes.flip(3), flat]))
    assert features.shape == (3, extractor.width)
    similar, other = torch.cosine_similarity(features[:1], features[1:])
    assert similar > other + 0.1
    assert "57934424.pth, SHA-256 579344248a93e230" in extractor.provenance["weights"]


def test_other_weights_than_the_installed_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="are those of tf_efficientnet_lite0, not of resnet10t"):
        read_pretrained("resnet10t", "installed")
    path = tmp_path / "package" / pretrained.INSTALLED_FILE
    path.parent.mkdir(parents=True)
    (tmp_path / "package/__init__.py").touch()
    shutil.copy(weights_file("installed"), path)
    with path.open("r+b") as file:
        file.seek(10_000_000)
        file.write(b"changed")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(pretrained, "PACKAGE", "package")
    with pytest.raises(ValueError, match="is not the file that it should be"):
        read_pretrained(INSTALLED_MODEL, "installed")
    monkeypatch.setattr(pretrained, "PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match=r"pip install noduleforge\[pretrained\]"):
        TimmFeatures()
