"""Headers of DICOM images: of each slice, what says to which stack it belongs and where it lies."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from datamodules.identifiers import identifier

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MARKS = {
    "TemporalPositionIdentifier": "temporal position",
    "TemporalPositionIndex": "temporal index",
    "EchoNumbers": "echo",
    "StackID": "stack",
    "KVP": "tube voltage",
    "SliceThickness": "slice thickness",
    "ImageType": "image type",
}
"""What may tell two slices at one place apart, besides what `Slice` has by name."""

GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
"""Where multi-frame images have what others have at the top."""

TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "PatientID", "Modality"),
    *("Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("RescaleSlope", "RescaleIntercept", "FrameOfReferenceUID", "AcquisitionNumber"),
    *("ConvolutionKernel", "NumberOfFrames", *MARKS, *GROUPS),
)
"""What is read of a file before its voxels are wanted."""

CT_STORAGE = (
    *("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"),
    "1.2.840.10008.5.1.4.1.1.2.2",
)
"""CT, enhanced CT and legacy converted enhanced CT: images that must say where they lie."""

DIRECTORY = "1.2.840.10008.1.3.10"
"""A DICOMDIR."""

STARTS = (b"\x02\0\0\0", b"\x08\0\x01\0", b"\x08\0\x05\0", b"\x08\0\x08\0", b"\x08\0\x16\0")
"""How DICOM begins whose preamble is missing."""


class Slice(NamedTuple):
    """Header of one slice: of a file, or of a frame in it.

    Attributes:
        path: the file.
        frame: number of the frame from 0; None where the file is one slice.
        sop_uid: SOP instance UID of the file.
        series_uid: series instance UID.
        patient_id: as in the file.
        modality: `CT`, `DX`, `SEG` ...
        shape: rows and columns.
        position_mm: world position (LPS) of the first pixel; empty where there is none.
        orientation: direction cosines of a row and of a column; empty where there are none.
        spacing_mm: distance between rows and between columns; empty where there is none.
        rescale: slope and intercept from stored values to HU.
        frame_of_reference: UID of the world that positions are in.
        kernel: of the reconstruction.
        acquisition: its number.
        marks: what `MARKS` names.
        localizer: whether it is a scout.
        fault: what is wrong with the header, after "whose"; empty where nothing is.
    """

    path: Path
    frame: int | None
    sop_uid: str
    series_uid: str
    patient_id: str
    modality: str
    shape: tuple[int, int]
    position_mm: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, ...]
    rescale: tuple[float, float]
    frame_of_reference: str
    kernel: str
    acquisition: str
    marks: tuple[str, ...]
    localizer: bool
    fault: str


def read_slices(path: Path) -> list[Slice]:
    """Read a file's header: one slice, or one for each frame of enhanced CT.

    Returns:
        The slices; none if it is not DICOM or no image.

    Raises:
        ValueError: If it is damaged DICOM, or is called .dcm and is none.
    """
    from pydicom.errors import InvalidDicomError

    try:
        with path.open("rb") as file:
            start = file.read(132)
        bare = start.startswith(STARTS)
        return _parse(path, force=bare)
    except OSError as error:
        message = f"cannot be read ({error}): copy it again"
        raise ValueError(message) from error
    # damaged bytes lead pydicom to nearly any exception
    except Exception as error:
        claims = start[128:] == b"DICM" or bare or path.suffix.lower() == ".dcm"
        if isinstance(error, InvalidDicomError) and not claims:
            return []
        message = "is no whole DICOM file: copy it again"
        raise ValueError(message) from error


def _parse(path: Path, force: bool) -> list[Slice]:
    import pydicom
    from pydicom.errors import InvalidDicomError

    data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS), force=force)
    fields = _Fields([data])
    if data.file_meta.get("MediaStorageSOPClassUID") == DIRECTORY:
        return []
    if not (fields.text("SeriesInstanceUID") and fields.text("SOPInstanceUID")):
        raise InvalidDicomError
    shared, each = (data.get(name) or [] for name in GROUPS)
    if fields.text("Modality") != "CT" or not each:
        return [_slice(path, None, fields)]
    if fields.numbers("NumberOfFrames", 1) != (len(each),):
        raise InvalidDicomError  # some frames would be lost
    return [
        _slice(path, number, _Fields([*_nested(frame), *_nested(*shared), data]))
        for number, frame in enumerate(each)
    ]


def _slice(path: Path, frame: int | None, fields: _Fields) -> Slice:
    shape = (*fields.numbers("Rows", 1), *fields.numbers("Columns", 1))
    position = fields.numbers("ImagePositionPatient", 3)
    orientation = fields.numbers("ImageOrientationPatient", 6)
    spacing = fields.numbers("PixelSpacing", 2)
    slope, intercept = fields.numbers("RescaleSlope", 1), fields.numbers("RescaleIntercept", 1)
    kind = fields.text("FrameType") or fields.text("ImageType")
    if spacing and min(spacing) <= 0:
        fields.fault("PixelSpacing", "2 numbers above 0")
    if orientation and not _perpendicular(orientation):
        fields.fault("ImageOrientationPatient", "two perpendicular unit vectors")
    if slope == (0.0,):
        fields.fault("RescaleSlope", "a number that is not 0")
    if fields.text("SOPClassUID") in CT_STORAGE:
        for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            if not fields.text(name):
                fields.fault(name, "numbers, without which nobody knows where it lies")
    return Slice(
        path,
        frame,
        fields.text("SOPInstanceUID"),
        fields.text("SeriesInstanceUID"),
        identifier(fields.text("PatientID")),
        fields.text("Modality"),
        (int(shape[0]), int(shape[1])) if len(shape) == 2 else (0, 0),
        position,
        orientation,
        spacing,
        (slope[0] if slope else 1.0, intercept[0] if intercept else 0.0),
        fields.text("FrameOfReferenceUID"),
        fields.text("ConvolutionKernel"),
        fields.text("FrameAcquisitionNumber") or fields.text("AcquisitionNumber"),
        tuple(fields.text(name) for name in MARKS),
        "LOCALIZER" in kind,
        fields.faults[0] if fields.faults else "",
    )


class _Fields:
    """The values of a slice's header, looked for level by level, and what is wrong with them."""

    def __init__(self, levels: Sequence[Dataset]) -> None:
        self.levels = levels
        self.faults: list[str] = []

    def text(self, name: str) -> str:
        """A value as text, whatever is in it; several are parted by a backslash."""
        level = next((level for level in self.levels if name in level), None)
        if level is None:
            return ""
        try:
            value = level[name].value
        except (ValueError, TypeError):  # no number, although it should be one
            value = level.get_item(name).value
        if isinstance(value, bytes):
            value = value.decode("latin-1")
        parts = value if isinstance(value, MutableSequence) else [value]
        return "\\".join("" if part is None else str(part) for part in parts).strip(" \0")

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """The numbers of an element; none if it is missing, empty or faulty."""
        text = self.text(name)
        if not text:
            return ()
        try:
            numbers = tuple(float(part) for part in text.split("\\"))
        except ValueError:
            numbers = ()
        if len(numbers) != count or not np.isfinite(numbers).all():
            self.fault(name, f"{count} number{'s' if count > 1 else ''}")
            return ()
        return numbers

    def fault(self, name: str, expected: str) -> None:
        """Note that an element is not as it must be."""
        self.faults.append(f"{name} is {self.text(name)[:80]!r} (expected {expected})")


def _nested(*groups: Dataset) -> list[Dataset]:
    """The first item of each sequence in functional groups."""
    from pydicom.dataset import Dataset

    values = [element.value for group in groups for element in group]
    return [value[0] for value in values if value and isinstance(value[0], Dataset)]


def _perpendicular(orientation: Sequence[float]) -> bool:
    """Tell whether two vectors have length 1 and stand at right angles."""
    row, column = np.reshape(orientation, (2, 3))
    products = (row @ row - 1, column @ column - 1, row @ column)
    return bool(np.abs(products).max() < 1e-2)
