"""DICOM series and LIDC's XML as TCIA ships them, written from arrays and outlines."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)

from datamodules.io.volumes import Volume
from noduleforge.prepare.outlines import Drawing


def uid_of(*parts: Any) -> str:
    """The same UID for the same parts."""
    return generate_uid(entropy_srcs=[str(part) for part in parts])


def write_series(
    folder: Path,
    volume: Volume,
    patient: str,
    series: str,
    modality: str = "CT",
    slope: float = 1.0,
    intercept: float = -1024.0,
) -> list[Path]:
    """One file a slice, named in an order that is not theirs."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, pixels in enumerate(volume.array):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = CTImageStorage
        data.SOPClassUID = CTImageStorage
        data.SOPInstanceUID = uid_of(series, number)
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.SeriesInstanceUID = series
        data.StudyInstanceUID = uid_of(patient, "study")
        data.FrameOfReferenceUID = uid_of(series, "frame")
        data.StudyID, data.AccessionNumber = "", ""
        data.StudyDate, data.StudyTime = "20000101", "000000"
        data.ReferringPhysicianName = "Physician^Known"
        data.PatientID, data.PatientName = patient, f"{patient}^Name"
        data.PatientBirthDate, data.PatientSex = "19400101", "F"
        data.PatientPosition, data.PositionReferenceIndicator = "HFS", ""
        data.Manufacturer = "Maker"
        data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.KVP, data.AcquisitionNumber, data.SliceThickness = "120", "1", "3"
        data.Modality = modality
        data.SeriesNumber = "1"
        data.InstanceNumber = str(number + 1)
        data.ImagePositionPatient = [f"{v:.6f}" for v in volume.grid.world((number, 0, 0))]
        data.ImageOrientationPatient = volume.direction[:, :2].T.ravel().tolist()
        data.PixelSpacing = [f"{v:.6f}" for v in volume.spacing_mm[1:]]
        data.Rows, data.Columns = pixels.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.PixelRepresentation = 1
        data.RescaleSlope, data.RescaleIntercept = str(slope), str(intercept)
        data.RescaleType = "HU"
        stored = np.rint((pixels.astype(float) - intercept) / slope).astype("<i2")
        data.PixelData = stored.tobytes()
        data.add_new(0x00091010, "LO", "private")
        path = folder / f"1-{(7 * number + 3) % 997:03d}-{number}.dcm"
        data.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def change(paths: Iterable[Path], **tags: Any) -> None:
    """Set elements in the headers of files."""
    for path in paths:
        data = pydicom.dcmread(path)
        for name, value in tags.items():
            setattr(data, name, value)
        data.save_as(path)


