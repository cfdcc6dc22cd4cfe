"""Which patients weights have seen, as checkpoints and synthetic nodules say it."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from datamodules.io.checksums import read_json
from datamodules.site_secret import VARIABLE, keyed, secret_file, site

GENERATOR = "generator.json"
"""Beside a table of synthetic nodules: which checkpoint made them, and whom it was trained on."""

UNKNOWN_PATIENTS = "unknown"
"""Stands, among the keys of patients, for those of weights that do not say what they have seen."""


def patient_key(patient_id: str) -> str:
    """Stands for a patient in a checkpoint, and says nothing to who has not the site's secret.

    Returns:
        What stands for the secret, and 16 hex digits of the patient's HMAC under it.
    """
    return f"{site()}-{keyed('patient', patient_id)[:16]}"


def check_generator(generator: Path, held_out: Mapping[str, Iterable[str]]) -> None:
    """Refuse synthetic nodules of a generator that has seen patients of the other splits.

    Args:
        generator: `generator.json`, as it is written with synthetic nodules.
        held_out: the patients that training must not know, by split.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the generator was trained on one of their patients, does not say on whom,
            says it with keys of another site's secret, or the file is damaged.
    """
    if not generator.is_file():
        message = (
            f"{generator} is missing, so that it is not known on whom the generator was "
            "trained: synthesize again, or copy it along with nodules.csv"
        )
        raise FileNotFoundError(message)
    listed = read_json(generator).get("training_patients")
    if not isinstance(listed, list) or not all(isinstance(key, str) for key in listed):
        message = (
            f"{generator} does not list the generator's training_patients: synthesize again, or "
            "copy it again"
        )
        raise ValueError(message)
    seen = set(listed)
    if UNKNOWN_PATIENTS in seen:
        message = (
            f"{generator} says that the generator began from weights that do not say on whom "
            "they were trained: train it again from the autoencoder on"
        )
        raise ValueError(message)
    if strange := sorted(key for key in seen if not key.startswith(f"{site()}-")):
        message = (
            f"{generator} names {len(strange)} patient(s) by keys of another secret than that of "
            f"{secret_file()}, such as {strange[0]}, so that it is not known whether they are held "
            f"out here: set {VARIABLE} to the secret of the site that trained the generator, or "
            "train it again"
        )
        raise ValueError(message)
    for split, patients in held_out.items():
        known = {patient_key(one): one for one in patients}
        if both := seen & known.keys():
            message = (
                f"The generator was trained on {len(both)} patient(s) of the {split} split, "
                f"such as {min(known[key] for key in both)!r}: train it on the same split, "
                "with the same split_seed and fractions"
            )
            raise ValueError(message)
