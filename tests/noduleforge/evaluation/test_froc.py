"""Candidates, hits and FROC, against brute force and by hand."""

import numpy as np
import pandas as pd
import pytest
from detections import disc, random_table

from noduleforge.evaluation.bootstrap import patient_weights
from noduleforge.evaluation.froc import (
    RATES,
    find_candidates,
    find_nodules,
    hit_nodule,
    sensitivity_at,
)


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


def test_equal_maxima_within_the_distance_are_one_candidate() -> None:
    """Half precision makes probabilities equal that lie apart."""
    pixels = np.zeros((32, 32))
    pixels[8, 8] = pixels[8, 11] = pixels[24, 8] = 0.5
    assert find_candidates(pixels, 0.01, 4.0) == [(0.5, 8.0, 8.0), (0.5, 24.0, 8.0)]
    assert len(find_candidates(pixels, 0.01, 2.0)) == 3
