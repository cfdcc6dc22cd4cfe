"""Adapter folders as files: what peft reads, what else may stand in them, and their checksums."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.patients import UNKNOWN_PATIENTS
from lightning_modules.core.folder_sums import SUMS, check_sums, write_sums

CONFIG, WEIGHTS, PATIENTS = "adapter_config.json", "adapter_model.safetensors", "patients.json"
BASE = "base.json"

READ = {"peft_type", "r", "lora_alpha", "target_modules"}
"""What an adapter's config says."""

SAID = {
    *("auto_mapping", "base_model_name_or_path", "inference_mode"),
    *("peft_version", "revision", "task_type"),
}
"""What it may say besides, which changes nothing here."""


def complete(folder: Path, patients: Sequence[str], base: str) -> None:
    """Put patients' keys and base into a folder that peft wrote, and checksums of all its files.

    Args:
        folder: with `CONFIG` and `WEIGHTS`.
        patients: keys of those that the adapter was trained on; none where they are not known.
        base: fingerprint of the network that it was trained on.
    """
    (folder / BASE).write_text(json.dumps({"unet": base}))
    (folder / PATIENTS).write_text(json.dumps(list(patients) or [UNKNOWN_PATIENTS]))
    write_sums(folder, [path.name for path in folder.iterdir()])


def check_folder(folder: Path) -> set[str]:
    """Check an adapter's files before peft reads them.

    Returns:
        Keys of the patients that it was trained on.

    Raises:
        FileNotFoundError: If the folder holds no adapter.
        ValueError: If a file is damaged, or the config asks for more than a rank, a factor and
            layers by their names: the rest of what peft reads changes what an adapter is, may be
            a regular expression, or names a module to import.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            message = f"{folder} holds no {name}: give a folder that an adapter run wrote."
            raise FileNotFoundError(message)
    if (folder / SUMS).is_file():  # another program's adapter has none
        check_sums(folder, "copy the folder again, or train the adapter again")
    _check_config(folder / CONFIG)
    return _patients(folder / PATIENTS)


def base_of(folder: Path) -> str | None:
    """Fingerprint of the network that an adapter was trained on; None where it is not said.

    Raises:
        ValueError: If the file is damaged.
    """
    path = folder / BASE
    if not path.is_file():
        return None
    said = _json(path)
    if not isinstance(said, dict) or not isinstance(said.get("unet"), str):
        message = f"{path} does not say an adapter's base: copy the adapter's folder again."
        raise ValueError(message)
    return str(said["unet"])


def _check_config(path: Path) -> None:
    from peft import LoraConfig

    config = _json(path)
    if not isinstance(config, dict) or not config.keys() >= READ or config["peft_type"] != "LORA":
        message = f"{path} is no config of a LoRA adapter: give a folder that an adapter run wrote."
        raise ValueError(message)
    rank, alpha, targets = config["r"], config["lora_alpha"], config["target_modules"]
    numbers = isinstance(rank, int) and rank > 0 and isinstance(alpha, int | float)
    if not numbers or not isinstance(targets, list) or not all(isinstance(t, str) for t in targets):
        message = (
            f"{path} has r {rank!r}, lora_alpha {alpha!r} and target_modules {targets!r:.80}: "
            "expected a whole number above 0, a number and a list of layers' names (a regular "
            "expression is not read)."
        )
        raise ValueError(message)
    usual = vars(LoraConfig())
    other = [
        name
        for name, value in config.items()
        if name not in READ | SAID and value and value != usual.get(name)
    ]
    if other:
        message = (
            f"{path} sets {', '.join(sorted(other)[:10])}, which is not read here: give an adapter "
            "with a rank, a factor and layers' names alone."
        )
        raise ValueError(message)


def _patients(path: Path) -> set[str]:
    if not path.is_file():
        return {UNKNOWN_PATIENTS}
    patients = _json(path)
    if not isinstance(patients, list) or not all(isinstance(p, str) and p for p in patients):
        message = f"{path} is no list of patients' keys: train the adapter again, or copy it again."
        raise ValueError(message)
    if not patients:
        message = (
            f"{path} is an empty list, as if nobody had been seen: train the adapter again, or "
            f"remove the file (and {SUMS}) if the patients are not known."
        )
        raise ValueError(message)
    return set(patients)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        message = f"{path} is no JSON ({error}): copy the adapter's folder again."
        raise ValueError(message) from error
