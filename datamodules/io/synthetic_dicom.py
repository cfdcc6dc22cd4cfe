"""CT series with synthetic nodules as DICOM that says so, and their masks as DICOM SEG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from datamodules.io.dicom import Series, turned_round
from datamodules.io.whole_files import written_whole

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

KEPT = (
    *("Modality", "PatientPosition", "PositionReferenceIndicator"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
    *("SpacingBetweenSlices", "SliceLocation", "InstanceNumber", "AcquisitionNumber"),
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue"),
    *("RescaleIntercept", "RescaleSlope", "RescaleType", "WindowCenter", "WindowWidth"),
    *("KVP", "ConvolutionKernel", "ReconstructionDiameter", "GantryDetectorTilt"),
    *("ExposureTime", "XRayTubeCurrent", "Exposure", "ImagerPixelSpacing", "ViewPosition"),
    *("PatientOrientation", "PresentationIntentType", "PixelIntensityRelationship"),
    *("PixelIntensityRelationshipSign", "PresentationLUTShape", "LossyImageCompression"),
    *("BurnedInAnnotation", "AnatomicRegionSequence", "ImageLaterality", "DetectorType"),
    *("FieldOfViewOrigin", "FieldOfViewRotation", "FieldOfViewHorizontalFlip"),
)
"""What is taken over from the source: how it was scanned and where its voxels lie. Everything else,
all that may say whose it is and all private elements, is not."""

EMPTY = (
    *("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName"),
    *("StudyID", "AccessionNumber", "Manufacturer", "ContentDate", "ContentTime"),
)
EMPTY_CT = ("KVP", "AcquisitionNumber", "PositionReferenceIndicator", "SliceThickness")
"""What DICOM wants to be there, with or without a value."""

MAKER = "noduleforge"
DESCRIPTION = "SYNTHETIC nodules, noduleforge; not for diagnosis"


def write_synthetic_series(
    series: Series, voxels: NDArray[np.int16], out: Path, pseudonym: str, key: str
) -> list[Path]:
    """Write a series with changed voxels, one file a slice, in the order along its normal.

    Stored values of voxels that are as in the source are copied bit for bit; changed ones are
    rounded to what slope, intercept and bits can hold.

    Args:
        series: the source, without a gap.
        voxels: `(z, y, x)` int16 HU.
        out: folder to write.
        pseudonym: stands for the patient.
        key: new UIDs are made of it and the old ones: the same every time.

    Raises:
        ValueError: If a source's voxels are compressed in a way that cannot be read.
    """
    import pydicom

    paths = []
    for number, (one, wanted) in enumerate(zip(series.slices, voxels, strict=True)):
        source = pydicom.dcmread(one.path)
        data = describe(source, pseudonym, key)
        data.PixelData = stored(source, wanted, one.path).tobytes()
        path = out / f"{number + 1:04}.dcm"
        with written_whole(path) as temporary:
            data.save_as(temporary, enforce_file_format=True)
        paths.append(path)
    return paths


def write_dicom_radiograph(
    source: Path, pixels: NDArray[np.integer], path: Path, pseudonym: str, key: str
) -> None:
    """Write a radiograph with changed pixels; see `write_synthetic_series`.

    Args:
        source: the radiograph without nodules.
        pixels: `(y, x)`, bone bright, as `read_dicom_radiograph` reads them.
        path: file to write.
        pseudonym: stands for the patient.
        key: new UIDs are made of it and the old ones.
    """
    import pydicom

    old = pydicom.dcmread(source)
    data = describe(old, pseudonym, key)
    highest = 2 ** int(old.BitsStored) - 1
    stored = turned_round(pixels.clip(0, highest), old).astype(old.pixel_array.dtype)
    data.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    with written_whole(path) as temporary:
        data.save_as(temporary, enforce_file_format=True)


def describe(source: Dataset, pseudonym: str, key: str) -> Dataset:
    """The header of a synthetic slice: marked as such, without anybody's identity."""
    from highdicom.sr import CodedConcept
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    data = Dataset()
    of_ct = source.get("Modality") == "CT"
    for name in (*EMPTY, *(EMPTY_CT if of_ct else ())):
        setattr(data, name, None)
    for name in KEPT:
        if name in source:
            data[name] = source[name]
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = source.SOPClassUID
    data.SOPClassUID = source.SOPClassUID
    data.BodyPartExamined = "CHEST"
    uids = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
    for name in (*uids, *(("FrameOfReferenceUID",) if of_ct else ())):
        old = str(source.get(name, "")) or str(source.SeriesInstanceUID)
        setattr(data, name, generate_uid(entropy_srcs=[MAKER, key, name, old]))
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.ImageType = ["DERIVED", "SECONDARY", *source.get("ImageType", [])[2:]]
    data.PatientName, data.PatientID = f"SYNTHETIC^{pseudonym}", pseudonym
    data.PatientIdentityRemoved = "YES"
    data.DeidentificationMethod = "noduleforge: only geometry and acquisition are kept"
    data.StudyDescription = data.SeriesDescription = DESCRIPTION
    data.ImageComments = DESCRIPTION
    data.DerivationDescription = "Nodules were synthesized by a diffusion model and inserted"
    data.SeriesNumber = 1
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.SOPClassUID
    reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
    data.SourceImageSequence = [reference]
    equipment = Dataset()
    equipment.Manufacturer = MAKER
    equipment.ManufacturerModelName = MAKER
    equipment.SoftwareVersions = version(MAKER)
    equipment.ContributionDescription = "Insertion of synthetic nodules"
    equipment.PurposeOfReferenceCodeSequence = [
        CodedConcept("109102", "DCM", "Processing Equipment")
    ]
    data.ContributingEquipmentSequence = [equipment]
    return data


