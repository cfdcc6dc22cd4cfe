"""Right inputs of every command, and its words; `tests/faults` puts faults into them.

Each lies in a folder `in`, and the command is run in the folder above it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import faulty_data as data
import faulty_models as models


@dataclass(frozen=True)
class Input:
    """A right input of a command.

    Attributes:
        make: writes it into a folder.
        command: words of the command line.
        quick: whether its cases are part of `make test`.
    """

    make: Callable[[Path], None]
    command: str
    quick: bool = False


def collection(name: str) -> str:
    """Words for a collection of nodules on the command line."""
    return f"--{name} LIDCCollection --{name}.root in/{name}"


TWO = f"{collection('real')} {collection('synthetic')} --roi.size 12 --roi.spacing_mm 1.0 --out out"
FOLDER = "--background_radiographs FolderCollection --background_radiographs.root in"
WORKERS = "--workers 1"

INPUTS: dict[str, Input] = {
    "sample": Input(data.nothing, "noduleforge prepare sample --out out", quick=True),
    "projections": Input(data.nothing, "noduleforge prepare projections --out out", quick=True),
    "store": Input(data.store, "noduleforge inspect in --out out", quick=True),
    "one nodule": Input(data.one_nodule, "noduleforge inspect in --out out", quick=True),
    "volumes": Input(
        data.volumes,
        f"noduleforge prepare volumes --table in/table.csv --out out --size 10 {WORKERS}",
        quick=True,
    ),
    "lidc": Input(
        data.lidc,
        "noduleforge prepare lidc --dicom in/dicom --annotations in/xml --out out --size 10 "
        f"{WORKERS}",
        quick=True,
    ),
    "jsrt": Input(data.jsrt, f"noduleforge prepare jsrt --root in --out out {WORKERS}", quick=True),
    "chestxray14": Input(
        data.chestxray14,
        f"noduleforge prepare chestxray14 --root in --out out {WORKERS}",
        quick=True,
    ),
    "chest": Input(
        data.chest,
        "noduleforge place in/chest.mha --shapes in/shapes --out out --diameter_mm [3,9]",
        quick=True,
    ),
    "radiographs": Input(
        data.radiographs,
        f"noduleforge place-radiographs {FOLDER} --shapes in/shapes --out out --diameter_mm [3,9]",
        quick=True,
    ),
    "runs": Input(
        data.runs,
        "noduleforge compare in/full-1 in/full-2 in/plain-1 in/plain-2 --reference plain --out out",
        quick=True,
    ),
    "memorization": Input(data.two_stores, f"noduleforge memorization {TWO}"),
    "realism": Input(data.two_stores, f"noduleforge realism {TWO}"),
    "autoencoder": Input(models.ct_autoencoder, models.command("fit", "ct/autoencoder")),
    "film autoencoder": Input(
        models.film_autoencoder, models.command("fit", "quickstart/cxr_autoencoder")
    ),
    "resume": Input(models.resumed, models.command("fit", "ct/autoencoder")),
    "test": Input(models.resumed, models.command("test", "ct/autoencoder")),
    "validate": Input(models.resumed, models.command("validate", "ct/autoencoder")),
    "diffusion": Input(models.ct_diffusion, models.command("fit", "ct/diffusion")),
    "insert": Input(models.ct_insert, models.command("predict", "ct/insert")),
    "adapters": Input(
        models.film_insert, models.command("predict", "cxr/composition", "cxr/insert")
    ),
    "classifier": Input(
        models.classifier, models.command("fit", "downstream/augmentation/synthetic_1")
    ),
    "segmenter": Input(models.segmenter, models.command("fit", "downstream/ct_segmentation")),
    "detector": Input(models.detector, models.command("fit", "downstream/cxr_detection")),
}
