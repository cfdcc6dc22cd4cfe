"""A run's model in a folder of its own, with what others need to use and to judge it."""

import shutil
from importlib.metadata import distribution, version
from pathlib import Path

from datamodules.io.whole_files import new_folder
from lightning_modules.core.adapter_files import check_folder
from lightning_modules.core.checkpoint_files import read_checkpoint
from lightning_modules.core.model_folder import write_model
from noduleforge.export.bundle import write_bundle
from noduleforge.export.card import REALISM, adapter_card, model_card

ADAPTERS = "adapters"
"""Where a run writes its adapters."""


def export(
    run: Path,
    out: Path,
    checkpoint: str = "last.ckpt",
    licence: Path | None = None,
    realism: Path | None = None,
) -> None:
    """Write a diffusion model that was trained, or adapters, as a folder for others.

    A model's folder has its averaged weights as safetensors, `config.json` with what they are,
    the histograms of training nodules, checksums, `LICENSE`, a model card (`README.md`) and
    `configs`, by which it is a MONAI bundle. `Synthesizer.load` and `model.init_args.init_from`
    take it, and huggingface_hub's `upload_folder` expects such a one. Of a run with adapters these
    are written, each in a folder that peft reads, with a card for all; their base has a run of its
    own. What is said of patients are counts, and keys that nobody can read without the site's
    secret.

    Args:
        run: the run's folder.
        out: folder to write, which must not exist.
        checkpoint: name of the checkpoint in the run's `checkpoints`.
        licence: text of the licence that the weights are under; by default noduleforge's own,
            Apache-2.0.
        realism: folder that `noduleforge realism` wrote about this model's nodules; by default
            `realism` in the run.

    Raises:
        FileNotFoundError: If the run lacks the checkpoint or its config, or `realism` its table.
        FileExistsError: If there is something at `out`.
        ValueError: If the checkpoint is not one of a diffusion model.
    """
    path = run / "checkpoints" / checkpoint
    stored = read_checkpoint(path)
    if "synthesizer" not in stored.get("noduleforge", {}):
        message = f"The checkpoint {path} is not one of a diffusion model: give a run of stage 2."
        raise ValueError(message)
    if realism is not None and not (realism / REALISM).is_file():
        message = f"{realism} holds no {REALISM}: give a folder that `noduleforge realism` wrote."
        raise FileNotFoundError(message)
    realism = realism or run / "realism"
    adapters = sorted(folder for folder in (run / ADAPTERS).glob("*") if folder.is_dir())
    with new_folder(out) as folder:
        if adapters:
            for adapter in adapters:
                check_folder(adapter)
                shutil.copytree(adapter, folder / adapter.name)
            text = adapter_card(out.name, run, stored, [a.name for a in adapters], licence)
        else:
            write_model(folder, stored, version("noduleforge"))
            write_bundle(folder, run, stored["noduleforge"])
            text = model_card(out.name, run, stored, realism, licence)
        (folder / "README.md").write_text(text)
        (folder / "LICENSE").write_text(licence_text(licence))
    print(f"Exported: {out}; read {out / 'README.md'} before you give it away")


def licence_text(path: Path | None) -> str:
    """The text of a licence; noduleforge's own where none is given."""
    if path is not None:
        return path.read_text("utf-8")
    return distribution("noduleforge").read_text("licenses/LICENSE") or "Apache-2.0\n"