def stored(source: Dataset, wanted: NDArray[np.int16], path: Path) -> NDArray[np.integer]:
    """The values to store for a slice in HU.

    Raises:
        ValueError: If the source's voxels cannot be read.
    """
    try:
        old = source.pixel_array
    # pydicom has no decoder: NotImplementedError; one that fails: RuntimeError; no pixels at all:
    # AttributeError
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        message = f"{path} cannot be decoded ({error}): decompress it, for example with dcmdjpeg"
        raise ValueError(message) from error
    slope = float(source.get("RescaleSlope", 1))
    intercept = float(source.get("RescaleIntercept", 0))
    before = np.rint(old * slope + intercept).clip(-(2**15), 2**15 - 1).astype(np.int16)
    bits = int(source.BitsStored)
    low, high = (
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        if source.PixelRepresentation
        else (
            0,
            2**bits - 1,
        )
    )
    new = np.rint((wanted.astype(np.float64) - intercept) / slope).clip(low, high)
    values: NDArray[np.integer] = np.where(wanted == before, old, new.astype(old.dtype))
    return values.astype(old.dtype.newbyteorder("<"))


def write_segmentation(
    path: Path,
    slices: Sequence[Path],
    masks: Mapping[str, tuple[tuple[slice, ...], NDArray[np.uint8]]],
    shape: tuple[int, ...],
    key: str,
) -> None:
    """Write the masks of a synthetic series as one DICOM SEG, a segment for each nodule.

    Args:
        path: file to write.
        slices: the series' files, in the order of `write_synthetic_series`.
        masks: for each nodule's name a box of the series and its mask.
        shape: rows and columns of a slice.
        key: new UIDs are made of it.
    """
    import highdicom
    import pydicom
    from highdicom.sr import CodedConcept
    from pydicom.uid import generate_uid

    used = sorted({z for box, _ in masks.values() for z in range(box[0].start, box[0].stop)})
    array = np.zeros((len(used), *shape, len(masks)), np.uint8)
    for number, (box, mask) in enumerate(masks.values()):
        first = used.index(box[0].start)
        array[first : first + len(mask), box[1], box[2], number] = mask
    source = [pydicom.dcmread(slices[z], stop_before_pixels=True) for z in used]
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=CodedConcept(
                "49755003", "SCT", "Morphologically Abnormal Structure"
            ),
            segmented_property_type=CodedConcept("27925004", "SCT", "Nodule"),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=highdicom.AlgorithmIdentificationSequence(
                MAKER,
                CodedConcept("123110", "DCM", "Artificial Intelligence"),
                version(MAKER),
            ),
        )
        for number, name in enumerate(masks, start=1)
    ]
    segmentation = highdicom.seg.Segmentation(
        source_images=source,
        pixel_array=array,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=generate_uid(entropy_srcs=[MAKER, key, "seg series"]),
        series_number=2,
        sop_instance_uid=generate_uid(entropy_srcs=[MAKER, key, "seg"]),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MAKER,
        software_versions=version(MAKER),
        device_serial_number="0",
        series_description=DESCRIPTION,
    )
    with written_whole(path) as temporary:
        segmentation.save_as(temporary)
