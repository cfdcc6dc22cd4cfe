"""Several readers on the same cases against a published analysis, and against simulations."""

from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from noduleforge.evaluation.multireader import (
    ReaderMean,
    area_variance,
    cases_needed,
    detectable_area,
    expected,
    planned_error,
    power,
    reader_mean,
)
from noduleforge.evaluation.probabilities import auroc

# Ratings of Van Dyke et al. 1993 (aortic dissection, first modality): 5 readers, 69 normal and 45
# abnormal cases. Analysed by OR-DBM MRMC 2.51 (University of Iowa), trapezoidal area, jackknife.
VAN_DYKE = (
    "122151111111411111111131311214111113121211233131133111111221111332111"
    "555545554555434245555555154454553555115554451",
    "232222222322522232222222422223222222222222222222222222222432232222222"
    "535555542555442225555555243354552425225555352",
    "222235112242422232221232411322112224121412112222223211211221151421212"
    "545555555555542355555555252255552555225555552",
    "111111311111111111112111211112111111111111111111331111111111111311111"
    "555555555555555155555555554544553555125555555",
    "351211112221211122113221111211211231221113332111211111111341231212113"
    "525255551545452235555554144322151515115553552",
)


def areas(labels: NDArray[np.int_], scores: NDArray[np.float64]) -> ReaderMean:
    figures = [partial(auroc, labels, own) for own in scores]
    return reader_mean(figures, range(len(labels)))


def test_van_dyke() -> None:
    labels = np.repeat([0, 1], [69, 45])
    scores = np.array([[int(digit) for digit in row] for row in VAN_DYKE], float)
    each = [auroc(labels, own) for own in scores]
    published = [0.91964573, 0.85877617, 0.90386473, 0.97310789, 0.82979066]
    assert each == pytest.approx(published, abs=1e-8)
    found = areas(labels, scores)
    assert found.value == pytest.approx(0.89703704, abs=1e-8)
    assert found.error == pytest.approx(0.03317360, abs=1e-8)
    assert found.degrees == pytest.approx(12.74, abs=0.005)
    assert found.variance == pytest.approx(0.00101410, abs=1e-8)
    assert found.covariance == pytest.approx(0.00048396, abs=1e-8)
    assert (found.low, found.high) == pytest.approx((0.82522360, 0.96885048), abs=2e-7)
    first = areas(labels, scores[:1])
    assert first.variance == pytest.approx(0.00090755, abs=1e-8)
    assert first.degrees == np.inf
    assert np.isnan(first.covariance)


def simulated(
    rng: np.random.Generator, separation: float, readers: int, cases: int
) -> tuple[NDArray[np.int_], NDArray[np.float64]]:
    """Scores with parts of the case, of the reader's separation, and of both."""
    labels = np.repeat([0, 1], cases)
    of_case = rng.normal(0, np.sqrt(0.4), 2 * cases)
    own = separation + rng.normal(0, 0.15, (readers, 1))
    return labels, own * labels + of_case + rng.normal(0, np.sqrt(0.6), (readers, 2 * cases))


def test_intervals_hold_the_truth_and_power_is_met() -> None:
    rng = np.random.default_rng(0)
    runs = [areas(*simulated(rng, 0.0, 4, 20)) for _ in range(400)]
    held = np.mean([run.low <= 0.5 <= run.high for run in runs])
    assert 0.92 < held <= 1
    # d' of 0.74 is an area of 0.7
    found = np.mean([areas(*simulated(rng, 0.7416, 4, 20)).low > 0.5 for _ in range(400)])
    assert found == pytest.approx(power(0.7, 4, 20), abs=0.12)


def test_clusters_are_what_is_left_out() -> None:
    """Cases that are there twice say nothing new: their interval is that of single ones."""
    rng = np.random.default_rng(1)
    labels, scores = simulated(rng, 0.5, 3, 15)
    once = areas(labels, scores)
    figures = [partial(auroc, np.tile(labels, 2), np.tile(own, 2)) for own in scores]
    twice = reader_mean(figures, [*range(30), *range(30)])
    assert twice == pytest.approx(once)
    assert reader_mean(figures, range(60)).variance < 0.6 * once.variance


def test_planning() -> None:
    # Hanley and McNeil 1982, their table 2: an area of 0.8 with 50 and 50 has an error of 0.044
    assert np.sqrt(area_variance(0.8, 50, 50)) == pytest.approx(0.044, abs=0.001)
    assert power(0.5, 4, 30) == pytest.approx(0.05, abs=1e-6)
    smallest = detectable_area(4, 40)
    assert power(smallest, 4, 40) >= 0.8 > power(smallest - 0.01, 4, 40)
    needed = cases_needed(0.7, 4)
    assert needed is not None
    assert power(0.7, 4, needed) >= 0.8 > power(0.7, 4, round(0.95 * needed) - 1)
    assert cases_needed(0.51, 2) is None
    assert planned_error(0.5, 6, 40)[0] < planned_error(0.5, 3, 40)[0]
    assert "1 reader with 10 real" in expected(1, 10)
    assert "no number of cases is enough" in expected(2, 10)
