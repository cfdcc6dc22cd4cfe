"""A network that tells real from synthetic nodules, as one more reader of a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datamodules.batch import Roi
from datamodules.collections import NoduleCollection
from datamodules.io.whole_files import written_whole
from datamodules.progress import Progress
from noduleforge.evaluation.bootstrap import interval
from noduleforge.evaluation.realism import area_told_apart
from noduleforge.readers.answers import MACHINE, Answer, Answers
from noduleforge.readers.pairing import all_pairs
from noduleforge.readers.sources import Source, read_source
from noduleforge.readers.study import Study, read_study
from noduleforge.readers.tasks import STEPS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDS = 5
"""Parts of the patients, each of which is judged by a network that has not seen it."""

UNDECIDED = 0.1
"""A network whose probabilities differ by less has learned nothing."""

SHOWN = 10
"""Synthetic nodules that are drawn."""


def machine(
    study: Path,
    real: NoduleCollection | Path,
    synthetic: NoduleCollection | Path,
    baselines: Sequence[Path] = (),
    epochs: int = 20,
    seed: int = 0,
) -> None:
    """Let a network judge what readers are to judge, before anybody is asked.

    It learns on all pairs of alike nodules of the data sets, sees what readers see, and judges
    each patient by what it learned on others. An area under the ROC curve (AUC) of 0.5 says that
    it cannot tell them apart; that a better network, or a reader, could not either is not said.

    Writes `machine.csv` (AUC with 95 % intervals over patients, of the synthetic nodules and of
    the baselines) and `machine.png` (the synthetic nodules that gave themselves away most), and
    answers the study's tasks `real` and `pairs`, as a reader who is named as no person.

    Args:
        study: folder of `noduleforge readers new`.
        real: the data set of real nodules that it was made of.
        synthetic: that of synthetic ones.
        baselines: other synthetic data sets, such as of copy-paste, to stand beside.
        epochs: how often the network sees each nodule.
        seed: of weights, order and folds.

    Raises:
        FileNotFoundError: If data are missing.
        ValueError: If there are nodules of fewer than five patients, or cases of the study are not
            in the data sets.
    """
    if epochs < 1:
        message = f"epochs is {epochs}: give at least 1"
        raise ValueError(message)
    known = read_study(study)
    settings = known.settings
    roi = Roi(settings.shape, settings.spacing_mm)
    ours = read_source(real, roi, "real")
    rows, judged = [], pd.DataFrame()
    for number, given in enumerate((synthetic, *baselines)):
        name = "synthetic" if number == 0 else str(given)
        theirs = read_source(given, roi, name)
        table, images = _both(ours, theirs, settings.window)
        said = _cross_validated(table, images, epochs, seed)
        if np.ptp(said) < UNDECIDED:
            print(
                f"The network says {said.min():.2f} to {said.max():.2f} of all of {name}: it has "
                "learned nothing in --epochs, and its area says nothing of the nodules."
            )
        area = area_told_apart(
            said, table["synthetic"].to_numpy(bool), table["patient_id"].tolist()
        )
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
    """All pairs as one table, real ones first, and their pictures from -1 to 1."""
    pairs = all_pairs(real.table, synthetic.table)
    parts, images = [], []
    low, high = window
    for source, kind in ((real, "real"), (synthetic, "synthetic")):
        rows = source.table.iloc[pairs[kind]]
        parts.append(rows.assign(synthetic=kind == "synthetic"))
        images += [np.rint(source.read(row).image.array.clip(low, high)) for row in rows["row"]]
    scaled = 2 * (np.stack(images) - low) / (high - low) - 1
    return pd.concat(parts, ignore_index=True), scaled.astype(np.float32)


def _cross_validated(
    table: pd.DataFrame, images: NDArray[np.float32], epochs: int, seed: int
) -> NDArray[np.float64]:
    """How surely each nodule is taken for synthetic by a network that has not seen its patient."""
    known, who = np.unique(table["patient_id"], return_inverse=True)
    if len(known) < FOLDS:
        message = f"There are nodules of {len(known)} patient(s): give those of at least {FOLDS}"
        raise ValueError(message)
    fold = np.random.default_rng(seed).permutation(len(known))[who] % FOLDS
    labels, said = table["synthetic"].to_numpy(np.float32), np.zeros(len(table))
    for part in range(FOLDS):
        held = fold == part
        bar = Progress(range(epochs), f"network {part + 1} of {FOLDS}", unit="epoch")
        said[held] = _learn(images[~held], labels[~held], images[held], bar, seed + part)
    return said


def _learn(
    images: NDArray[np.float32],
    labels: NDArray[np.float32],
    asked: NDArray[np.float32],
    epochs: Progress,
    seed: int,
) -> NDArray[np.float64]:
    """Train a small convolutional network, and ask it.

    Every picture is seen in flips along chance axes; what is asked is seen in all of them.

    Returns:
        Probabilities `(asked,)`.
    """
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rank = images.ndim - 1
        network = _network(rank)
        optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-2)
        steps = len(epochs) * -(-len(images) // 16)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
        everything, truth = torch.from_numpy(images)[:, None], torch.from_numpy(labels)
        for _ in epochs:
            for chosen in torch.chunk(torch.randperm(len(truth)), -(-len(truth) // 16)):
                axes = [2 + k for k in range(rank) if torch.rand(()) < 0.5]
                logits = network(everything[chosen].flip(axes))[:, 0]
                loss = nn.functional.binary_cross_entropy_with_logits(logits, truth[chosen])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
        network.eval()
        pictures = torch.from_numpy(asked)[:, None]
        flips = [[2 + k for k in range(rank) if code >> k & 1] for code in range(2**rank)]
        with torch.inference_mode():
            logits = torch.stack([network(pictures.flip(axes))[:, 0] for axes in flips]).mean(0)
        probabilities: NDArray[np.float64] = logits.sigmoid().double().numpy()
        return probabilities


def _network(rank: int) -> Any:
    from torch import nn

    convolution, pool = (nn.Conv2d, nn.AvgPool2d) if rank == 2 else (nn.Conv3d, nn.AvgPool3d)
    layers: list[nn.Module] = []
    for before, after in ((1, 8), (8, 16), (16, 32)):
        layers += [
            convolution(before, after, 3, padding=1),
            nn.GroupNorm(4, after),
            nn.SiLU(),
            pool(2),
        ]
    middle = nn.AdaptiveAvgPool2d(1) if rank == 2 else nn.AdaptiveAvgPool3d(1)
    return nn.Sequential(*layers, middle, nn.Flatten(), nn.Dropout(0.3), nn.Linear(32, 1))


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
        axes.imshow(image, cmap="gray", vmin=-1, vmax=1)
        axes.set_title(f"{synthetic.loc[row, 'probability']:.2f}", fontsize=9)
    return figure
