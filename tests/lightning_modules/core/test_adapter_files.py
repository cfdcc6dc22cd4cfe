"""What stands in an adapter's folder is checked before it is read."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from adapted import build, with_two

from lightning_modules.core.adapters import check_bases, load_adapter, save_adapter


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "adapter"
    save_adapter(with_two(), "irregular", folder, ["patient"])
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """An adapter whose files may be changed."""
    return shutil.copytree(written, tmp_path / "copied")


def test_a_folder_names_its_layers_and_its_patients(folder: Path) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    assert isinstance(config["target_modules"], list)
    assert load_adapter(build(), "a", folder) == {"patient"}
    (folder / "patients.json").unlink()
    with pytest.raises(ValueError, match=r"patients\.json is missing or differs from its checksum"):
        load_adapter(build(), "a", folder)
    (folder / "SHA256SUMS").unlink()  # as another program's
    assert load_adapter(build(), "a", folder) == {"unknown"}


def test_an_adapter_knows_its_base_in_any_precision(folder: Path) -> None:
    folders = {"irregular": folder}
    check_bases(build(), folders)
    network = with_two()
    check_bases(network, folders)
    check_bases(network.to(torch.bfloat16), folders)
    other = build()
    next(other.unet.parameters()).data[:] *= 1.1
    with pytest.raises(ValueError, match=r"adapter irregular in .* was trained on another base"):
        check_bases(other, folders)
    (folder / "base.json").write_text("[]")
    with pytest.raises(ValueError, match=r"base\.json does not say an adapter's base"):
        check_bases(other, folders)
    (folder / "base.json").unlink()  # as another program's
    check_bases(other, folders)


def test_patients_that_are_not_known_are_not_nobody(tmp_path: Path) -> None:
    save_adapter(with_two(), "irregular", tmp_path / "a", [])
    assert load_adapter(build(), "a", tmp_path / "a") == {"unknown"}


def flip(content: bytes) -> bytes:
    return content[:-5] + bytes([content[-5] ^ 4]) + content[-4:]


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "adapter_model.safetensors", "patients.json"]
)
def test_a_flipped_bit_is_refused(name: str, folder: Path) -> None:
    (folder / name).write_bytes(flip((folder / name).read_bytes()))
    with pytest.raises(ValueError, match=rf"{name} is missing or differs from its checksum"):
        load_adapter(build(), "a", folder)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("adapter_model.safetensors", b"", "is damaged or cut short"),
        ("adapter_model.safetensors", b"\xff" * 99, "is damaged or cut short"),
        ("adapter_config.json", b"{", "is no JSON"),
        ("adapter_config.json", b'{"r": "\xff"}', "is no JSON"),
        ("adapter_config.json", b"[]", "is no config of a LoRA adapter"),
        ("adapter_config.json", b'{"peft_type": "LORA"}', "is no config of a LoRA adapter"),
        ("patients.json", b"[]", "is an empty list, as if nobody had been seen"),
        ("patients.json", b"{}", "is no list of patients' keys"),
        ("patients.json", b"[1]", "is no list of patients' keys"),
        ("patients.json", b'["a"', "is no JSON"),
        ("patients.json", b"\xfe\xff", "is no JSON"),
    ],
)
def test_damage_is_one_sentence(name: str, content: bytes, said: str, folder: Path) -> None:
    (folder / "SHA256SUMS").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} {said}"):
        load_adapter(build(), "a", folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target_modules": "(a+)+b"}, "a regular expression is not read"),
        ({"target_modules": [1]}, "a list of layers' names"),
        ({"r": -1}, "a whole number above 0"),
        ({"r": "8"}, "a whole number above 0"),
        ({"exclude_modules": "(a+)+b"}, "sets exclude_modules"),
        ({"rank_pattern": {"(a+)+b": 2}}, "sets rank_pattern"),
        ({"megatron_config": {"a": 1}, "megatron_core": "trap"}, "sets megatron_config, megatron_"),
        ({"use_rslora": True}, "sets use_rslora"),
        ({"something_new": True}, "sets something_new"),
        ({"peft_type": "IA3"}, "is no config of a LoRA adapter"),
    ],
)
def test_only_a_rank_a_factor_and_names_are_read(
    change: dict[str, object], said: str, folder: Path
) -> None:
    (folder / "SHA256SUMS").unlink()
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=said):
        load_adapter(build(), "a", folder)


def test_missing_weights_are_not_looked_for_elsewhere(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(FileNotFoundError, match=r"holds no adapter_model\.safetensors"):
        load_adapter(build(), "a", folder)
