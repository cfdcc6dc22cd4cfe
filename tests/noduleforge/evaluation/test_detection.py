"""Figures of a detector, against brute force and by hand."""

import numpy as np
import pandas as pd
import pytest
from detections import random_table

from noduleforge.evaluation.detection import THRESHOLDS, figures_of, overlap, youden_threshold
from noduleforge.evaluation.froc import RATES


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
