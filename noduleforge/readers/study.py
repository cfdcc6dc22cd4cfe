"""A reader study as a folder: settings, cases with their truth, and pictures under random names.

Only `images/` and what `StudySettings` has reach a reader's browser. `cases.csv` holds the truth.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from datamodules.io.checksums import read_json, write_json
from datamodules.io.whole_files import written_whole
from datamodules.tables import read_table
from noduleforge.readers.tasks import Task

if TYPE_CHECKING:
    import pandas as pd

SETTINGS, CASES, IMAGES = "study.json", "cases.csv", "images"

COLUMNS = (
    *("case", "task", "practice", "kind", "twin", "images", "nodules", "patients", "subtype"),
    *("diameter_mm", "subtlety", "calcified", "irregular", "inhomogeneous"),
)
"""Of `CASES`: `case` is its number; `kind` real or synthetic, empty where a case has both; cases
with the same `twin` show the same place; `images` are names without ending, parted by blanks: of
`order` from the weakest to the strongest, of `pairs` the real one first."""

TEXTS = ("task", "kind", "images", "nodules", "patients", "subtype")


@dataclass(frozen=True)
class StudySettings:
    """What all cases have in common.

    Attributes:
        title: that readers see.
        modality: `ct` or `radiograph`.
        shape: voxels of every picture along z, y, x (y, x).
        spacing_mm: distance between them.
        window: intensities that pictures cover, the same for real and synthetic ones.
        tasks: in the order of a sitting.
        attributes: that readers are asked for.
        seed: of the cases, and with the reader's number of their order.
    """

    title: str
    modality: str
    shape: tuple[int, ...]
    spacing_mm: float
    window: tuple[float, float]
    tasks: tuple[Task, ...]
    attributes: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class Study:
    """A study on disk.

    Attributes:
        root: its folder.
        settings: of the study.
        cases: `COLUMNS`, one case a row, in the order of their numbers from 0 on.
    """

    root: Path
    settings: StudySettings
    cases: pd.DataFrame

    def images(self, case: int) -> list[str]:
        """Names of a case's pictures, in the order of the table."""
        return str(self.cases["images"].iloc[case]).split()

    def shown(self, case: int, reader: int) -> list[str]:
        """Names of a case's pictures in the order that a reader sees."""
        names = self.images(case)
        rng = np.random.default_rng((self.settings.seed, reader, case))
        return [names[k] for k in rng.permutation(len(names))]

    def order(self, reader: int) -> list[int]:
        """Cases in the order of a reader: task by task, practice first, the rest shuffled.

        Of two cases at the same place one is in each half of its task.
        """
        rng = np.random.default_rng((self.settings.seed, reader))
        found: list[int] = []
        for task in self.settings.tasks:
            of_task = self.cases[self.cases["task"] == task]
            found += of_task.loc[of_task["practice"] == 1, "case"].tolist()
            halves: tuple[list[int], list[int]] = ([], [])
            for _, alike in of_task[of_task["practice"] == 0].groupby("twin"):
                first = int(rng.integers(2))
                for k, case in enumerate(rng.permutation(alike["case"])):
                    halves[(first + k) % 2].append(int(case))
            for half in halves:
                found += [half[k] for k in rng.permutation(len(half))]
        return found

    def read_image(self, name: str) -> NDArray[np.float32]:
        """A picture in physical units, of the study's shape."""
        stored = np.fromfile(image_file(self.root, name), "<u2")
        low = self.settings.window[0]
        return (stored + low).astype(np.float32).reshape(self.settings.shape)


def image_file(root: Path, name: str) -> Path:
    """Where a picture lies."""
    return root / IMAGES / f"{name}.raw"


def encode(image: NDArray[Any], window: tuple[float, float]) -> bytes:
    """A picture as it is stored and sent: whole units above the window's lower end.

    16 bits a voxel, little-endian, without a header: all pictures of a study have as many bytes,
    and no real one has levels that a synthetic one cannot have.
    """
    low, high = window
    stored: NDArray[Any] = np.rint(np.clip(image, low, high) - low).astype("<u2")
    return stored.tobytes()


def write_image(root: Path, image: NDArray[Any], window: tuple[float, float]) -> str:
    """Store a picture under a name by chance, which no seed gives again.

    Returns:
        Its name: 32 hex digits.
    """
    name = secrets.token_hex(16)
    with written_whole(image_file(root, name)) as path:
        path.write_bytes(encode(image, window))
    return name


def write_study(root: Path, settings: StudySettings, cases: pd.DataFrame) -> None:
    """Write settings and cases, the latter for their owner alone; pictures are there already."""
    with written_whole(root / CASES) as path:
        path.touch(0o600)
        cases.to_csv(path, index=False, columns=list(COLUMNS), float_format="%.6g")
    with written_whole(root / SETTINGS) as path:
        write_json(path, asdict(settings))


def read_study(root: Path) -> Study:
    """Read a study.

    Raises:
        FileNotFoundError: If there is none, or a picture is missing.
        ValueError: If a file is damaged.
    """
    if not (root / SETTINGS).is_file():
        message = f"{root / SETTINGS} does not exist: give a folder of `noduleforge readers new`"
        raise FileNotFoundError(message)
    facts = read_json(root / SETTINGS)
    names = [field.name for field in fields(StudySettings)]
    if missing := [name for name in names if name not in facts]:
        message = f"{root / SETTINGS} lacks {', '.join(missing)}: make the study again"
        raise ValueError(message)
    known = {name: facts[name] for name in names}
    lists = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
    settings = StudySettings(**cast("dict[str, Any]", known | lists))
    cases = read_table(root / CASES, dict.fromkeys(TEXTS, str), COLUMNS)
    cases[list(TEXTS)] = cases[list(TEXTS)].fillna("")
    study = Study(root, settings, cases)
    _check_images(study, range(len(cases)))
    return study


def _check_images(study: Study, cases: Sequence[int]) -> None:
    expected = 2 * int(np.prod(study.settings.shape))
    for case in cases:
        for name in study.images(case):
            path = image_file(study.root, name)
            if not path.is_file() or path.stat().st_size != expected:
                message = (
                    f"{path} is missing or has not {expected} bytes: copy the study again, whole"
                )
                raise FileNotFoundError(message)
