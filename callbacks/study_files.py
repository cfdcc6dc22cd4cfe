"""Whole studies with synthetic nodules, written in the form that their sources have."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from datamodules.insertion.requests import read_requested_radiograph
from datamodules.io.dicom import is_series, only_series
from datamodules.io.lazy_studies import open_study
from datamodules.io.radiographs import write_radiograph
from datamodules.io.same_form import LOSSLESS, ending_of, write_like
from datamodules.io.volumes import Volume

Placed = dict[str, tuple[tuple[slice, ...], NDArray[np.uint8]]]
"""For each nodule's name the box of the study that it lies in, and its mask there."""


class StudyFiles(Protocol):
    """How studies of a kind are read and written."""

    def read(self, source: Path, row: dict[str, Any]) -> Volume:
        """Read a whole study, which may then be changed.

        Args:
            source: of the study.
            row: the first of its requests.

        Raises:
            FileNotFoundError: If it is missing.
            ValueError: If it is damaged.
        """

    def write(
        self, source: Path, study: Volume, run: Path, name: str, placed: Placed, key: str, who: str
    ) -> str:
        """Write a study with its nodules as its source is.

        Args:
            source: the study without nodules.
            study: with them.
            run: the run's folder.
            name: of the study in it.
            placed: the nodules; what was erased is none of them.
            key: stands for the study and its requests.
            who: the patient's pseudonym.

        Returns:
            The path of the study in `run`.

        Raises:
            ValueError: If the source cannot be read again.
        """


class CTFiles:
    """CT as image files, or as a DICOM series, which also gets the nodules' masks as SEG."""

    def read(self, source: Path, row: dict[str, Any]) -> Volume:
        """Read a CT in HU; see `StudyFiles`."""
        return open_study(source)

    def write(
        self, source: Path, study: Volume, run: Path, name: str, placed: Placed, key: str, who: str
    ) -> str:
        """Write a CT; see `StudyFiles`."""
        from datamodules.io.synthetic_dicom import (
            DESCRIPTION,
            write_segmentation,
            write_synthetic_series,
        )

        if is_series(source):
            path = f"studies/{name}"
            slices = write_synthetic_series(only_series(source), study.array, run / path, who, key)
            if placed:
                shape = study.array.shape[1:]
                write_segmentation(run / f"masks/{name}.dcm", slices, placed, shape, key)
            return path
        path = f"studies/{name}{ending_of(source)}"
        write_like(source, run / path, study, DESCRIPTION)
        return path


class RadiographFiles:
    """Radiographs as pictures, DICOM, or JSRT's `.IMG`."""

    def read(self, source: Path, row: dict[str, Any]) -> Volume:
        """Read a radiograph, bone bright; see `StudyFiles`."""
        return read_requested_radiograph(source, row)

    def write(
        self, source: Path, study: Volume, run: Path, name: str, placed: Placed, key: str, who: str
    ) -> str:
        """Write a radiograph; see `StudyFiles`."""
        from datamodules.io.synthetic_dicom import DESCRIPTION, write_dicom_radiograph

        kind = source.suffix.lower()
        plain = kind in (".dcm", *LOSSLESS)
        path = f"studies/{name}{source.suffix if plain else ending_of(source)}"
        if kind == ".dcm":
            write_dicom_radiograph(source, study.array, run / path, who, key)
        elif plain:
            write_radiograph(run / path, study, DESCRIPTION)
        else:
            write_like(source, run / path, study, DESCRIPTION)
        return path


FILES: dict[int, StudyFiles] = {2: RadiographFiles(), 3: CTFiles()}
"""How studies are read and written, by the number of their axes."""
