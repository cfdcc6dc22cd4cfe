"""Where radiographs come from: whom they show, also where collections contain parts of others."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datamodules.pseudonyms import name_then, origin_of, origin_pseudonym, pseudonym_in
from datamodules.tables import raise_together, read_table

RENAMED = ("image", "source_id")
"""Columns of a table of radiographs that were renamed: the file's name now, and in its
collection."""


def origins(row: Mapping[str, Any], source_ids: Mapping[str, str]) -> frozenset[str]:
    """Say in words whom and what an image shows.

    A radiograph is known by the file name that it had in the collection it comes from. Where this
    is a name of JSRT's or ChestX-ray14's, it says the patient; patients of all other radiographs
    go by their `patient_id`. Where a nodule was put into a radiograph, the nodule's patient is one
    more.

    Args:
        row: of `RadiographRegions`: `path` and `patient_id`, and `radiograph_patient_id` where a
            nodule was put into the radiograph.
        source_ids: of files that were renamed, by their names now, the names that they had; both
            in capitals, without ending.
    """
    now = name_then(row["path"])
    if made := pseudonym_in(now):
        known = {origin_pseudonym(origin_of(name)): name for name in source_ids}
        now = known.get(made, now)
    radiograph = source_ids.get(now, now)
    found = {f"radiograph {radiograph!r}"} if now in source_ids or made else set()
    patient = origin_of(radiograph)
    found.add(patient if patient.startswith("patient") else f"patient {whose(row)!r}")
    if "radiograph_patient_id" in row:
        found.add(f"patient {row['patient_id']!r}")
    return frozenset(found)


def whose(row: Mapping[str, Any]) -> str:
    """The patient of the radiograph, not of a nodule that was put into it."""
    patient: str = row.get("radiograph_patient_id", row["patient_id"])
    return patient


def read_source_ids(path: Path) -> dict[str, str]:
    """Read which names radiographs had in the collections that they come from.

    Args:
        path: a CSV table with the columns `image` and `source_id`, file names.

    Returns:
        By the name now the name then, both in capitals and without ending.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing.
    """
    if not path.is_file():
        message = (
            f"{path} does not exist: give a table of renamed radiographs, or null if there are none"
        )
        raise FileNotFoundError(message)
    table = read_table(path, dtype=dict.fromkeys(RENAMED, str), required=RENAMED, empty=True)
    now, then = (table[name].map(name_then) for name in RENAMED)
    return dict(zip(now, then, strict=True))


def check_no_origin_crosses(
    shown: Mapping[str, Mapping[str, Iterable[frozenset[str]]]],
) -> None:
    """Check that nothing is shown in two splits, whatever the sources.

    Args:
        shown: of each source and split, what its images show; see `origins`.

    Raises:
        ValueError: If a patient or a radiograph is in more than one split; all such together.
    """
    seen: dict[str, tuple[str, str]] = {}
    crossing: dict[str, str] = {}
    for source, parts in shown.items():
        for split, part in parts.items():
            for origin in sorted(frozenset().union(*part)):
                # under its pseudonym, as only that is known of what was made of it
                alike = pseudonym_in(origin) or origin_pseudonym(origin)
                before, first = seen.setdefault(alike, (split, source))
                if before != split:
                    crossing.setdefault(
                        alike,
                        f"The {origin} is in {before} of {first} and in {split} of {source}: give "
                        "it one patient_id and all sources the same fractions, or leave it out of "
                        "one",
                    )
    raise_together(list(crossing.values()))
