"""Paths in checkpoints: relative to the checkpoint's folder, so that they tell nobody's name."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")
"""Where `ModelCheckpoint` remembers files in its state, which is `dirpath` and these."""


def relative(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint in which callbacks remember their files relative to their folder.

    Args:
        checkpoint: as Lightning gives it, with absolute paths; it stays as it is.
    """
    return _moved(checkpoint, lambda path, folder: os.path.relpath(path, folder), "")


def absolute(checkpoint: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A checkpoint in which callbacks remember their files where it lies now.

    Args:
        checkpoint: of `relative`.
        folder: of its file.
    """
    here = os.path.realpath(folder)  # as ModelCheckpoint writes its own
    return _moved(checkpoint, lambda path, _: os.path.normpath(os.path.join(here, path)), here)


def _moved(
    checkpoint: Mapping[str, Any], move: Callable[[str, str], str], folder: str
) -> dict[str, Any]:
    def of_callback(state: Any) -> Any:
        if not isinstance(state, Mapping) or "dirpath" not in state:
            return state
        before = str(state["dirpath"] or "")
        paths = {name: move(p, before) if (p := state.get(name)) else p for name in PATHS}
        best = {move(path, before): score for path, score in state["best_k_models"].items()}
        return {**state, **paths, "best_k_models": best, "dirpath": folder}

    states = checkpoint.get("callbacks", {})
    moved = {name: of_callback(state) for name, state in states.items()}
    return {**checkpoint, "callbacks": moved} if moved else dict(checkpoint)
