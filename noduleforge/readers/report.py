"""What the answers of a reader study say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datamodules.batch import SUBTYPES
from datamodules.io.whole_files import written_whole
from noduleforge.evaluation.agreement import ordering_tau
from noduleforge.evaluation.multireader import expected
from noduleforge.evaluation.readers import (
    ALL,
    agreement_figures,
    learning,
    share_figures,
    turing_figures,
)
from noduleforge.readers.answers import MACHINE, Answer, Answers
from noduleforge.readers.study import Study, read_study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MACHINE_NAME = "machine (no person)"


def report(study: Path, out: Path | None = None) -> None:
    """Say what the answers of a study show, also while readers are at it.

    Writes `report.md`; `figures.csv` (real or synthetic, pairs and orders, with 95 % intervals
    for other readers and patients), `agreement.csv` (attributes), `answers.csv` (one answer a row,
    with the truth), `imrmc.csv` (what iMRMC reads), and `roc.png` and `sitting.png`. Only readers
    who have answered all cases of a task count in it; a network that answered is listed apart and
    is in no mean.

    Args:
        study: folder of the study.
        out: folder to write; null for `report` in the study's.

    Raises:
        FileNotFoundError: If there is no study.
        ValueError: If no reader has answered all cases of a task.
    """
    known = read_study(study)
    answers = answer_table(known, Answers(study).all())
    folder = out or study / "report"
    tasks = {task: _complete(known, answers, task) for task in known.settings.tasks}
    if all(part.empty for part in tasks.values()):
        message = (
            f"No reader has answered all cases of a task of {study}: {len(answers)} answer(s) "
            "count so far; report again when one has"
        )
        raise ValueError(message)
    sections = [f"# {known.settings.title}: reader study", _progress(known, answers)]
    figures = []
    agreement = pd.DataFrame()
    turing = tasks.get("real", pd.DataFrame())
    if not turing.empty:
        found = _turing(known, turing)
        figures.append(found.assign(task="real"))
        sections += _turing_section(known, found, turing)
        _save(_draw_roc(known, turing), folder / "roc.png")
        _save(_draw_sitting(turing), folder / "sitting.png")
        with written_whole(folder / "imrmc.csv") as path:
            path.write_text(imrmc(turing))
    if not (part := tasks.get("attributes", pd.DataFrame())).empty:
        agreement = _agreement(known, part)
        sections += ["## Attributes", AGREEMENT_NOTE, _markdown(agreement)]
    if not (part := tasks.get("order", pd.DataFrame())).empty:
        part = part.assign(tau=[ordering_tau(answer["order"]) for answer in part["answer"]])
        found = _taus(part)
        figures.append(found.assign(task="order"))
        sections += ["## Ordering", "Mean of Kendall's tau, 1 where all are in order:"]
        sections.append(_markdown(_worded(found)))
    if not (part := tasks.get("pairs", pd.DataFrame())).empty:
        part = part.assign(right=[float(answer["choice"] == "0") for answer in part["answer"]])
        found = _by_reader(part, "right", "real one found")
        figures.append(found.assign(task="pairs"))
        sections += ["## Pairs", "How often the real one of two was found; chance is 0.5:"]
        sections.append(_markdown(_worded(found)))
    sections += ["## Time", _times(answers)]
    for name, table in (
        ("figures", pd.concat(figures) if figures else pd.DataFrame()),
        ("agreement", agreement),
        ("answers", answers.drop(columns=["patients", "answer"])),
    ):
        if len(table):
            with written_whole(folder / f"{name}.csv") as path:
                table.to_csv(path, index=False, float_format="%.4g")
    text = "\n\n".join(sections) + "\n"
    with written_whole(folder / "report.md") as path:
        path.write_text(text)
    print(text)
    print(f"See {folder}")


AGREEMENT_NOTE = (
    "How often readers said what was asked for (synthetic) or what is known (real), Cohen's kappa "
    "with it, and Fleiss' kappa among readers. What is reached on real nodules is the measure of "
    "what can be reached. Steps of subtlety are weighted linearly."
)


def answer_table(study: Study, answers: Iterable[Answer]) -> pd.DataFrame:
    """Answers that count, with what is known of their cases; practice is left out.

    Returns:
        One answer a row: `reader` (its name), `machine`, `case`, `position`, `seconds`, `answer`,
        `task`, `kind`, `said`, `confidence`, and other columns of the cases.
    """
    rows = [
        {
            "reader": MACHINE_NAME if one.reader == MACHINE else f"reader {one.reader}",
            "machine": one.reader == MACHINE,
            "case": one.case,
            "position": one.position,
            "seconds": one.reading_ms / 1000,
            "answer": one.answer,
            "said": one.answer.get("kind", ""),
            "confidence": one.answer.get("confidence", ""),
        }
        for one in answers
    ]
    columns = ["reader", "machine", "case", "position", "seconds", "answer", "said", "confidence"]
    table = pd.DataFrame(rows, columns=columns)
    known = study.cases.drop(columns=["images", "nodules"])
    merged = table.merge(known, on="case", how="inner")
    return merged[merged["practice"] == 0].drop(columns="practice").reset_index(drop=True)


def _complete(study: Study, answers: pd.DataFrame, task: str) -> pd.DataFrame:
    """Answers to a task of readers who have answered all of it."""
    cases = study.cases[(study.cases["task"] == task) & (study.cases["practice"] == 0)]
    part = answers[answers["task"] == task]
    counts = part.groupby("reader")["case"].nunique()
    done = counts[counts == len(cases)].index
    return part[part["reader"].isin(done)]


def _progress(study: Study, answers: pd.DataFrame) -> str:
    counted = study.cases[study.cases["practice"] == 0].groupby("task", sort=False)["case"].count()
    lines = ["| reader | " + " | ".join(map(str, counted.index)) + " |"]
    lines.append("|---" * (len(counted) + 1) + "|")
    for reader, part in answers.groupby("reader"):
        done = part.groupby("task")["case"].nunique()
        cells = [f"{done.get(task, 0)} of {number}" for task, number in counted.items()]
        lines.append(f"| {reader} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _people(part: pd.DataFrame) -> pd.DataFrame:
    return part[~part["machine"].astype(bool)]


def _wide(part: pd.DataFrame, column: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The cases of a task, and a column of their answers, one column a reader."""
    wide = part.pivot(index="case", columns="reader", values=column)
    cases = part.drop_duplicates("case").set_index("case").loc[wide.index]
    return cases, wide


