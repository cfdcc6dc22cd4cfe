"""Which patients weights have seen, as checkpoints and synthetic nodules say it."""

import hashlib

GENERATOR = "generator.json"
"""Beside a table of synthetic nodules: which checkpoint made them, and whom it was trained on."""

UNKNOWN_PATIENTS = "unknown"
"""Stands, among the keys of patients, for those of weights that do not say what they have seen."""


def patient_key(patient_id: str) -> str:
    """Stands for a patient in a checkpoint: 16 hex digits of a SHA-256."""
    return hashlib.sha256(b"patient\0" + patient_id.encode() + b"\0").hexdigest()[:16]
