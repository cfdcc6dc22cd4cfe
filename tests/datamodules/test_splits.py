"""No patient is in two splits, and each stays where it is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.splits import check_fractions, check_no_patient_crosses, split_of

FRACTIONS = (0.7, 0.1, 0.2)


def test_split_of_never_changes() -> None:
    """Values of version 0.1.0: another value would move patients between the splits of users."""
    names = [split_of(f"LIDC-IDRI-{i:04}", 0, FRACTIONS) for i in range(18, 30)]
    first = "train train train test train test"
    assert " ".join(names) == f"{first} train train val test val test"


@given(st.text(), st.integers(0, 2**31), st.floats(0, 1))
def test_split_of_follows_the_shares(patient: str, seed: int, share: float) -> None:
    assert split_of(patient, seed, (1.0, 0.0, 0.0)) == "train"
    assert split_of(patient, seed, (0.0, 0.0, 1.0)) == "test"
    split = split_of(patient, seed, (share, 1 - share, 0.0))
    assert split == split_of(patient, seed, (share, 1 - share, 0.0))
    assert split in ("train", "val") or share < 1


@settings(max_examples=20)
@given(st.lists(st.integers(0, 50), min_size=1), st.integers(0, 1000))
def test_no_patient_crosses(patients: list[int], seed: int) -> None:
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for patient in patients:
        parts[split_of(str(patient), seed, FRACTIONS)].append(str(patient))
    check_no_patient_crosses(parts)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shares_hold(seed: int) -> None:
    splits: list[str] = [split_of(str(i), seed, FRACTIONS) for i in range(5000)]
    for name, share in zip(("train", "val", "test"), FRACTIONS, strict=True):
        assert splits.count(name) / 5000 == pytest.approx(share, abs=0.025)  # 4 sigma


def test_a_patient_in_two_splits_is_an_error() -> None:
    with pytest.raises(ValueError, match="Patient 'b' is in both train and test"):
        check_no_patient_crosses({"train": ["a", "b"], "val": ["c"], "test": ["b"]})


@pytest.mark.parametrize("other", ["p1", "P01", "P 1"])
def test_patients_that_read_the_same_are_in_one_split(other: str) -> None:
    check_no_patient_crosses({"train": ["P1", other], "test": ["P2"]})
    with pytest.raises(ValueError, match=f"Patient 'P1', who reads as '{other}', is in both train"):
        check_no_patient_crosses({"train": ["P1"], "val": [], "test": [other]})


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.9, 0.2, 0.1), (1.2, -0.2, 0.0)])
def test_bad_fractions(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="three numbers of at least 0 that sum to 1"):
        check_fractions(fractions)