def _scored(part: pd.DataFrame) -> pd.DataFrame:
    """With `score`: how surely a case is called synthetic, from -5 to 5."""
    sign = np.where(part["said"] == "synthetic", 1, -1)
    return part.assign(score=sign * part["confidence"].astype(int))


def _turing(study: Study, part: pd.DataFrame) -> pd.DataFrame:
    scored = _scored(part)
    found = []
    for group in (_people(scored), scored[scored["machine"].astype(bool)]):
        if len(group):
            found.append(turing_figures(*_wide(group, "score")))
    return pd.concat(found, ignore_index=True)


def _turing_section(study: Study, found: pd.DataFrame, part: pd.DataFrame) -> list[str]:
    whole = found[found["group"] == ALL]
    people = _people(part)["reader"].nunique()
    text = ["## Real or synthetic"]
    text.append(
        "Synthetic counts as positive. AUC is the area under the ROC curve of how surely a nodule "
        "was called synthetic: 0.5 is chance. Intervals of 95 % of all readers are Obuchowski's "
        "and Rockette's, for other readers and other patients; those of one reader are for other "
        "patients alone."
    )
    text.append(_markdown(_worded(whole)))
    cases = part.drop_duplicates("case")
    least = int(cases["kind"].value_counts().min())
    if people:
        text += ["### What it can show", expected(people, least)]
        area = whole[(whole["figure"] == "AUC") & (whole["reader"] == _main(whole))].iloc[0]
        within = "includes" if area["low"] <= 0.5 <= area["high"] else "excludes"
        text.append(
            f"The interval of the AUC, {area['low']:.2f} to {area['high']:.2f}, {within} chance. "
            "One that includes chance shows that they are not told apart only as far as it is "
            "narrow."
        )
    parts = found[(found["group"] != ALL) & (found["reader"] == _main(found))]
    if len(parts):
        text += [f"### By subtype and size ({_main(found)})", _markdown(_worded(parts, "group"))]
    text += ["### Over the sitting", _learning(part)]
    return text


