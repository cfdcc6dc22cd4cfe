"""Model cards, filled in from what a run knows: counts and figures, nobody's identity."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from huggingface_hub import EvalResult, ModelCardData
from torch import Tensor

from datamodules.patients import UNKNOWN_PATIENTS
from datamodules.tables import check_numbers, read_table
from lightning_modules.core.checkpoint_files import part_of, patients_of
from lightning_modules.core.description import build_codec
from noduleforge.evaluation.runs import FIGURE, GENERATION

FLOOR = "floor/"
"""Begins the name of a figure that is taken between real nodules alone."""

REALISM = "realism.csv"
"""The table of `noduleforge realism`."""

MODALITY = {2: "chest radiographs", 3: "chest CT"}

LIMITS = """\
## Limits

- The figures above hold for the data that they were measured on, and for nodules like those that
  the model was trained on; other scanners, populations, sizes and places may do worse.
- A nodule is synthesized in its region of interest alone; nothing around it (effusion, lymph
  nodes, other nodules) changes with it.
- Synthetic nodules can show something of training nodules: `noduleforge memorization` looks for
  copies.
- Whether a classifier tells synthetic nodules from real ones says nothing of what a radiologist
  sees.
- No radiologist has judged these nodules unless this card says so.

## Intended use

Research: training and testing of algorithms with more, rarer or paired nodules, always beside real
data. Not for diagnosis, not for decisions about patients, not to pass synthetic images off as real
ones: what noduleforge writes is marked as synthetic, and the mark is to stay.
"""


class Measured(NamedTuple):
    """A figure of a run.

    Attributes:
        split: whose nodules.
        metric: its metric.
        figure: its name.
        value: of the figure.
        samples: number of nodules.
        provenance: what the metric depends on.
    """

    split: str
    metric: str
    figure: str
    value: float
    samples: int
    provenance: str

    @property
    def is_whole(self) -> bool:
        """Whether it is a number, of all nodules, and not one of real nodules alone."""
        named = "/" not in self.figure or self.figure.endswith("/all")
        return named and bool(np.isfinite(self.value)) and not self.figure.startswith(FLOOR)


def model_card(
    name: str,
    run: Path,
    checkpoint: Mapping[str, Any],
    realism: Path,
    licence: Path | None,
) -> str:
    """The card of an exported model.

    Args:
        name: of the model.
        run: the run's folder; its `generation.csv` has the figures.
        checkpoint: of `read_checkpoint`.
        realism: folder of `noduleforge realism`, which may be missing.
        licence: text of the weights' licence; None for Apache-2.0.
    """
    said = checkpoint["noduleforge"]
    modality = MODALITY[len(said["roi_size"])]
    figures = _figures(run / GENERATION)
    results = [
        EvalResult(
            task_type="image-to-image",
            dataset_type="private",
            dataset_name=f"nodules of the {one.split} split, {modality}",
            metric_type=f"{one.metric}/{one.figure}",
            metric_value=one.value,
        )
        for one in figures
        if one.is_whole
    ]
    data = ModelCardData(
        **_licence(licence),
        library_name="noduleforge",
        tags=["noduleforge", "monai", "medical", "lung-nodule", "latent-diffusion", "synthetic"],
        model_name=name,
        eval_results=results or None,
    )
    return f"""---
{data.to_yaml()}
---
# {name}

A latent diffusion model that puts lung nodules into {modality}: where a mask says, around what is
there, and beyond the nodule's margin nothing changes. Exported by noduleforge
{version("noduleforge")}.

## Use

```
pip install 'noduleforge[bundle]'
```

```python
from lightning_modules.core.synthesizer import Synthesizer

synthesizer = Synthesizer.load("{name}")
# a batch of a data module with roi=synthesizer.roi
synthesis = synthesizer(synthesizer.with_histograms(batch))
```

Into whole studies, by a table of requests with `study`, a position, `diameter_mm` and, in CT,
`subtype`:

```
python -m monai.bundle run --config_file {name}/configs/inference.json --bundle_root {name} \\
    --requests requests.csv --output_dir OUT
```

`model.init_args.init_from: {name}` in a config of noduleforge starts a new training from it.

{_model_section(said, checkpoint)}
{_training_section(said, checkpoint)}
{_figures_section(figures)}
{_realism_section(realism)}
{LIMITS}
{_licence_section(licence)}"""


def adapter_card(
    name: str,
    run: Path,
    checkpoint: Mapping[str, Any],
    adapters: Sequence[str],
    licence: Path | None,
) -> str:
    """The card of exported adapters.

    Args:
        name: of the folder.
        run: the run's folder.
        checkpoint: of `read_checkpoint`.
        adapters: their names.
        licence: text of the weights' licence; None for Apache-2.0.
    """
    data = ModelCardData(
        **_licence(licence),
        library_name="peft",
        tags=["noduleforge", "lora", "medical", "lung-nodule", "synthetic"],
        model_name=name,
    )
    first = adapters[0]
    said = checkpoint["noduleforge"]
    return f"""---
{data.to_yaml()}
---
# {name}

