"""Data sets in the layout of nnU-Net, and of the Medical Segmentation Decathlon before it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.identifiers import check_readings, identifiers
from datamodules.io.checksums import read_json
from datamodules.tables import empty_cells, raise_together, read_table
from noduleforge.prepare.store import Cut, make_store, row, settings_of
from noduleforge.prepare.volumes import Labels, Separate, list_cases

DESCRIPTION = "dataset.json"
IMAGES, LABELS, TESTS = "imagesTr", "labelsTr", "imagesTs"

NO_NODULE = ("background", "ignore")
"""Names that nnU-Net has for what is nothing, and for what nobody has looked at."""


def prepare_nnunet(
    root: Path,
    out: Path,
    label: str | None = None,
    channel: str | None = None,
    patients: Path | None = None,
    separate: Separate = "components",
    size: int = 64,
    spacing_mm: float = 1.0,
    whole: bool = False,
    workers: int = 2,
) -> None:
    """Make the patch store that LIDCCollection reads from a data set in nnU-Net's layout.

    Its `dataset.json` may be of version 2 or 1, or of the Medical Segmentation Decathlon. A label
    map says which voxels are nodules, not which of them are one nodule: by default those that
    touch.

    Args:
        root: folder with `dataset.json`, `imagesTr` and `labelsTr`.
        out: folder to write.
        label: name of the label of nodules, where there are several.
        channel: name of the channel with the CT, where there are several.
        patients: a CSV file with the columns `case` and `patient_id`, where a patient has several
            cases; otherwise each case is a patient of its name.
        separate: whether nodules are connected `components`, or each value of the label is one.
        size: voxels along each edge of a patch; fewer where the volume ends.
        spacing_mm: spacing of a patch.
        whole: write whole volumes instead of patches, at their own spacing.
        workers: number of processes.

    Raises:
        FileNotFoundError: If there is no `dataset.json` or no such table.
        FileExistsError: If `out` holds something else.
        ValueError: If `dataset.json` does not say what is asked, a case has no patient, or not one
            nodule could be prepared.
    """
    path = root / DESCRIPTION
    if not path.is_file():
        message = f"{path} does not exist: give the folder with {DESCRIPTION}, {IMAGES}, {LABELS}"
        raise FileNotFoundError(message)
    facts = read_json(path)
    labels = _labels(facts, label, path)
    number = _channel(facts, channel, path)
    cases, report = _cases(root, facts, number)
    table = pd.DataFrame(cases).assign(subtype=None)  # which training then knows to be unknown
    table["patient_id"] = _patients(patients, table["case"])
    check_readings(table["patient_id"], str(path if patients is None else patients), "patient_id")
    cut = Cut(size, spacing_mm, whole)
    settings = settings_of(cut, separate=separate, label=label, channel=channel)
    scans = list_cases(path, table, out, cut, separate, labels)
    make_store(out, settings, scans, report, workers)


def _labels(facts: Mapping[str, Any], wanted: str | None, path: Path) -> Labels:
    """The values of nodules, and all that a label map may have."""
    try:
        given = facts["labels"]
        if all(str(name).isdecimal() for name in given):  # version 1: names by values
            given = {name: int(value) for value, name in given.items()}
        values = {
            str(name): tuple(int(v) for v in (value if isinstance(value, list) else [value]))
            for name, value in given.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"{path} has no labels by name ({error!r}): see nnU-Net's dataset format"
        raise ValueError(message) from error
    known = tuple(sorted({value for several in values.values() for value in several}))
    chosen = _choose(
        [name for name in values if name.lower() not in NO_NODULE], wanted, "label", path
    )
    return Labels(values[chosen], known)


def _channel(facts: Mapping[str, Any], wanted: str | None, path: Path) -> int:
    """The number of the channel with the CT."""
    given = facts.get("channel_names", facts.get("modality"))
    if not isinstance(given, dict) or not all(str(number).isdecimal() for number in given):
        message = f"{path} has no channel_names by number: see nnU-Net's dataset format"
        raise ValueError(message)
    names = {str(name): int(number) for number, name in given.items()}
    return names[_choose(list(names), wanted, "channel", path)]


def _choose(names: list[str], wanted: str | None, what: str, path: Path) -> str:
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted not in names:
        message = f"{path} has the {what}s {', '.join(names)}: say with --{what} which is meant"
        raise ValueError(message)
    return wanted


def _cases(
    root: Path, facts: Mapping[str, Any], channel: int
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Each case with its image and label map, relative to the root, and what is left out."""
    ending = str(facts.get("file_ending", ".nii.gz"))
    cases = list(_listed(root, facts, channel, ending))
    path = root / DESCRIPTION
    if not cases:
        message = f"{path} lists no case, and {root / LABELS} holds no {ending}: add label maps"
        raise ValueError(message)
    used = {case["image"] for case in cases}
    report = [
        row("image", name, "has no label map")
        for name in (f"{IMAGES}/{file.name}" for file in sorted((root / IMAGES).glob(f"*{ending}")))
        if name.endswith(f"_{channel:04d}{ending}") and name not in used
    ]
    if tests := len(list((root / TESTS).glob(f"*{ending}"))):
        report.append(row("set", TESTS, f"{tests} image(s) have no label map"))
    told = facts.get("numTraining")
    if told is not None and told != len(cases):
        what = f"numTraining is {told}, but there are {len(cases)} cases"
        report.append(row("set", DESCRIPTION, what))
    return cases, report


def _listed(
    root: Path, facts: Mapping[str, Any], channel: int, ending: str
) -> Iterable[dict[str, str]]:
    """The cases of either version's list, or else those that have a label map."""
    given: Any = facts.get("dataset") or facts.get("training")
    try:
        if isinstance(given, dict):
            for case, files in given.items():
                mask = str(files["label"])
                yield {"case": str(case), "image": str(files["images"][channel]), "mask": mask}
        elif given:
            for files in given:
                image, mask = (str(files[kind]).removeprefix("./") for kind in ("image", "label"))
                case = Path(mask).name.removesuffix(ending)
                numbered = f"{image.removesuffix(ending)}_{channel:04d}{ending}"
                there = numbered if (root / numbered).is_file() else image
                yield {"case": case, "image": there, "mask": mask}
        else:
            for file in sorted((root / LABELS).glob(f"*{ending}")):
                case = file.name.removesuffix(ending)
                image = f"{IMAGES}/{case}_{channel:04d}{ending}"
                yield {"case": case, "image": image, "mask": f"{LABELS}/{file.name}"}
    except (KeyError, TypeError, IndexError) as error:
        message = (
            f"{root / DESCRIPTION} lists a case without image or label ({error!r}): correct it"
        )
        raise ValueError(message) from error


def _patients(path: Path | None, cases: pd.Series) -> pd.Series:
    """Whose each case is."""
    if path is None:
        return identifiers(cases)
    columns = ("case", "patient_id")
    table = read_table(path, dict.fromkeys(columns, str), columns)
    raise_together(empty_cells(table, columns, path))
    if table["case"].duplicated().any():
        again = table["case"][table["case"].duplicated()].iloc[0]
        message = f"{path} has the case {again} more than once: keep one line"
        raise ValueError(message)
    known = table.set_index("case")["patient_id"]
    if missing := sorted({*cases} - {*known.index}):
        message = f"{path} lacks the case(s) {', '.join(missing[:10])}: add their patients"
        raise ValueError(message)
    return identifiers(cases.map(known))
