"""The cases of a store: what each is made of, how its files are named, and which are done."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from datamodules.io.whole_files import written_whole

READABLE = 64
"""So many characters of a patient's identifier stand in the names of files: all that DICOM has."""

TWO_FILES = (".mhd", ".nhdr", ".hdr")
"""Endings of headers whose voxels are in a file beside them."""

OURS = re.compile(r".*_(?:[0-9a-f]{6}|[0-9a-f]{16})(?:_\d+)?\.(?:mha|json)")
"""Names of what cases write."""


@dataclass
class Rows:
    """What a case adds to the tables.

    Attributes:
        nodules: rows of `nodules.csv`.
        outlines: rows of `outlines.csv`.
        report: rows of `report.csv`.
        failed: whether something could not be read, so that the next run is to try again.
    """

    nodules: list[dict[str, Any]] = field(default_factory=list)
    outlines: list[dict[str, Any]] = field(default_factory=list)
    report: list[dict[str, str]] = field(default_factory=list)
    failed: bool = False


class Case(Protocol):
    """Makes the files of one scan when it is called; picklable."""

    @property
    def stem(self) -> str:
        """How the names of its files begin, unlike those of any other case."""

    def facts(self) -> object:
        """All that its files and rows depend on besides the settings, as JSON can say it."""

    def __call__(self) -> Rows:
        """Write the files; return the rows."""


def stems(patients: Mapping[str, str]) -> list[str]:
    """With what the names of each case's files begin.

    It is the patient, as far as every file system has its letters, and a key of the case: six
    digits, or sixteen where two cases would have the same name, also on file systems that do not
    tell large from small letters.

    Args:
        patients: of each case, by what identifies the case.

    Returns:
        One a case, in order: letters and digits of ASCII, with _ . - in between.
    """
    readable = [
        re.sub(r"[^A-Za-z0-9_.-]", "_", patient).lstrip(".-")[:READABLE]
        for patient in patients.values()
    ]
    keys = [sha256(case.encode()).hexdigest()[:16] for case in patients]
    short = [f"{who}_{key[:6]}" for who, key in zip(readable, keys, strict=True)]
    counts = Counter(stem.casefold() for stem in short)
    return [
        stem if counts[stem.casefold()] == 1 else f"{who}_{key}"
        for stem, who, key in zip(short, readable, keys, strict=True)
    ]


def file_facts(path: Path) -> list[tuple[str, int, int]]:
    """What tells whether a file, or a folder with all in it, is still the same.

    Returns:
        Of each file its name, size in bytes and time of change in ns; nothing if it is missing.
    """
    try:
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
        elif path.suffix.lower() in TWO_FILES:
            files = sorted(file for file in path.parent.iterdir() if file.stem == path.stem)
        else:
            files = [path]
        found = [(file, file.stat()) for file in files]
    except OSError:
        return []
    return [(file.name, stat.st_size, stat.st_mtime_ns) for file, stat in found]


class Records:
    """What the cases of a store have made so far, one file a case.

    A record counts as long as its case is made of the same, has not failed, and its files are
    there; what has changed, failed or gone is made anew.
    """

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        """Describe the store.

        Args:
            out: its folder.
            settings: what all cases depend on.
        """
        self.out = out
        self.settings = settings

    def key(self, case: Case) -> str:
        """Stands for what a case is made of."""
        made_of = [self.settings, case.stem, case.facts()]
        return sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()

    def read(self, case: Case, key: str) -> Rows | None:
        """The rows of a case that is done; None if it is to be made."""
        try:
            record = json.loads(self._file(case).read_text())
            rows = Rows(**record["rows"])
            whole = all((self.out / name).is_file() for name in _files(rows))
        except (OSError, ValueError, TypeError, KeyError):
            return None  # missing, damaged, or of an older version
        return rows if whole and record["made_of"] == key and not rows.failed else None

    def write(self, case: Case, key: str, rows: Rows) -> None:
        """Keep the rows of a case that has just been made."""
        with written_whole(self._file(case)) as path:
            path.write_text(json.dumps({"made_of": key, "rows": asdict(rows)}))

    def remove_others(self, cases: Iterable[Case], rows: Iterable[Rows]) -> None:
        """Remove what belongs to none of the cases: of changed, removed or half-made ones.

        Args:
            cases: all of the store.
            rows: all that they have made.
        """
        kept = {self._file(case) for case in cases}
        kept |= {self.out / name for made in rows for name in _files(made)}
        for folder in ("cases", "images", "masks"):
            for path in (self.out / folder).iterdir():
                if path not in kept and OURS.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def _file(self, case: Case) -> Path:
        return self.out / "cases" / f"{case.stem}.json"


def _files(rows: Rows) -> set[str]:
    """The files of a case, relative to the store."""
    return {nodule[kind] for nodule in rows.nodules for kind in ("image", "mask")}
