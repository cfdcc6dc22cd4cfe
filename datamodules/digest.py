"""Short texts that stand for longer ones."""

import hashlib


def sha256(*parts: str) -> str:
    """Return the hex SHA-256 of texts, each ended so that ("ab", "c") is not ("a", "bc")."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()