def _main(found: pd.DataFrame) -> str:
    """All readers, or the only one."""
    readers = found["reader"].unique()
    return ALL if ALL in readers else str(readers[0])


def _worded(found: pd.DataFrame, rows: str = "reader") -> pd.DataFrame:
    """Figures with their intervals in words, one row a reader or group."""
    words = found.assign(
        text=[
            f"{value:.2f}" + (f" ({low:.2f} to {high:.2f})" if np.isfinite(low) else "")
            for value, low, high in found[["value", "low", "high"]].to_numpy(float)
        ]
    )
    table = words.pivot(index=rows, columns="figure", values="text").fillna("")
    order = [name for name in dict.fromkeys(found[rows]) if name in table.index]
    return table.loc[order, list(dict.fromkeys(found["figure"]))].reset_index()


def _markdown(table: pd.DataFrame) -> str:
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|---" * table.shape[1] + "|"]
    for row in table.itertuples(index=False):
        cells = [f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row]
        lines.append("| " + " | ".join("" if cell == "nan" else cell for cell in cells) + " |")
    return "\n".join(lines)


def _learning(part: pd.DataFrame) -> str:
    rows = []
    for reader, own in part.groupby("reader"):
        right = (own["said"] == own["kind"]).to_numpy()
        shares, p = learning(own["position"].to_numpy(), right)
        quarters = {f"quarter {k + 1}": share for k, share in enumerate(shares)}
        rows.append({"reader": reader, **quarters, "p of a trend": p})
    return "Share that is right in each quarter of the sitting:\n\n" + _markdown(pd.DataFrame(rows))


def _times(answers: pd.DataFrame) -> str:
    people = _people(answers)
    if people.empty:
        return "No person has answered yet."
    rows = []
    for (task, reader), part in people.groupby(["task", "reader"], sort=False):
        lower, median, upper = part["seconds"].quantile(np.array([0.25, 0.5, 0.75]))
        row = {"task": task, "reader": reader, "median, s": median}
        rows.append({**row, "quartiles, s": f"{lower:.2f} to {upper:.2f}"})
    table = pd.DataFrame(rows)
    minutes = people.groupby("reader")["seconds"].sum() / 60
    whole = "; ".join(f"{reader} {total:.1f}" for reader, total in minutes.items())
    return f"{_markdown(table)}\n\nMinutes of reading, without practice and pauses: {whole}."


def _agreement(study: Study, part: pd.DataFrame) -> pd.DataFrame:
    found = []
    for name in study.settings.attributes:
        options = list(SUBTYPES) if name == "subtype" else [str(k) for k in range(6)]
        said = part.assign(said=[options.index(answer[name]) for answer in part["answer"]])
        cases, wide = _wide(said, "said")
        known = _codes(cases[name], options)
        for group in (_people(part), part[part["machine"].astype(bool)]):
            own = wide[[reader for reader in wide if reader in {*group["reader"]}]]
            if own.shape[1]:
                there = known >= 0
                kinds = cases["kind"].to_numpy()[there]
                table = agreement_figures(kinds, known[there], own[there], name == "subtlety")
                found.append(table.assign(attribute=name))
    columns = ["attribute", "kind", "reader", "cases", "share", "kappa", "fleiss"]
    return pd.concat(found, ignore_index=True).reindex(columns=columns)


