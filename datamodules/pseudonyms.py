"""What synthetic studies are called, so that nobody is recognized, but a source can be recognized.

A study with synthetic nodules is written under a pseudonym of what its source shows. Who has the
site's secret can tell whether it was made of a study that he has, so that the two never stand in
different splits; nobody else can.
"""

import re
from functools import cache
from pathlib import Path

from datamodules.identifiers import identifier
from datamodules.io.paths import name_of
from datamodules.site_secret import keyed

COLLECTIONS = {"JSRT": r"(JPC[LN]N\d{3})(?!\d)", "ChestX-ray14": r"0*(\d+)_\d{3}(?!\d)"}
"""How file names of public collections begin; the group says the patient. NODE21 is made of
radiographs of these two, of PadChest and of Open-I."""

OF_A_PSEUDONYM = re.compile(r"SYNTHETIC-STUDY-([0-9A-F]{10})-[0-9A-F]{6}")
OF_A_NAME = re.compile(r"SYNTHETIC-(.+?)(-[0-9A-F]{6})?")
"""Names of synthetic studies, in capitals, after a pseudonym and after the study's own name."""


def patient_pseudonym(study: str) -> str:
    """Stands for the patient of a study of which only the path is known.

    Args:
        study: its path, as a request says it.
    """
    return f"study-{keyed('study', study)[:10]}"


def study_name(source: Path) -> str:
    """What a study that is made of another one is called, but for what is put around it.

    Args:
        source: the study, which may itself be a synthetic one.
    """
    name = name_then(source)
    return f"study-{pseudonym_in(name) or origin_pseudonym(origin_of(name))}"


def name_then(file: str | Path) -> str:
    """The name that a file had in its collection, in capitals and without ending.

    Of a synthetic study under its source's own name it is the source's, however often nodules were
    put into it; one under a pseudonym keeps its name, see `pseudonym_in`.
    """
    name = name_of(Path(identifier(str(file)))).upper()
    while not OF_A_PSEUDONYM.fullmatch(name) and (made := OF_A_NAME.fullmatch(name)):
        name = made[1]
    return name


def pseudonym_in(text: str) -> str:
    """The `origin_pseudonym` in a name of `name_then`, or in words with one; empty without one."""
    made = OF_A_PSEUDONYM.search(text)
    return made[1].lower() if made else ""


def origin_of(name: str) -> str:
    """Whom a radiograph shows, or else which it is, in words.

    Args:
        name: of `name_then`.
    """
    for collection, pattern in COLLECTIONS.items():
        if match := re.match(pattern, name):
            return f"patient {match[1]!r} of {collection}"
    return f"radiograph {name!r}"


@cache
def origin_pseudonym(origin: str) -> str:
    """Stands for what a study shows: 10 hex digits.

    Args:
        origin: of `origin_of`.
    """
    return keyed("origin", origin)[:10]
