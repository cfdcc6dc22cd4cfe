"""A network that tells real from synthetic nodules, as one more reader of a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datamodules.batch import Roi
from datamodules.collections import NoduleCollection
from datamodules.io.whole_files import written_whole
from datamodules.progress import Progress
from lightning_modules.core.features import FeatureExtractor, TimmStatistics
from lightning_modules.core.pretrained import INSTALLED_MODEL, Weights
from noduleforge.evaluation.bootstrap import interval
from noduleforge.evaluation.realism import area_told_apart, linear, told_apart
from noduleforge.readers.answers import MACHINE, Answer, Answers
from noduleforge.readers.pairing import all_pairs
from noduleforge.readers.sources import Source, read_source
from noduleforge.readers.study import Study, read_study
from noduleforge.readers.tasks import STEPS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH = 16

SHOWN = 10
"""Synthetic nodules that are drawn."""


def machine(
    study: Path,
    real: NoduleCollection | Path,
    synthetic: NoduleCollection | Path,
    baselines: Sequence[Path] = (),
    encoder: str = INSTALLED_MODEL,
    weights: Weights = "installed",
) -> None:
    """Let a network judge what readers are to judge, before anybody is asked.

    A pretrained network describes what readers see by the statistics of its stages
    (`TimmStatistics`); a linear classifier learns on all pairs of alike nodules of the data sets,
    and judges each patient by what it learned on others. An area under the ROC curve (AUC) of 0.5
    says that it cannot tell them apart; that a better network, or a reader, could not either is not
    said.

    Writes `machine.csv` (AUC with 95 % intervals over patients, of the synthetic nodules and of
    the baselines) and `machine.png` (the synthetic nodules that gave themselves away most), and
    answers the study's tasks `real` and `pairs`, as a reader who is named as no person.

    Args:
        study: folder of `noduleforge readers new`.
        real: the data set of real nodules that it was made of.
        synthetic: that of synthetic ones.
        baselines: other synthetic data sets, such as of copy-paste, to stand beside.
        encoder: timm's name of the network.
        weights: its weights: a file, or `installed`, for those of the extra `pretrained`.

    Raises:
        FileNotFoundError: If data or weights are missing.
        ValueError: If there are nodules of fewer than five patients, or cases of the study are not
            in the data sets.
    """
    known = read_study(study)
    settings = known.settings
    roi = Roi(settings.shape, settings.spacing_mm)
    features = TimmStatistics(encoder, weights)
    ours = read_source(real, roi, "real")
    rows, judged = [], pd.DataFrame()
    for number, given in enumerate((synthetic, *baselines)):
        name = "synthetic" if number == 0 else str(given)
        theirs = read_source(given, roi, name)
        table, images = _both(ours, theirs, settings.window)
        kinds, patients = table["synthetic"].to_numpy(bool), table["patient_id"].tolist()
        said = told_apart(_describe(images, features, name), kinds, patients, linear)
        area = area_told_apart(said, kinds, patients)
        low, high = interval(area.draws)
        row = {"set": name, "auc": area.value, "low": low, "high": high}
        rows.append({**row, "pairs": len(table) // 2, "patients": table["patient_id"].nunique()})
        if number == 0:
            judged = table.assign(probability=said)
            with written_whole(study / "machine.png") as path:
                _draw(judged, images).savefig(path, dpi=110)
    result = pd.DataFrame(rows)
    with written_whole(study / "machine.csv") as path:
        result.to_csv(path, index=False, float_format="%.4g")
    Answers(study).replace(MACHINE, _answers(known, judged))
    print(result.to_string(index=False, float_format="{:.3g}".format))
    print(f"See {study / 'machine.png'}; `noduleforge readers report {study}` has its answers.")


def _both(
    real: Source, synthetic: Source, window: tuple[float, float]
) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    """All pairs as one table, real ones first, and their pictures from 0 to 1."""
    pairs = all_pairs(real.table, synthetic.table)
    parts, images = [], []
    low, high = window
    for source, kind in ((real, "real"), (synthetic, "synthetic")):
        rows = source.table.iloc[pairs[kind]]
        parts.append(rows.assign(synthetic=kind == "synthetic"))
        images += [np.rint(source.read(row).image.array.clip(low, high)) for row in rows["row"]]
    scaled = (np.stack(images) - low) / (high - low)
    return pd.concat(parts, ignore_index=True), scaled.astype(np.float32)


def _describe(
    images: NDArray[np.float32], features: FeatureExtractor, name: str
) -> NDArray[np.float64]:
    """Features `(N, D)`; of volumes the mean of the three middle planes'."""
    import torch

    found = []
    with torch.inference_mode():
        batches = torch.split(torch.from_numpy(images)[:, None], BATCH)
        for batch in Progress(batches, desc=f"features of {name}", unit="batch"):
            found.append(features.mean_view(batch))
    described: NDArray[np.float64] = torch.cat(found).double().numpy()
    return described


def _answers(study: Study, judged: pd.DataFrame) -> list[Answer]:
    """What it says of the study's cases.

    Raises:
        ValueError: If a case is not among the nodules that were judged.
    """
    kinds = np.where(judged["synthetic"], "synthetic", "real")
    said = dict(zip(zip(kinds, judged["name"], strict=True), judged["probability"], strict=True))
    found: list[Answer] = []
    for row in study.cases.to_dict("records"):
        if row["task"] not in ("real", "pairs"):
            continue
        names = str(row["nodules"]).split()
        wanted = ("real", "synthetic") if row["task"] == "pairs" else (str(row["kind"]),)
        keys = list(zip(wanted, names, strict=True))
        if missing := [name for key, name in zip(keys, names, strict=True) if key not in said]:
            message = (
                f"Case {row['case']} shows {missing[0]}, which is in no pair of the data sets: "
                "give the data sets that the study was made of"
            )
            raise ValueError(message)
        if row["task"] == "real":
            surely = said[keys[0]]
            answer = {"kind": "synthetic" if surely > 0.5 else "real"}
            sure = abs(2 * surely - 1)
        else:
            first, second = (said[key] for key in keys)
            answer = {"choice": "0" if first < second else "1"}
            sure = abs(first - second)
        answer["confidence"] = str(min(int(sure * STEPS) + 1, STEPS))
        found.append(Answer(MACHINE, int(row["case"]), len(found), answer, 0))
    return found


def _draw(judged: pd.DataFrame, images: NDArray[np.float32]) -> Figure:
    """Synthetic nodules that were most surely taken for synthetic, in their middle slice."""
    from matplotlib.figure import Figure

    synthetic = judged[judged["synthetic"]].sort_values("probability", ascending=False)[:SHOWN]
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    grid = figure.subplots(2, SHOWN // 2)
    for axes in grid.flat:
        axes.axis("off")
    for axes, row in zip(grid.flat, synthetic.index, strict=False):
        image = images[row] if images.ndim == 3 else images[row, images.shape[1] // 2]
        axes.imshow(image, cmap="gray", vmin=0, vmax=1)
        axes.set_title(f"{synthetic.loc[row, 'probability']:.2f}", fontsize=9)
    return figure
