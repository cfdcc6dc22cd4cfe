"""Comparisons: pairing, intervals, and refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from datamodules.io.volumes import Volume, write_volume
from noduleforge.cli import main
from noduleforge.compare import compare, pictures
from noduleforge.evaluation.bootstrap import interval, mean_estimate
from noduleforge.evaluation.detection import figures_of, table_of_candidates, table_of_images

Write = Callable[..., Path]


@pytest.fixture
def write_run(tmp_path: Path) -> Write:
    """Writes a tested run: 30 nodules of 15 patients, whose errors the arm shifts."""

    def write(name: str, shift: float = 0.0, pictures: bool = False, **changed: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        rng = np.random.default_rng(int(name[-1]))
        nodules = pd.DataFrame(
            {
                "name": [f"n{k:02}" for k in range(30)],
                "patient_id": [f"P{k // 2}" for k in range(30)],
                "subtype": ["solid", "part-solid", "ground-glass"] * 10,
                "diameter_mm": np.linspace(4, 20, 30),
                "w1_first": rng.normal(70, 20, 30)
                + shift
                + np.random.default_rng([int(name[-1]), len(name)]).normal(0, 1, 30),
            }
        )
        nodules.sample(frac=1, random_state=0).to_csv(folder / "nodules.csv", index=False)
        common = {"split": "test", "step": 10, "samples": 30, "evaluations": 20, "data": "abc"}
        rows = [
            {"metric": "histogram", "figure": "variance_ratio/solid", "value": 0.8 + shift / 100},
            {"metric": "fid", "figure": "fid", "value": 5 + shift + rng.normal()},
        ]
        figures = pd.DataFrame([{**row, **common, "provenance": "network: x"} for row in rows])
        old = figures.assign(step=5, value=-1.0)
        figures = pd.concat([old, figures.assign(**changed)])
        figures.to_csv(folder / "generation.csv", index=False)
        if pictures:
            image = Volume(
                rng.integers(-900, 0, (8, 8, 8)).astype(np.int16), (1.0,) * 3, (0.0,) * 3, np.eye(3)
            )
            mask = Volume(np.ones((8, 8, 8), np.uint8), (1.0,) * 3, (0.0,) * 3, np.eye(3))
            write_volume(folder / "synthetic/a.nii.gz", image)
            write_volume(folder / "synthetic/m.nii.gz", mask)
            row = {"nodule_id": "a", "image": "a.nii.gz", "mask": "m.nii.gz", "diameter_mm": 9}
            pd.DataFrame([row]).to_csv(folder / "synthetic/nodules.csv", index=False)
        return folder

    return write


def runs_of(write_run: Write, **shifts: float) -> list[Path]:
    return [
        write_run(f"{arm}-{seed}", shift) for arm, shift in shifts.items() for seed in (1, 2, 3)
    ]


def test_pairing_finds_a_difference_that_the_spread_hides(write_run: Write, tmp_path: Path) -> None:
    compare(runs_of(write_run, full=-3.0, plain=0.0), "plain", tmp_path / "out")
    table = pd.read_csv(tmp_path / "out/comparison.csv").set_index(["figure", "arm"])
    row = table.loc[("w1_first/all", "full")]
    # errors of nodules spread by 20, those of the same nodule by 1.4
    assert row["low"] < row["mean"] < row["high"]
    assert row["high"] - row["low"] > 6
    assert row["difference_mean"] == pytest.approx(-3, abs=0.7)
    assert -4 < row["difference_low"] < row["difference_high"] < -2
    assert (row["nodules"], row["seeds"]) == (30, 3)
    assert table.loc[("w1_first/solid", "full")]["nodules"] == 10
    same = table.loc[("w1_first/all", "plain")]
    assert same["difference_mean"] == same["difference_low"] == same["difference_high"] == 0
    whole = table.loc[("histogram: variance_ratio/solid", "full")]
    assert whole["difference_mean"] == pytest.approx(-0.03)
    assert np.isnan(whole["nodules"])
    text = (tmp_path / "out/comparison.md").read_text()
    assert "| w1_first/all | full | 30 | 3 |" in text
    assert "to **plain**" in text
    assert (tmp_path / "out/comparison.png").stat().st_size > 5_000


def test_intervals_cover_what_they_should() -> None:
    """Of means of 20 patients with two nodules each, about 95 % of the intervals hold the truth."""
    hits = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        patients = [str(k // 2) for k in range(40)]
        values = rng.normal(size=(20, 1)).repeat(2, 0) + 0.01 * rng.normal(size=(40, 1))
        low, high = interval(mean_estimate(values[:, 0], patients).draws)
        hits += int(low <= 0 <= high)
    assert 85 <= hits <= 99


def test_the_command_takes_folders_and_draws_pictures(
    write_run: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [write_run(f"{arm}-{seed}", pictures=True) for arm in "ab" for seed in (1, 2)]
    main(["compare", *map(str, runs), "--reference", "a", "--out", str(tmp_path / "out")])
    assert (tmp_path / "out/pictures.png").stat().st_size > 1_000
    assert "Comparison:" in capsys.readouterr().out
    titles = [axes.get_title() for axes in pictures({"a": runs[0], "b": runs[2]}).axes]
    assert titles[:2] == ["a", "b"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"data": "xyz"}, "their fid has the data 'abc' and 'xyz'"),
        ({"samples": 29}, "their fid has the samples 30 and 29"),
        ({"evaluations": 50}, "their fid has the evaluations 20 and 50"),
        (
            {"provenance": "network: y"},
            "their fid has the provenance 'network: x' and 'network: y'",
        ),
        ({"metric": "other"}, "with other metrics, on other nodules"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(
    changed: dict[str, Any], told: str, write_run: Write, tmp_path: Path
) -> None:
    runs = [write_run("a-1"), write_run("b-1", **changed)]
    with pytest.raises(ValueError, match="cannot be compared") as refused:
        compare(runs, "a", tmp_path / "out")
    assert told in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_named(write_run: Write, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no arm 'c', only \['a'\]"):
        compare([write_run("a-1")], "c", tmp_path)
    with pytest.raises(ValueError, match=r"arm b has the seeds \[2\], a has \[1\]"):
        compare([tmp_path / "a-1", write_run("b-2")], "a", tmp_path)
    with pytest.raises(ValueError, match="no seed in its name"):
        compare([tmp_path], "a", tmp_path)
    with pytest.raises(FileNotFoundError, match="run `lightning test`"):
        compare([tmp_path / "z-1"], "z", tmp_path)
    with pytest.raises(ValueError, match="are the same arm and seed"):
        compare([tmp_path / "x/a-1", tmp_path / "y/a-1"], "a", tmp_path)


def write_classifier(folder: Path, help_by: float, **changed: Any) -> Path:
    """A tested classifier: two classes of 60 nodules of 30 patients, better by so much."""
    rng = np.random.default_rng(int(folder.name[-1]))
    labels = np.random.default_rng(9).integers(2, size=(2, 60))
    rows = []
    for name, of_class in zip(("solid", "part-solid"), labels, strict=True):
        noise = rng.normal(size=60)
        for k, label in enumerate(of_class):
            said = 1 / (1 + np.exp(-(noise[k] + (0.5 + help_by) * (2 * label - 1))))
            row = {"name": f"n{k:02}", "patient_id": f"P{k // 2}", "characteristic": name}
            row |= {"label": label, "probability": said, "calibrated": said}
            rows.append({**row, **changed})
    folder.mkdir()
    pd.DataFrame(rows).to_csv(folder / "classification.csv", index=False)
    return folder


def test_classifiers_are_compared_pair_by_pair(tmp_path: Path) -> None:
    runs = [
        write_classifier(tmp_path / f"{arm}-{seed}", gain)
        for arm, gain in (("real", 0.0), ("synthetic", 0.7), ("again", 0.0))
        for seed in range(3)
    ]
    main(["compare", *map(str, runs), "--reference", "real", "--out", str(tmp_path / "out")])
    table = pd.read_csv(tmp_path / "out/comparison.csv").set_index(["figure", "arm"])
    assert (tmp_path / "out/comparison.png").stat().st_size > 5000
    for name in ("auroc/solid", "auprc/part-solid", "auroc/macro", "auroc/minority"):
        row = table.loc[(name, "synthetic")]
        assert row["difference_low"] > 0
        assert row["low"] < row["mean"] < row["high"]
        assert table.loc[(name, "real"), "difference_mean"] == 0
        # pairs that are alike do not differ, whatever is resampled
        alike = table.loc[(name, "again")]
        assert alike["difference_low"] == alike["difference_high"] == 0
    solid = pd.concat([pd.read_csv(run / "classification.csv").assign(run=run) for run in runs[:3]])
    solid = solid[solid["characteristic"] == "solid"]
    areas = [
        np.mean(
            one["probability"][one["label"] == 1].to_numpy()[:, None]
            > one["probability"][one["label"] == 0].to_numpy()
        )
        for _, one in solid.groupby("run")
    ]
    assert table.loc[("auroc/solid", "real"), "mean"] == pytest.approx(np.mean(areas), rel=1e-5)


def test_a_run_that_was_not_tested_is_named(tmp_path: Path) -> None:
    runs = [write_classifier(tmp_path / "real-0", 0), tmp_path / "other-0"]
    for _ in range(2):  # with one run tested, and with none
        with pytest.raises(FileNotFoundError, match=r"-0/\w+.csv is missing: run `lightning test`"):
            compare(runs, "real", tmp_path / "out")
        (tmp_path / "real-0/classification.csv").unlink(missing_ok=True)


@pytest.mark.parametrize("changed", [{"label": 1}, {"patient_id": "P0"}, {"characteristic": "x"}])
def test_classifiers_of_other_nodules_are_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    runs = [write_classifier(tmp_path / "real-0", 0)]
    runs.append(write_classifier(tmp_path / "other-0", 0, **changed))
    with pytest.raises(ValueError, match=r"cannot be compared: .* on other nodules"):
        compare(runs, "real", tmp_path / "out")


def write_segmenter(folder: Path, gain: float, **changed: Any) -> Path:
    """A tested segmenter: the Dice of 20 nodules, better by so much."""
    rng = np.random.default_rng(int(folder.name[-1]))
    table = pd.DataFrame(
        {
            "name": [f"n{k:02}" for k in range(20)],
            "patient_id": [f"P{k // 2}" for k in range(20)],
            "subtype": ["solid", "ground-glass"] * 10,
            "diameter_mm": np.linspace(4, 20, 20),
            "dice": 0.6 + gain + rng.normal(0, 0.05, 20),
        }
    )
    folder.mkdir()
    table.assign(**changed).to_csv(folder / "segmentation.csv", index=False)
    return folder


def test_segmenters_are_compared_by_subtype_and_size(tmp_path: Path) -> None:
    runs = [
        write_segmenter(tmp_path / f"{arm}-{seed}", gain)
        for arm, gain in (("real", 0.0), ("synthetic", 0.1))
        for seed in range(2)
    ]
    compare(runs, "real", tmp_path / "out")
    table = pd.read_csv(tmp_path / "out/comparison.csv").set_index(["figure", "arm"])
    assert set(table.index.get_level_values(0)) == {
        f"dice/{name}" for name in ("solid", "ground-glass", "over_8mm", "all")
    }
    assert table["difference_mean"].xs("synthetic", level=1).to_numpy() == pytest.approx(0.1)
    other = write_segmenter(tmp_path / "other-0", 0, subtype="solid")
    with pytest.raises(ValueError, match=r"real-0 and .*other-0 cannot be compared"):
        compare([runs[0], other], "real", tmp_path / "again")


def write_detector(folder: Path, gain: float, **changed: Any) -> Path:
    """A tested detector: 40 radiographs of 20 patients, half with a nodule, better by so much."""
    rng = np.random.default_rng(int(folder.name[-1]))
    rows: list[dict[str, Any]] = []
    for k in range(40):
        label = k % 2
        found = np.array([rng.random() + gain]) if label else np.empty(0)
        row = {"name": f"f{k:02}", "patient_id": f"P{k // 4}", "label": label}
        row |= {"probability": rng.random() + gain * label, "subtlety": 1 + k % 5, "iou": 0.5}
        false = rng.random(3)
        hits = [(float(score), 1.0, 1.0, 0) for score in found]
        hits += [(float(score), 9.0, 9.0, None) for score in false]
        rows.append({**row, "found": found, "false_positives": false, "candidates": hits})
    folder.mkdir()
    table = pd.DataFrame(rows)
    table_of_images(table).assign(**changed).to_csv(folder / "detection.csv", index=False)
    table_of_candidates(rows).to_csv(folder / "candidates.csv", index=False)
    point = pd.DataFrame([{"figure": "youden_threshold_val", "value": 0.5}])
    figures = pd.concat([figures_of(table, 0.5), point])
    figures.to_csv(folder / "detection_figures.csv", index=False)
    return folder


def test_detectors_are_compared_by_radiographs_and_nodules(tmp_path: Path) -> None:
    runs = [
        write_detector(tmp_path / f"{arm}-{seed}", gain)
        for arm, gain in (("real", 0.0), ("synthetic", 0.5), ("again", 0.0))
        for seed in range(3)
    ]
    compare(runs, "real", tmp_path / "out")
    table = pd.read_csv(tmp_path / "out/comparison.csv").set_index(["figure", "arm"])
    # what the tables say is what the callback said
    written = [pd.read_csv(run / "detection_figures.csv", index_col="figure") for run in runs[:3]]
    for name in ("auc", "best_iou", "froc_0.5", "froc_8", "cpm", "sensitivity_subtlety_2"):
        mean = np.mean([figures.loc[name, "value"] for figures in written])
        assert table.loc[(name, "real"), "mean"] == pytest.approx(mean, rel=1e-5)
        assert table.loc[(name, "real"), "nodules"] == written[0].loc[name, "n"]
    for name in ("auc", "froc_0.5", "cpm"):
        assert table.loc[(name, "synthetic"), "difference_low"] > 0
        alike = table.loc[(name, "again")]
        assert alike["difference_low"] == alike["difference_high"] == 0
    (runs[0] / "candidates.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"candidates.csv is missing: run `lightning test`"):
        compare(runs, "real", tmp_path / "again")
    other = write_detector(tmp_path / "other-1", 0, patient_id="P0")
    with pytest.raises(ValueError, match=r"real-1 and .*other-1 cannot be compared"):
        compare([runs[1], other], "real", tmp_path / "again")