def write_radiograph(path: Path, pixels: np.ndarray, patient: str, photometric: str) -> None:
    """A radiograph as a CR image of 12 bits."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = uid_of(path)
    data.SeriesInstanceUID, data.StudyInstanceUID = uid_of(path, "s"), uid_of(path, "t")
    data.PatientID = data.PatientName = patient
    data.Modality, data.BodyPartExamined, data.ViewPosition = "CR", "CHEST", "PA"
    data.ImageType = ["ORIGINAL", "PRIMARY"]
    data.PatientOrientation = ["L", "F"]
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, photometric
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelRepresentation, data.PixelSpacing = 0, [0.5, 0.5]
    data.InstanceNumber = "1"
    data.PixelData = pixels.astype("<u2").tobytes()
    data.save_as(path, enforce_file_format=True)


def lidc_xml(series: str, sessions: Iterable[Iterable[Drawing]], small: int = 0) -> str:
    """The readers' outlines of a series in LIDC's XML, with `small` marks without outline."""
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<LidcReadMessage uid="1.2.3" xmlns="http://www.nih.gov">',
        f"<ResponseHeader><Version>1.8.1</Version><SeriesInstanceUid>{series}</SeriesInstanceUid>",
        "</ResponseHeader>",
    ]
    for session in sessions:
        lines.append("<readingSession><annotationVersion>3.12</annotationVersion>")
        for number in range(small):
            lines.append(
                f"<unblindedReadNodule><noduleID>S{number}</noduleID><characteristics/><roi>"
                "<imageZposition>1.0</imageZposition><imageSOP_UID>1.2</imageSOP_UID>"
                "<inclusion>TRUE</inclusion><edgeMap><xCoord>1</xCoord><yCoord>2</yCoord></edgeMap>"
                "</roi></unblindedReadNodule><nonNodule><nonNoduleID>7</nonNoduleID></nonNodule>"
            )
        for drawing in session:
            lines.append(f"<unblindedReadNodule><noduleID>{drawing.name}</noduleID>")
            ratings = "".join(
                f"<{camel(name)}>{value}</{camel(name)}>" for name, value in drawing.ratings.items()
            )
            lines.append(f"<characteristics>{ratings}</characteristics>")
            for contour in drawing.contours:
                lines.append(
                    f"<roi><imageZposition>{contour.z_mm:.6f} </imageZposition>"
                    f"<imageSOP_UID>{contour.sop_uid}</imageSOP_UID>"
                    f"<inclusion>{str(contour.inclusion).upper()}</inclusion>"
                )
                lines += [
                    f"<edgeMap><xCoord>{column}</xCoord><yCoord>{row}</yCoord></edgeMap>"
                    for row, column in contour.points.tolist()
                ]
                lines.append("</roi>")
            lines.append("</unblindedReadNodule>")
        lines.append("</readingSession>")
    return "\n".join([*lines, "</LidcReadMessage>"])


def camel(name: str) -> str:
    """`internal_structure` as `internalStructure`."""
    first, _, rest = name.partition("_")
    return first + rest.capitalize()


def write_segmentation(
    path: Path, source: list[Dataset], masks: np.ndarray, names: list[str]
) -> None:
    """One file with a segment for each mask `(z, y, x, segment)` on the grid of the source."""
    nodule = CodedConcept("27925004", "SCT", "Nodule")
    segments = [
        highdicom.seg.SegmentDescription(
            number,
            name,
            CodedConcept("49755003", "SCT", "Morphologically abnormal structure"),
            nodule,
            highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(names, start=1)
    ]
    highdicom.seg.Segmentation(
        source,
        masks.astype(np.uint8),
        highdicom.seg.SegmentationTypeValues.BINARY,
        segments,
        uid_of(path, "series"),
        7,
        uid_of(path),
        1,
        "Maker",
        "Model",
        "1",
        "0",
    ).save_as(path)


def write_report(
    path: Path, segmentation: Path, source: list[Dataset], ratings: list[list[tuple[str, ...]]]
) -> None:
    """One report of TID 1500 that rates each segment of a file.

    Args:
        path: where to.
        segmentation: the SEG file.
        source: the slices.
        ratings: of each segment, code and scheme of what is rated, and code and scheme of how.
    """
    seg = highdicom.seg.segread(segmentation)
    series = highdicom.sr.SourceSeriesForSegmentation.from_source_image(source[0])
    groups = [
        highdicom.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=highdicom.sr.TrackingIdentifier(uid_of(path, number), "Nodule 1"),
            referenced_segment=highdicom.sr.ReferencedSegment(
                seg.SOPClassUID, seg.SOPInstanceUID, number, source_series=series
            ),
            finding_type=CodedConcept("27925004", "SCT", "Nodule"),
            qualitative_evaluations=[
                highdicom.sr.QualitativeEvaluation(
                    CodedConcept(name, of, name), CodedConcept(value, scheme, value)
                )
                for name, of, value, scheme in given
            ],
        )
        for number, given in enumerate(ratings, start=1)
    ]
    nobody = highdicom.sr.ObserverContext(
        CodedConcept("121006", "DCM", "Person"),
        highdicom.sr.PersonObserverIdentifyingAttributes("anonymous^observer"),
    )
    report = highdicom.sr.MeasurementReport(
        highdicom.sr.ObservationContext(observer_person_context=nobody),
        CodedConcept("25045-6", "LN", "Unspecified CT"),
        groups,
    )
    highdicom.sr.Comprehensive3DSR(
        [*source, seg], report, uid_of(path, "series"), 8, uid_of(path), 1, "Maker"
    ).save_as(path)
