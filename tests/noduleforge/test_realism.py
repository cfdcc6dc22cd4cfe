"""Texture figures against what they must be, and the command on nodules alike and unlike."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from datamodules.batch import Roi
from datamodules.collections import LIDCCollection
from datamodules.io.volumes import Volume, read_volume, write_volume
from noduleforge.cli import main
from noduleforge.evaluation.realism import (
    area_told_apart,
    feature_distance,
    halves,
    told_apart,
)
from noduleforge.realism import read_rois
from noduleforge.texture import texture_features

WINDOW = (-1000.0, 400.0)


@pytest.mark.parametrize("rank", [2, 3])
def test_flat_and_chequered_nodules(rank: int) -> None:
    mask = np.zeros((12,) * rank, bool)
    mask[(slice(3, 9),) * rank] = True
    flat = texture_features(np.full(mask.shape, -300.0), mask, WINDOW)
    assert flat["mean"] == flat["quantile 0.5"] == -300
    for name in ("deviation", "skewness", "gradient", "laplacian", "contrast", "entropy"):
        assert flat[name] == 0, name
    assert flat["homogeneity"] == flat["energy"] == flat["correlation"] == 1
    # every neighbour lies 10 grey levels away
    board = np.indices(mask.shape).sum(0) % 2 * 10 * 1400 / 32.0 - 500
    chequered = texture_features(board, mask, WINDOW)
    assert chequered["contrast"] == pytest.approx(100)
    assert chequered["homogeneity"] == pytest.approx(1 / 11)
    assert chequered["entropy"] == pytest.approx(np.log(2))
    assert chequered["energy"] == pytest.approx(0.5)
    assert chequered["correlation"] == pytest.approx(-1)
    assert chequered["gradient"] == 0  # central differences see nothing of it
    assert chequered["local deviation"] > 200


def test_figures_do_not_depend_on_how_a_nodule_lies() -> None:
    rng = np.random.default_rng(0)
    image, mask = rng.normal(-300, 200, (9, 11, 10)), rng.random((9, 11, 10)) > 0.4
    first = texture_features(image, mask, WINDOW)
    turned = (np.moveaxis(array, 0, 2)[::-1] for array in (image, mask))
    assert texture_features(*turned, WINDOW) == pytest.approx(first)
    assert all(np.isfinite(value) for value in first.values())
    # contrast of a rim is against what lies outside, which the mask's edge may cut off
    whole = texture_features(image, np.ones_like(mask), WINDOW)
    assert whole["rim over outside"] == whole["outside's deviation"] == 0
    one = np.zeros_like(mask)
    one[4, 5, 5] = True
    assert all(np.isfinite(value) for value in texture_features(image, one, WINDOW).values())


def test_alike_is_not_told_apart_and_unlike_is() -> None:
    rng = np.random.default_rng(0)
    patients = [f"P{k // 2}" for k in range(120)] * 2
    synthetic = np.repeat([False, True], 120)
    values = rng.normal(size=(240, 4))
    alike = area_told_apart(told_apart(values, synthetic, patients), synthetic, patients)
    assert 0.35 < alike.value < 0.65
    assert np.quantile(alike.draws, 0.025) < 0.5 < np.quantile(alike.draws, 0.975)
    values[synthetic, 2] += 3
    unlike = area_told_apart(told_apart(values, synthetic, patients), synthetic, patients)
    assert unlike.value > 0.95
    assert feature_distance(values[~synthetic], values[synthetic]) == pytest.approx(3, abs=0.4)
    assert feature_distance(values, values) == 0


def test_a_patient_is_judged_by_what_was_learned_on_others() -> None:
    """Each patient has a number of its own, by which its synthetic nodule is known: no help."""
    count = 60
    patients = [f"P{k}" for k in range(count)] * 2
    synthetic = np.repeat([False, True], count)
    own = np.random.default_rng(0).normal(size=count)
    values = np.concatenate([own, own])[:, None]
    seen = area_told_apart(told_apart(values, synthetic, patients), synthetic, patients)
    assert 0.35 < seen.value < 0.65


def test_halves_are_of_patients() -> None:
    patients = [f"P{k % 7}" for k in range(50)]
    half = halves(patients, 3)
    assert len({(who, chosen) for who, chosen in zip(patients, half.tolist(), strict=True)}) == 7
    assert sum(dict(zip(patients, half.tolist(), strict=True)).values()) == 3
    others = [halves(patients, seed) for seed in range(4, 8)]
    assert any(not np.array_equal(half, other) for other in others)


def synthetic_store(store: Path, root: Path, deviation: float) -> Path:
    """Copies of all nodules of a store, with noise."""
    shutil.copytree(store, root)
    table = pd.read_csv(root / "nodules.csv", dtype=str)
    rng = np.random.default_rng(0)
    for name in table["image"]:
        image = read_volume(root / name)
        noisy = image.array + rng.normal(0, deviation, image.array.shape)
        grid = (image.spacing_mm, image.origin_mm, image.direction)
        write_volume(root / name, Volume(noisy.clip(-1000, 400).astype(np.int16), *grid))
    table["nodule_id"] = "synthetic-" + table["nodule_id"]
    table.to_csv(root / "nodules.csv", index=False)
    return root


def test_nothing_is_seen_beyond_the_roi(store: Path, tmp_path: Path) -> None:
    """Patches of an even size, as writers leave them, end where the ROI does: no dark edge."""
    splits = LIDCCollection(store).splits(Roi(14), (1.0, 0.0, 0.0), 0)
    nodules = read_rois(splits["train"], "real")
    assert nodules.images.shape[1:] == nodules.masks.shape[1:] == (14, 14, 14)
    patch = splits["train"].read(0, (14, 14, 14))
    assert np.array_equal(nodules.images[0].numpy(), patch.image.array)


def command(real: Path, synthetic: Path, out: Path, *more: str) -> list[str]:
    words = ["realism", "--real", "LIDCCollection", "--real.root", str(real)]
    words += ["--synthetic", "LIDCCollection", "--synthetic.root", str(synthetic)]
    return [*words, "--roi.size", "15", "--out", str(out), *more]


def test_noise_is_seen(store: Path, tmp_path: Path) -> None:
    noisy = synthetic_store(store, tmp_path / "noisy", 150)
    main(command(store, noisy, tmp_path / "out", "--pictures", "4"))
    table = pd.read_csv(tmp_path / "out/realism.csv").set_index("group")
    assert table.loc["all", "auc"] > 0.9
    assert table.loc["all", "distance"] > table.loc["all", "floor"] > 0
    assert table.loc["all", "real"] == table.loc["all", "synthetic"] == 30
    features = pd.read_csv(tmp_path / "out/features.csv")
    assert features["deviations"].abs().is_monotonic_decreasing
    answers = pd.read_csv(tmp_path / "out/unlabelled.csv")
    assert answers["number"].tolist() == list(range(1, 9))
    assert sorted(answers["kind"]) == ["real"] * 4 + ["synthetic"] * 4
    for name in ("pairs", "unlabelled"):
        assert (tmp_path / f"out/{name}.png").stat().st_size > 5_000


def test_copies_are_not_told_apart(store: Path, tmp_path: Path) -> None:
    copies = synthetic_store(store, tmp_path / "copies", 0)
    main(command(store, copies, tmp_path / "out"))
    row: Any = pd.read_csv(tmp_path / "out/realism.csv").set_index("group").loc["all"]
    assert row["low"] <= 0.5 <= row["high"]
    assert row["distance"] < row["floor"]


def test_faults_are_named(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(told: str, words: list[str]) -> None:
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2
        assert told in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    copies = synthetic_store(store, tmp_path / "copies", 0)
    refused("pictures is 0", command(store, copies, tmp_path / "out", "--pictures", "0"))
    refused("nowhere", command(store, tmp_path / "nowhere", tmp_path / "out"))
    table = pd.read_csv(copies / "nodules.csv", dtype=str)
    others = table.assign(patient_id="Q" + table["patient_id"])
    others.to_csv(copies / "nodules.csv", index=False)
    refused("No real nodule is of a patient", command(store, copies, tmp_path / "out"))
    table[table["patient_id"] == table["patient_id"].iloc[0]].to_csv(
        copies / "nodules.csv", index=False
    )
    refused("of 1 patient(s)", command(store, copies, tmp_path / "out"))
