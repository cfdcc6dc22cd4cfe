"""Checksums of a folder's files, as `sha256sum --check` reads them."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

SUMS = "SHA256SUMS"
"""The file that lists them."""


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """List the checksums of some of a folder's files."""
    lines = [f"{_sum(folder / name)}  {name}\n" for name in sorted(names)]
    (folder / SUMS).write_text("".join(lines))


def check_sums(folder: Path, mend: str) -> set[str]:
    """Check the files that a folder's list names.

    Args:
        folder: with the list.
        mend: what to do about a damaged file, in words.

    Returns:
        The names.

    Raises:
        ValueError: If one of them is missing, or is not as it was.
    """
    there = {path.name for path in folder.iterdir()}
    names = set()
    for line in (folder / SUMS).read_text(errors="replace").splitlines():
        told, _, name = line.partition("  ")
        if name not in there or _sum(folder / name) != told:
            message = (
                f"{folder / name} is missing or differs from its checksum in {SUMS}: it was "
                f"damaged or changed; {mend}."
            )
            raise ValueError(message)
        names.add(name)
    return names


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