Low-rank adapters ({", ".join(adapters)}) of a latent diffusion model that puts lung nodules into
{MODALITY[len(said["roi_size"])]}, each for one characteristic. Exported by noduleforge
{version("noduleforge")}.

## Use

They belong on the base that they were trained on, which is exported by itself, here as `BASE`:

```python
from lightning_modules.core.synthesizer import Synthesizer

adapters = {{"{first}": "{name}/{first}"}}
synthesizer = Synthesizer.load("BASE", adapters, strengths={{"{first}": 1.0}})
```

or with peft alone, on the base's UNet:

```python
from peft import PeftModel

base = Synthesizer.load("BASE").network.unet
unet = PeftModel.from_pretrained(base, "{name}/{first}")
```

{_training_section(said, checkpoint)}
{_figures_section(_figures(run / GENERATION))}
{LIMITS}
{_licence_section(licence)}"""


def _licence(path: Path | None) -> dict[str, Any]:
    """What the head of a card says of the licence."""
    if path is None:
        return {"license": "apache-2.0"}
    return {"license": "other", "license_name": path.stem, "license_link": "LICENSE"}


def _licence_section(path: Path | None) -> str:
    named = "Apache-2.0" if path is None else path.stem
    return f"""## Licence

The weights are under {named} (`LICENSE`). The data that they were trained on have terms of their
own, which whoever gives them away has to keep: name the data here.
"""


def _model_section(said: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> str:
    with torch.device("meta"):
        codec = build_codec(said["synthesizer"])
    millions = [_millions(part_of(checkpoint, prefix)) for prefix in ("codec.", "ema.module.")]
    rows = {
        "region of interest": f"{said['roi_size']} voxels of {said['roi_spacing_mm']} mm",
        "intensity window": said["window"],
        "margin around a nodule": f"{said['margin_voxels']} voxels",
        "compression": f"{codec.compression}x, {codec.latent_channels} channels",
        "conditions": ", ".join(said["synthesizer"]["conditioners"]),
        "sampling": ", ".join(f"{k} {v}" for k, v in said["synthesizer"]["sampling"].items()),
        "autoencoder": f"{millions[0]:.2f} million parameters",
        "denoiser": f"{millions[1]:.2f} million parameters",
    }
    return "## Model\n\n" + _table(["", ""], list(rows.items()))


def _millions(weights: Mapping[str, Any]) -> float:
    return sum(value.numel() for value in weights.values() if isinstance(value, Tensor)) / 1e6


def _training_section(said: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> str:
    patients = patients_of(checkpoint)
    seen = "not known" if UNKNOWN_PATIENTS in patients else len(patients)
    nodules = said.get("training_data", {"train": "not recorded"})
    rows = {
        "nodules": "; ".join(nodules.values()),
        "patients, those of earlier stages included": seen,
        "steps": checkpoint.get("global_step", "not recorded"),
        "data fingerprint": f"`{said['data_fingerprint']}`",
    }
    return "## Training\n\n" + _table(["", ""], list(rows.items()))


def _figures(path: Path) -> list[Measured]:
    """The last figures of a run, on the test split if it has them; none where it has no table."""
    if not path.is_file():
        return []
    table = read_table(path, required=(*FIGURE, "samples", "provenance"))
    check_numbers(table, ["value"], path, finite=False)
    for split in ("test", "val"):
        part = table[table["split"] == split]
        if len(part):
            last = part[part["step"] == part["step"].iloc[-1]]
            rows = last[list(Measured._fields)].to_numpy().tolist()
            return [Measured(*row) for row in rows]
    return []


def _figures_section(figures: Sequence[Measured]) -> str:
    title = "## Figures\n\n"
    if not figures:
        return f"{title}Not measured: `lightning test` with `GenerationMetrics` does.\n"
    values = {(one.metric, one.figure): f"{one.value:.4g}" for one in figures}
    rows = [
        (metric, figure, value, values.get((metric, FLOOR + figure), ""))
        for (metric, figure), value in values.items()
        if not figure.startswith(FLOOR)
    ]
    hows = {one.metric: one.provenance for one in figures}
    measured = "".join(f"- {metric}: {how}\n" for metric, how in hows.items())
    return f"""{title}On {figures[0].samples} nodules of the {figures[0].split} split. A floor is
the same figure between real nodules and as many other real ones: what a perfect generator gets.

{_table(["metric", "figure", "value", "floor"], rows)}
{measured}"""


def _realism_section(folder: Path) -> str:
    title = "## Can they be told from real ones?\n\n"
    path = folder / REALISM
    if not path.is_file():
        return f"{title}Not measured: `noduleforge realism` does.\n"
    columns = ["group", "real", "synthetic", "auc", "low", "high"]
    rows = [
        (group, real, synthetic, f"{auc:.3f} ({low:.3f} to {high:.3f})")
        for group, real, synthetic, auc, low, high in read_table(path, required=columns)[columns]
        .to_numpy()
        .tolist()
    ]
    return f"""{title}The area under the ROC curve, with its 95 % interval, of a classifier that was
given figures of texture and rim, on patients that it had not seen; 0.5 says that it cannot.

{_table(["group", "real", "synthetic", "AUC"], rows)}"""


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
