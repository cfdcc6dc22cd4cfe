"""Which patients weights have seen, as checkpoints and synthetic nodules say it."""

from datamodules.digest import sha256

GENERATOR = "generator.json"
"""Beside a table of synthetic nodules: which checkpoint made them, and whom it was trained on."""

UNKNOWN_PATIENTS = "unknown"
"""Stands, among the keys of patients, for those of weights that do not say what they have seen."""


def patient_key(patient_id: str) -> str:
    """Stands for a patient in a checkpoint: 16 hex digits of a SHA-256."""
    return sha256("patient", patient_id)[:16]
