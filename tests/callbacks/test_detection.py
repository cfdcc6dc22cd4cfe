"""Figures of a detector, against brute force and by hand; the config from training to figures."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from callbacks.detection import (
    RATES,
    THRESHOLDS,
    DetectionMetrics,
    figures_of,
    find_candidates,
    find_nodules,
    hit_nodule,
    overlap,
    sensitivity_at,
    youden_threshold,
)
from callbacks.scores import patient_weights
from lightning_modules.cli import main
from lightning_modules.detector import Detection

CONFIG = Path(__file__).parents[2] / "configs/downstream/cxr_detection.yaml"


def random_table(images: int = 30, seed: int = 0) -> pd.DataFrame:
    """Candidates with scores in tenths, so that there are ties; some nodules are missed."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(images):
        label = number % 2
        found = rng.integers(1, 11, label * rng.integers(1, 3)) / 10
        rows.append(
            {
                "patient_id": str(number // 3),
                "label": label,
                "probability": rng.integers(11) / 10,
                "subtlety": float(rng.integers(1, 4)) if label else np.nan,
                "iou": rng.random() if label else np.nan,
                "false_positives": rng.integers(1, 11, rng.integers(5)) / 10,
                "found": np.where(rng.random(len(found)) < 0.2, -np.inf, found),
            }
        )
    return pd.DataFrame(rows)


def brute_force(table: pd.DataFrame, rate: float) -> float:
    """Every threshold is tried."""
    false_positives = [s for scores in table["false_positives"] for s in scores]
    found = [s for scores in table["found"] for s in scores]
    best = 0.0
    for threshold in np.arange(0, 12) / 10:
        if sum(score >= threshold for score in false_positives) <= rate * len(table):
            best = max(best, sum(score >= threshold for score in found) / len(found))
    return best


@pytest.mark.parametrize("seed", range(5))
def test_froc_is_what_trying_all_thresholds_gives(seed: int) -> None:
    table = random_table(seed=seed)
    for rate in RATES:
        got = sensitivity_at(table, np.ones(len(table)), rate)
        assert float(got) == pytest.approx(brute_force(table, rate))


def test_replicates_are_tables_with_repeated_images() -> None:
    table = random_table()
    drawn = patient_weights(table["patient_id"].to_list(), replicates=20)
    for rate in (0.25, 1.0):
        values = sensitivity_at(table, drawn, rate)
        for weights, value in zip(drawn, values, strict=True):
            repeated = table.loc[table.index.repeat(weights.astype(int))]
            assert value == pytest.approx(brute_force(repeated, rate))


def test_froc_by_hand() -> None:
    """Two images, one nodule each; the false positive of 0.8 costs the nodule of 0.6."""
    table = pd.DataFrame(
        {"false_positives": [np.array([0.8]), np.array([0.3])]}
        | {"found": [np.array([0.9]), np.array([0.6])]}
    )
    rates = {0.25: 0.5, 0.49: 0.5, 0.5: 1.0, 8: 1.0}
    for rate, expected in rates.items():
        assert float(sensitivity_at(table, np.ones(2), rate)) == expected
    nothing = table.assign(found=[np.array([-np.inf]), np.array([0.8])])
    assert float(sensitivity_at(nothing, np.ones(2), 0.25)) == 0.0  # not above the false positive
    assert float(sensitivity_at(nothing, np.ones(2), 8)) == 0.5  # what has no candidate is missed


def disc(y: float, x: float, radius: float, side: int = 32) -> Any:
    rows, columns = np.mgrid[:side, :side]
    return np.hypot(rows - y, columns - x) <= radius


def test_candidates_are_local_maxima() -> None:
    pixels = np.zeros((32, 32))
    pixels[4:7, 4:7] = 0.5
    pixels[5, 5] = 0.9
    pixels[20, 10:14] = 0.4  # equal ones that touch are one
    assert find_candidates(np.zeros((8, 8)), 0.1, 3) == []
    assert find_candidates(pixels, 0.1, 3) == [(0.9, 5, 5), (0.4, 20, 11.5)]
    assert find_candidates(pixels, 0.45, 3) == [(0.9, 5, 5)]
    # the nearer one of two is lost in the higher one, the farther one is not
    pixels[5, 8] = pixels[5, 9] = 0.6
    pixels[5, 9] = 0.7
    assert len(find_candidates(pixels, 0.1, 3)) == 3
    assert len(find_candidates(pixels, 0.1, 4)) == 2


def test_nodules_are_not_lost_in_a_low_threshold() -> None:
    """Two hills on a plateau above the threshold: one component, but two candidates."""
    pixels = np.full((32, 32), 0.05)
    pixels[8, 8], pixels[24, 20] = 0.9, 0.3
    found = sorted(find_candidates(pixels, 0.01, 4), reverse=True)
    assert found[:2] == [(0.9, 8, 8), (0.3, 24, 20)]


@pytest.mark.parametrize("seed", range(3))
def test_candidates_are_what_looking_at_every_pixel_gives(seed: int) -> None:
    pixels = np.random.default_rng(seed).random((24, 20))
    distance = 2.5
    places = np.argwhere(pixels > 0)
    expected = sorted(
        (float(pixels[y, x]), y, x)
        for y, x in places
        if pixels[y, x] > 0.2
        and all(
            pixels[y, x] >= pixels[b, a] for b, a in places if np.hypot(b - y, a - x) <= distance
        )
    )
    assert sorted(find_candidates(pixels, 0.2, distance)) == expected


def test_a_hit_lies_in_the_mask_or_within_its_radius() -> None:
    nodules = find_nodules(disc(10, 10, 4) | disc(24, 24, 2))
    assert len(nodules) == 2
    assert hit_nodule((10, 13.9), nodules) == 0
    assert hit_nodule((10, 16), nodules) is None
    assert hit_nodule((24, 23), nodules) == 1
    assert hit_nodule((10, 10), []) is None
    # a long nodule: its end is in the mask, and beside its middle is within the radius
    long = np.zeros((32, 32), bool)
    long[15, 4:28] = True
    assert hit_nodule((15, 5), [long]) == 0
    assert hit_nodule((17.5, 15.5), [long]) == 0
    assert hit_nodule((17.5, 5), [long]) is None
    # of two, the nearer one
    assert hit_nodule((15, 16), [disc(15, 10, 9), disc(15, 18, 9)]) == 1


def test_overlap_at_each_threshold() -> None:
    mask = np.zeros((8, 8), bool)
    mask[:2, :4] = True
    pixels = np.zeros((8, 8))
    pixels[:2, :4] = 0.5
    pixels[2, :4] = 0.22
    expected = np.where(THRESHOLDS < 0.22, 8 / 12, np.where(THRESHOLDS < 0.499, 1.0, 0.0))
    np.testing.assert_allclose(overlap(pixels, mask), expected)


def test_youdens_point_by_hand() -> None:
    labels = np.array([1, 1, 1, 0, 0, 0])
    scores = np.array([0.9, 0.6, 0.2, 0.7, 0.1, 0.3])
    # from 0.9, 0.6 and 0.2 on 1, 2 and 3 of 3 are found, and 3, 2 and 1 of 3 spared: all alike
    assert youden_threshold(labels, scores) == 0.9
    scores[3] = 0.5
    assert youden_threshold(labels, scores) == 0.6


def test_figures_are_those_of_the_table() -> None:
    table = random_table(60)
    figures = figures_of(table, youden=0.5).set_index("figure")
    positive, said = table["label"] == 1, table["probability"] >= 0.5
    assert figures.loc["sensitivity", "value"] == pytest.approx(said[positive].mean())
    assert figures.loc["specificity", "value"] == pytest.approx(1 - said[~positive].mean())
    level = table["subtlety"] == 2
    assert figures.loc["sensitivity_subtlety_2", "value"] == pytest.approx(said[level].mean())
    assert figures.loc["sensitivity_subtlety_2", "n"] == level.sum()
    assert figures.loc["best_iou", "value"] == pytest.approx(table["iou"].mean())
    froc = [figures.loc[f"froc_{rate:g}", "value"] for rate in RATES]
    assert froc == sorted(froc)
    assert figures.loc["cpm", "value"] == pytest.approx(np.mean(froc))
    assert figures.loc["cpm", "n"] == table["found"].map(len).sum()
    assert (figures["low"] <= figures["value"]).all()
    assert (figures["value"] <= figures["high"]).all()
    # patients are resampled, not images: more images of the same patients tell no more
    often = figures_of(pd.concat([table] * 4), 0.5).set_index("figure")
    pd.testing.assert_frame_equal(
        often[["value", "low", "high"]], figures[["value", "low", "high"]], atol=1e-9
    )


def perfect(labels: list[int], seed: int = 0) -> tuple[Any, Detection]:
    """A batch, and a detector's answer that is right everywhere."""
    rng = np.random.default_rng(seed)
    masks = np.stack([disc(*rng.uniform(8, 24, 2), 4 if label else -1) for label in labels])
    mask = torch.from_numpy(masks.astype(np.float32))[:, None]
    label = torch.tensor(labels, dtype=torch.float32)
    subtlety = torch.where(label > 0, 1 + torch.arange(len(labels)) % 5, torch.nan)
    batch = {
        "image": mask * 50 + 100,
        "mask": mask,
        "spacing_mm": torch.full((len(labels), 2), 2.0),
        "attributes": {"nodule": label, "subtlety": subtlety},
        "name": [f"{seed}-{number}" for number in range(len(labels))],
        "patient_id": [f"{seed}-{number}" for number in range(len(labels))],
    }
    return batch, Detection(0.2 + 0.6 * label, 0.01 + 0.9 * mask)


@pytest.mark.parametrize("validation", [[1, 0], [1, 1]])
def test_a_perfect_detector_has_perfect_figures(validation: list[int], tmp_path: Path) -> None:
    split = [1, 0, 1, 0, 1, 1]
    batch, found = perfect(split)
    held, said = perfect(validation, seed=1)
    data = SimpleNamespace(
        datasets={
            "test": SimpleNamespace(subtypes=split),
            "val": SimpleNamespace(subtypes=validation),
        },
        val_dataloader=lambda: [held],
    )
    trainer: Any = SimpleNamespace(
        datamodule=data,
        strategy=SimpleNamespace(batch_to_device=lambda batch: batch),
        precision_plugin=SimpleNamespace(forward_context=lambda: torch.no_grad()),
        is_global_zero=True,
        default_root_dir=str(tmp_path),
    )
    module: Any = SimpleNamespace(detect=lambda image: said)
    callback = DetectionMetrics()
    callback.on_test_start(trainer, module)
    for _ in range(2):  # a rank may be given images that another one has had
        callback.on_test_batch_end(trainer, module, found, batch, 0)
    callback.on_test_end(trainer, module)
    figures = pd.read_csv(tmp_path / "detection_figures.csv", index_col="figure")
    thresholds = figures[figures["low"].isna()]
    name = "val" if 0 in validation else "test"
    assert list(thresholds.index) == [f"youden_threshold_{name}", f"iou_threshold_{name}"]
    shares = figures.drop(thresholds.index)[["value", "low", "high"]]
    np.testing.assert_allclose(shares.to_numpy(), 1)
    images = pd.read_csv(tmp_path / "detection.csv")
    assert len(images) == 6
    assert images["nodules"].tolist() == split
    candidates = pd.read_csv(tmp_path / "candidates.csv")
    assert candidates["hit"].tolist() == [1] * 4
    assert set(candidates["image"]) == set(images.loc[images["label"] == 1, "name"])
    for picture in ("froc.png", "detections.png"):
        assert (tmp_path / picture).stat().st_size > 5_000


def test_equal_maxima_within_the_distance_are_one_candidate() -> None:
    """Half precision makes probabilities equal that lie apart."""
    pixels = np.zeros((32, 32))
    pixels[8, 8] = pixels[8, 11] = pixels[24, 8] = 0.5
    assert find_candidates(pixels, 0.01, 4.0) == [(0.5, 8.0, 8.0), (0.5, 24.0, 8.0)]
    assert len(find_candidates(pixels, 0.01, 2.0)) == 3


def test_both_kinds_of_images_are_needed() -> None:
    datasets = {"test": SimpleNamespace(subtypes=[1, 1])}
    trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(datasets=datasets))
    module: Any = None
    with pytest.raises(ValueError, match="has 2 images with a nodule and 0 without"):
        DetectionMetrics().on_test_start(trainer, module)


