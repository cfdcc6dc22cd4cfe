"""What inserting nodules into a large study takes of memory, beside what a small one takes.

Each study is inserted into by a process of its own, with a model that paints: what counts is what
is read, held and written of the study. Needs Linux.
`python benchmarks/memory.py` prints a row for each form.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer

from callbacks.insertion import StudyWriter
from datamodules.batch import Provenance, Roi, Synthesis
from datamodules.insertion.modules import InsertionDataModule
from datamodules.io.volumes import Volume, write_volume
from lightning_modules.core.inpainting import feather, paste

SMALL, LARGE = (48, 128, 128), (400, 512, 512)
"""Voxels along z, y, x: of 1.5 and 200 MiB."""

FORMS = ("dicom", ".nii.gz", ".nii", ".mha", ".nrrd")
NODULES = 3
SPACING_MM = (1.0, 0.7, 0.7)


class Painter(LightningModule):
    """Paints 0 HU where a nodule is asked for."""

    margin_voxels = 3
    provenance = Provenance("painter.ckpt", 0, 1, ("a", "b"))
    roi = Roi(32)

    def predict_step(self, batch: Any, batch_idx: int) -> Synthesis:
        """Paint."""
        image = paste(batch["image"], torch.zeros_like(batch["image"]), feather(batch["mask"], 3))
        none = torch.zeros(len(image), 0)
        return Synthesis(
            *(image, batch["image"], batch, none, none, none[0]),
            window=(-1000.0, 400.0),
            provenance=self.provenance,
        )


def write_study(folder: Path, form: str, shape: tuple[int, int, int]) -> str:
    """Write noise about lung, and requests for nodules in it; the study's name."""
    noise = np.random.default_rng(0).normal(-850, 60, shape).astype(np.int16)
    volume = Volume(noise, SPACING_MM, (0.0, 0.0, 0.0), np.eye(3))
    name = "study" if form == "dicom" else f"study{form}"
    if form == "dicom":
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))
        from dicom import write_series

        write_series(folder / name, volume, "P1", "1.2.3")
    else:
        write_volume(folder / name, volume)
    rows = "study,patient_id,z,y,x,diameter_mm,subtype\n"
    z, y, x = (n // 2 for n in shape)
    for number in range(NODULES):
        height = z + (number - 1) * shape[0] // 4
        rows += f"{name},P1,{height},{y},{x},6,solid\n"
    (folder / "requests.csv").write_text(rows)
    return name


def peak_mib(folder: Path) -> float:
    """Insert in a process of its own, and return what it took at most."""
    told = subprocess.run(
        [sys.executable, __file__, str(folder)], capture_output=True, text=True, check=True
    )
    return float(told.stdout.splitlines()[-1])


def insert(folder: Path) -> None:
    """Insert, and print the most that this process has taken."""
    trainer = Trainer(
        default_root_dir=folder / "run", accelerator="cpu", logger=False,
        enable_progress_bar=False, callbacks=[StudyWriter(pictures=0)],
    )  # fmt: skip
    data = InsertionDataModule(folder / "requests.csv")
    trainer.predict(Painter(), data, return_predictions=False)
    # not ru_maxrss, which begins with what the parent had taken
    status = Path("/proc/self/status").read_text()
    print(int(status.partition("VmHWM:")[2].split()[0]) / 2**10)


def main() -> None:
    """Measure all forms, or those that are named."""
    asked = sys.argv[1:]
    if asked and Path(asked[0]).is_dir():
        insert(Path(asked[0]))
        return
    size = np.prod(LARGE) * 2 / 2**20
    for form in asked or FORMS:
        peaks = SimpleNamespace()
        for name, shape in (("small", SMALL), ("large", LARGE)):
            with tempfile.TemporaryDirectory() as folder:
                write_study(Path(folder), form, shape)
                setattr(peaks, name, peak_mib(Path(folder)))
        beside = peaks.large - peaks.small
        print(f"{form}: {beside:.0f} MiB beside a small study's, of {size:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
