"""Training, validation and test: every patient is in one of them, on every machine the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from datamodules.digest import sha256
from datamodules.identifiers import reading

if TYPE_CHECKING:
    import pandas as pd

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

TRAINING_ALONE = (1.0, 0.0, 0.0)
"""Fractions that hold nobody out, such as for synthetic nodules."""


def check_fractions(fractions: Sequence[float]) -> None:
    """Check the shares of training, validation and test.

    Raises:
        ValueError: If they are not three numbers from 0 to 1 that sum to 1.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        message = (
            f"fractions is {list(fractions)}: give the shares of train, val and test, "
            "three numbers of at least 0 that sum to 1"
        )
        raise ValueError(message)


def split_of(patient_id: str, seed: int, fractions: Sequence[float]) -> Split:
    """Say which split a patient belongs to, in every process and on every machine the same.

    Each patient's place depends on nobody else: adding patients moves none. The shares hold in
    expectation.

    Args:
        patient_id: the patient.
        seed: another seed gives another split.
        fractions: shares of train, val and test; they sum to 1.
    """
    number = int(sha256(str(seed), patient_id)[:13], 16) / 16**13  # 52 bits: exact in a float
    if number < fractions[0]:
        return "train"
    return "val" if number < fractions[0] + fractions[1] else "test"


def check_no_patient_crosses(patients: Mapping[str, Iterable[str]]) -> None:
    """Check that no patient is in two splits.

    Args:
        patients: of each split, the patients of its nodules.

    Raises:
        ValueError: If a patient is in more than one, or two are in different ones that read the
            same.
    """
    seen: dict[str, tuple[str, str]] = {}
    for split, members in patients.items():
        for patient in sorted(set(members)):
            other, before = seen.setdefault(reading(patient), (patient, split))
            if before != split:
                both = (
                    repr(patient) if other == patient else f"{other!r}, who reads as {patient!r},"
                )
                message = (
                    f"Patient {both} is in both {before} and {split}: "
                    "all nodules of a patient must be in one split"
                )
                raise ValueError(message)


def split_by_patient(
    table: pd.DataFrame, seed: int, fractions: Sequence[float]
) -> dict[Split, pd.DataFrame]:
    """Divide a table by its `patient_id`.

    Args:
        table: rows of nodules.
        seed: another seed gives another split.
        fractions: shares of train, val and test; they sum to 1.

    Raises:
        ValueError: If a split that should have a share of the patients got none.
    """
    of_row = [split_of(patient, seed, fractions) for patient in table["patient_id"]]
    parts = {split: table[[name == split for name in of_row]] for split in SPLITS}
    check_no_patient_crosses({split: part["patient_id"] for split, part in parts.items()})
    for (split, part), share in zip(parts.items(), fractions, strict=True):
        if part.empty and share > 0:
            message = (
                f"The {split} split got none of {table['patient_id'].nunique()} patients at a "
                f"share of {share}: give another split_seed, other fractions or more patients"
            )
            raise ValueError(message)
    return parts