def test_the_config_takes_a_shrunken_step(
    tmp_path: Path, store: Path, radiographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fit, resume and test with everything that the config chooses but its size."""
    fractions = [0.5, 0.2, 0.3]
    chest = {"root": str(radiographs), "content": "normal", "fractions": fractions}
    background_radiographs = {
        "class_path": "ChestXray14DataModule",
        "init_args": {"root": str(radiographs)},
    }
    put = {
        "root": str(store),
        "select": None,
        "radiographs_per_nodule": 1,
        "subtlety": "drawn",
        "fractions": fractions,
    }
    sources = {
        "nodules": {
            "class_path": "SuperimposedDataModule",
            "init_args": {**put, "background_radiographs": background_radiographs},
        },
        "normal": {"class_path": "ChestXray14DataModule", "init_args": chest},
    }
    root = tmp_path / "run"
    trainer = {"max_steps": 1, "accelerator": "cpu", "log_every_n_steps": 1}
    data = {
        "sources": sources,
        "radiograph_size": 64,
        "radiograph_spacing_mm": 4.0,
        "batch_size": 2,
    }
    small = {
        "data": {"init_args": {**data, "cache_dir": str(tmp_path / "cache")}},
        "trainer": {**trainer, "enable_progress_bar": False, "default_root_dir": str(root)},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    config = ["--config", str(CONFIG), "--config", str(tmp_path / "small.yaml")]
    main(["fit", *config])
    main(["fit", *config, "--trainer.max_steps", "2"])
    assert torch.load(root / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
    main(["test", *config])
    figures = pd.read_csv(root / "detection_figures.csv", index_col="figure")
    assert {"auc", "best_iou", "froc_0.125", "cpm", "sensitivity"} <= set(figures.index)
    assert len(pd.read_csv(root / "detection.csv")) == figures.loc["auc", "n"]
