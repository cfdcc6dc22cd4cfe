"""Synthetic studies are known again by what they were made of, and by nobody else."""

from pathlib import Path

import pytest

from datamodules.pseudonyms import (
    name_then,
    origin_of,
    origin_pseudonym,
    patient_pseudonym,
    pseudonym_in,
    study_name,
)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("in/JPCLN001.IMG", "JPCLN001"),
        ("00000001_005.png", "00000001_005"),
        ("n0007.nii.gz", "N0007"),
        ("1.3.6.1.100", "1.3.6.1.100"),
        ("1.3.6.1.100.dcm", "1.3.6.1.100"),
        (" n0007.mha\u00a0", "N0007"),
        ("synthetic-n0007-1a2b3c.nii.gz", "N0007"),
        ("synthetic-synthetic-n0007-1a2b3c-4d5e6f.png", "N0007"),
    ],
)
def test_a_study_is_known_again_by_its_pseudonym(file: str, name: str) -> None:
    assert name_then(file) == name
    called = study_name(Path(file))
    assert name.casefold() not in called.casefold()
    made = name_then(f"run/studies/synthetic-{called}-1a2b3c.nii.gz")
    assert pseudonym_in(made) == origin_pseudonym(origin_of(name))
    # a second nodule, put in later, changes nothing of that
    assert study_name(Path(f"synthetic-{called}-1a2b3c.dcm")) == called


def test_studies_named_by_uids_stay_apart() -> None:
    assert study_name(Path("1.2.100")) != study_name(Path("1.2.200"))
    assert patient_pseudonym("1.2.100") != patient_pseudonym("1.2.200")
    assert pseudonym_in("patient 'P1'") == ""


def test_the_patient_of_a_public_collection_is_one_whatever_the_radiograph() -> None:
    assert study_name(Path("00000013_001.png")) == study_name(Path("00000013_002.png"))
    assert study_name(Path("00000013_001.png")) != study_name(Path("00000014_001.png"))
