"""Exported models as folders: weights as safetensors, what they are as JSON, and checksums."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_modules.core.adapters import PREFIX
from lightning_modules.core.folder_sums import SUMS, check_sums, write_sums

LAYOUT = 1
"""Number of the folders' layout; a folder with a higher one is refused."""

CONFIG, WEIGHTS, BANK = "config.json", "model.safetensors", "histogram_bank.safetensors"

AVERAGED = "ema.module."
"""What stands before the averaged network's weights in a checkpoint; `NETWORK` in a folder."""

NETWORK = "denoiser."
CODEC = "codec."

CONTENTS = "._extra_state"
"""Ends the name of what a histogram bank holds, in a checkpoint."""

MEND = "copy the folder again, or export the model again"


def write_model(folder: Path, checkpoint: Mapping[str, Any], version: str) -> None:
    """Write a diffusion model's averaged weights, the base's alone where it has adapters.

    Args:
        folder: to write into; it exists.
        checkpoint: of `read_checkpoint`.
        version: of noduleforge.
    """
    from safetensors.torch import save

    weights: dict[str, Tensor] = {}
    bank: dict[str, Tensor] = {}
    texts: dict[str, str] = {}
    for name, value in checkpoint["state_dict"].items():
        if not name.startswith((CODEC, AVERAGED)) or ".lora_" in name:
            continue
        name = name.replace(AVERAGED, NETWORK, 1)
        name = name.replace(f".{PREFIX}", ".").replace(".base_layer.", ".")
        if isinstance(value, Tensor):
            weights[name] = value.contiguous()
            continue
        place = name.removesuffix(CONTENTS)
        texts[f"{place}.patients"] = json.dumps(value["patients"])
        bank |= {f"{place}.{kind}": value[kind] for kind in ("histograms", "subtypes", "measures")}
        bank |= {f"{place}.ratings.{name}": known for name, known in value["ratings"].items()}
    files = [WEIGHTS, *([BANK] if bank else [])]
    (folder / WEIGHTS).write_bytes(save(weights, {"format": "pt"}))
    if bank:
        (folder / BANK).write_bytes(save(bank, texts))
    said = {"layout": LAYOUT, "version": version, "files": files, **checkpoint["noduleforge"]}
    (folder / CONFIG).write_text(json.dumps(said, indent=1) + "\n")
    write_sums(folder, [CONFIG, *files])


def read_model(folder: Path) -> dict[str, Any]:
    """Read an exported model as `read_checkpoint` does a checkpoint: its part for synthesis.

    Raises:
        FileNotFoundError: If the folder holds no exported model, or not all of it.
        ValueError: If it is damaged, was changed, or has a newer layout.
    """
    from safetensors.torch import load_file

    said = _said(folder)
    listed = check_sums(folder, MEND) if (folder / SUMS).is_file() else set()
    for name in (CONFIG, *said["files"]):
        if name not in listed:
            message = f"{folder} lacks {name}, or {SUMS} does not list it: {MEND}."
            raise FileNotFoundError(message)
    state: dict[str, Any] = load_file(folder / WEIGHTS)
    if BANK in said["files"]:
        state |= _banks(folder / BANK)
    named = {name.replace(NETWORK, AVERAGED, 1): value for name, value in state.items()}
    return {"state_dict": named, "noduleforge": said}


def _said(folder: Path) -> dict[str, Any]:
    """What a folder says of its model."""
    path = folder / CONFIG
    if not path.is_file():
        message = (
            f"{folder} holds no {CONFIG}: give a checkpoint, or a folder of `noduleforge export`."
        )
        raise FileNotFoundError(message)
    try:
        said: dict[str, Any] = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        message = f"{path} is no JSON ({error}): {MEND}."
        raise ValueError(message) from error
    layout = said.get("layout") if isinstance(said, dict) else None
    if not isinstance(layout, int) or not isinstance(said.get("files"), list):
        message = f"{path} does not describe a model of noduleforge: {MEND}."
        raise ValueError(message)
    if layout > LAYOUT:
        message = (
            f"{folder} has the layout {layout}, written by noduleforge {said.get('version')}, but "
            f"this version reads layouts up to {LAYOUT}: install a newer noduleforge."
        )
        raise ValueError(message)
    return said


def _banks(path: Path) -> dict[str, Any]:
    """What histogram banks hold, as it stands in a checkpoint."""
    from safetensors import safe_open

    state: dict[str, Any] = {}
    with safe_open(path, "pt") as file:
        for name, text in (file.metadata() or {}).items():
            place = name.removesuffix(".patients")
            ratings = f"{place}.ratings."
            own = [key for key in file.keys() if key.startswith(f"{place}.")]  # noqa: SIM118
            state[place + CONTENTS] = {
                "patients": json.loads(text),
                "ratings": {
                    key.removeprefix(ratings): file.get_tensor(key)
                    for key in own
                    if key.startswith(ratings)
                },
                **{
                    key.removeprefix(f"{place}."): file.get_tensor(key)
                    for key in own
                    if not key.startswith(ratings)
                },
            }
    return state
