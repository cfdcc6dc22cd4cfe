"""Simulated readers, whose figures are known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reader_studies import answer_all, small_study
from scipy import stats

from noduleforge.cli import main
from noduleforge.evaluation.readers import learning, turing_figures
from noduleforge.readers.answers import MACHINE
from noduleforge.readers.study import Study

SURE = {"confidence": "5"}


def guesses(row: dict, rng: np.random.Generator) -> dict:
    confidence = {"confidence": str(rng.integers(1, 6))}
    if row["task"] == "pairs":
        return {"choice": str(rng.integers(2))} | confidence
    if row["task"] == "attributes":
        names = ["solid", "part-solid", "ground-glass"]
        return {"subtype": str(rng.choice(names)), "subtlety": str(rng.integers(1, 6))}
    if row["task"] == "order":
        return {"order": rng.permutation(3).tolist()}
    return {"kind": str(rng.choice(["real", "synthetic"]))} | confidence


def knows(row: dict, rng: np.random.Generator) -> dict:
    if row["task"] == "pairs":
        return {"choice": "0"} | SURE
    if row["task"] == "attributes":
        return {"subtype": row["subtype"], "subtlety": str(round(row["subtlety"]))}
    return {"kind": row["kind"]} | SURE


def takes_all_for_real(row: dict, rng: np.random.Generator) -> dict:
    return knows(row, rng) if row["task"] != "real" else {"kind": "real"} | SURE


@pytest.fixture
def study(store: Path, tmp_path: Path) -> Study:
    tasks = ("real", "attributes", "pairs")
    asked = ["subtype", "subtlety"]
    return small_study(store, tmp_path / "study", tasks=tasks, attributes=asked, cases=12)


def test_the_command(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    for reader, say in enumerate((guesses, knows, takes_all_for_real), start=1):
        answer_all(study, reader, say)
    answer_all(study, MACHINE, knows)
    main(["readers", "report", str(study.root)])
    text = capsys.readouterr().out
    folder = study.root / "report"
    assert (folder / "report.md").read_text() in text
    assert "no person" in text
    figures = pd.read_csv(folder / "figures.csv")
    real = figures[(figures["task"] == "real") & (figures["group"] == "all")]
    value = real.set_index(["reader", "figure"])["value"]
    assert value["reader 2", "AUC"] == value["reader 2", "accuracy"] == 1
    assert value["reader 3", "synthetic taken for real"] == 1
    assert value["reader 3", "real taken for synthetic"] == 0
    assert value["reader 3", "AUC"] == value["reader 3", "accuracy"] == 0.5
    people = [value[f"reader {k}", "AUC"] for k in (1, 2, 3)]
    assert value["all", "AUC"] == pytest.approx(np.mean(people))  # without the machine
    pairs = figures[figures["task"] == "pairs"].set_index("reader")["value"]
    assert pairs["reader 2"] == 1
    assert 0 < pairs["reader 1"] < 1
    agreement = pd.read_csv(folder / "agreement.csv")
    knowing = agreement[agreement["reader"] == "reader 2"]
    assert (knowing["share"] == 1).all()
    assert (knowing["kappa"] == 1).all()
    assert agreement.loc[agreement["reader"] == "all", "fleiss"].notna().all()
    answers = pd.read_csv(folder / "answers.csv")
    assert len(answers) == 4 * (24 + 24 + 12)
    assert not {"patients", "nodules", "images"} & {*answers}
    lines = (folder / "imrmc.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines[lines.index("BEGIN DATA:") + 1 :]]
    assert len(rows) == 24 + 3 * 24
    assert {row[0] for row in rows} == {"-1", "reader1", "reader2", "reader3"}
    assert {len(row) for row in rows} == {4}


def test_unfinished_readers_are_not_counted(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["readers", "report", str(study.root)])
    assert "No reader has answered all cases" in capsys.readouterr().err
    answer_all(study, 1, guesses)
    part = study.cases[study.cases["task"] == "real"]
    from noduleforge.readers.answers import Answer, Answers

    some = [Answer(2, k, k, {"kind": "real", **SURE}, 10) for k in part["case"][:5]]
    Answers(study.root).replace(2, some)
    main(["readers", "report", str(study.root)])
    text = capsys.readouterr().out
    assert "| reader 2 | 4 of 24 | 0 of 24 | 0 of 12 |" in text
    figures = pd.read_csv(study.root / "report/figures.csv")
    assert {*figures["reader"]} == {"reader 1"}


def test_ordering(store: Path, tmp_path: Path) -> None:
    from reader_studies import synthetic_of

    series = [synthetic_of(store, tmp_path / f"strength{k}", seed=k) for k in range(3)]
    study = small_study(store, tmp_path / "study", tasks=("order",), series=series)
    answer_all(study, 1, lambda row, rng: {"order": [0, 1, 2]})
    answer_all(study, 2, lambda row, rng: {"order": [2, 1, 0]})
    main(["readers", "report", str(study.root)])
    value = pd.read_csv(study.root / "report/figures.csv").set_index("reader")["value"]
    assert value.to_dict() == {"all": 0, "reader 1": 1, "reader 2": -1}


@pytest.mark.parametrize("separation", [0.0, 0.5, 1.5])
def test_readers_of_known_separation(separation: float) -> None:
    """The area of an equal-variance observer is Phi(d' / sqrt 2); its shares are normal tails."""
    rng = np.random.default_rng(0)
    kinds = np.repeat(["real", "synthetic"], 1000)
    cases = pd.DataFrame({"kind": kinds, "patients": np.arange(2000)})
    cases = cases.assign(subtype="", diameter_mm=5.0)
    truth = (kinds == "synthetic") * separation
    scores = pd.DataFrame({k: truth + rng.normal(size=2000) - separation / 2 for k in range(3)})
    found = turing_figures(cases, scores)
    found = found[(found["group"] == "all") & (found["reader"] == "all")].set_index("figure")
    assert found.loc["AUC", "value"] == pytest.approx(
        stats.norm.cdf(separation / np.sqrt(2)), abs=0.03
    )
    for name in ("accuracy", "sensitivity", "specificity"):
        right = stats.norm.cdf(separation / 2)
        assert found.loc[name, "value"] == pytest.approx(right, abs=0.03)
        assert found.loc[name, "low"] <= right <= found.loc[name, "high"]


def test_biased_readers() -> None:
    """Who calls most real takes both kinds for it, whatever the area."""
    rng = np.random.default_rng(0)
    kinds = np.repeat(["real", "synthetic"], 300)
    cases = pd.DataFrame({"kind": kinds, "patients": range(600), "subtype": "solid"})
    scores = pd.DataFrame({"biased": rng.normal(size=600) - 1.3})
    found = turing_figures(cases.assign(diameter_mm=9.0), scores)
    value = found[found["group"] == "all"].set_index("figure")["value"]
    assert value["synthetic taken for real"] == pytest.approx(stats.norm.cdf(1.3), abs=0.04)
    assert value["real taken for synthetic"] == pytest.approx(stats.norm.sf(1.3), abs=0.04)
    assert value["AUC"] == pytest.approx(0.5, abs=0.05)


def test_learning_is_seen() -> None:
    place = np.arange(80)
    better = np.random.default_rng(0).random(80) < 0.2 + 0.7 * place / 80
    shares, p = learning(place, better)
    assert shares[-1] > shares[0] + 0.3
    assert p < 0.01
    assert np.isnan(learning(place, np.ones(80, bool))[1])