def _codes(values: pd.Series, options: Sequence[str]) -> NDArray[np.int_]:
    """The position of each value in the options; -1 where it is not known."""
    if values.dtype.kind in "fi":  # a mean of raters goes to the nearest step
        numbers = np.floor(values.to_numpy(float) + 0.5)
        return np.where(np.isfinite(numbers), numbers, -1).astype(int)
    return np.array([options.index(v) if v in options else -1 for v in values], int)


def _by_reader(part: pd.DataFrame, column: str, figure: str) -> pd.DataFrame:
    """Means of a column over cases, of people together and one by one, and of the machine."""
    groups = (_people(part), part[part["machine"].astype(bool)])
    found = [share_figures(*_wide(group, column), figure) for group in groups if len(group)]
    return pd.concat(found, ignore_index=True)


def _taus(part: pd.DataFrame) -> pd.DataFrame:
    """Means of tau with intervals, brought from [-1, 1] to [0, 1] and back."""
    found = _by_reader(part.assign(tau=(part["tau"] + 1) / 2), "tau", "Kendall's tau")
    ends = ["value", "low", "high"]
    return found.assign(**{name: 2 * found[name] - 1 for name in ends})


def imrmc(part: pd.DataFrame) -> str:
    """Real or synthetic as iMRMC reads it: truth by the reader -1, then one rating a row."""
    cases = part.drop_duplicates("case").sort_values("case")
    synthetic = (cases["kind"] == "synthetic").astype(int)
    truth = [f"-1,{case},0,{one}" for case, one in zip(cases["case"], synthetic, strict=True)]
    scored = _people(_scored(part)).sort_values(["reader", "case"])
    names = scored["reader"].str.replace(" ", "")
    ratings = [
        f"{name},{case},noduleforge,{score}"
        for name, case, score in zip(names, scored["case"], scored["score"], strict=True)
    ]
    kinds = cases["kind"].value_counts()
    head = [
        "noduleforge reader study: 1 is synthetic",
        f"N0: {kinds.get('real', 0)}",
        f"N1: {kinds.get('synthetic', 0)}",
        f"NR: {scored['reader'].nunique()}",
        "NM: 1",
        "BEGIN DATA:",
    ]
    return "\n".join([*head, *truth, *ratings]) + "\n"


def _save(figure: Figure, path: Path) -> None:
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _draw_roc(study: Study, part: pd.DataFrame) -> Figure:
    from matplotlib.figure import Figure
    from sklearn.metrics import roc_curve

    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for k, (reader, own) in enumerate(_scored(part).groupby("reader")):
        false, true, _ = roc_curve(own["kind"] == "synthetic", own["score"])
        axes.plot(false, true, marker="osv^Dx"[k % 6], label=str(reader), alpha=0.8)
    axes.plot([0, 1], [0, 1], color="0.7", linestyle=":")
    axes.set(xlabel="real called synthetic", ylabel="synthetic called synthetic", aspect="equal")
    axes.legend()
    return figure


def _draw_sitting(part: pd.DataFrame) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    times, shares = figure.subplots(1, 2)
    for k, (reader, own) in enumerate(part.sort_values("position").groupby("reader")):
        marker: dict[str, Any] = {"marker": "osv^Dx"[k % 6], "label": str(reader)}
        place = np.arange(1, len(own) + 1)
        if not own["machine"].any():
            times.plot(place, own["seconds"], markersize=3, linewidth=0.6, **marker)
        right = (own["said"] == own["kind"]).to_numpy()
        parts = learning(own["position"].to_numpy(), right)[0]
        shares.plot(range(1, len(parts) + 1), parts, **marker)
    times.set(xlabel="case in the sitting", ylabel="reading time, s")
    shares.set(xlabel="quarter of the sitting", ylabel="share that is right", ylim=(-0.03, 1.03))
    shares.axhline(0.5, color="0.7", linestyle=":")
    shares.legend()
    return figure
