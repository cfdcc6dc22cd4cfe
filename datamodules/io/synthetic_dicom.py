"""CT series with synthetic nodules as DICOM that says so, and their masks as DICOM SEG."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from datamodules.io.dicom import Series, turned_round
from datamodules.io.dicom_elements import CT, taken_over
from datamodules.io.whole_files import written_whole

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

EMPTY = (
    *("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName"),
    *("StudyID", "AccessionNumber", "Manufacturer", "ContentDate", "ContentTime"),
    "InstanceNumber",
)
EMPTY_CT = (
    *("KVP", "AcquisitionNumber", "PositionReferenceIndicator", "SliceThickness"),
    "PatientPosition",
)
EMPTY_RADIOGRAPH = ("ViewPosition", "PatientOrientation")
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

    data, kept = Dataset(), taken_over(source)
    of_ct = kept.SOPClassUID == CT
    for name in (*EMPTY, *(EMPTY_CT if of_ct else EMPTY_RADIOGRAPH)):
        setattr(data, name, None)
    data.update(kept)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = source.SOPClassUID
    data.BodyPartExamined = "CHEST"
    uids = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
    for name in (*uids, *(("FrameOfReferenceUID",) if of_ct else ())):
        old = str(source.get(name, "")) or str(source.get("SeriesInstanceUID", ""))
        setattr(data, name, generate_uid(entropy_srcs=[MAKER, key, name, old]))
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.ImageType = ["DERIVED", "SECONDARY", *(["AXIAL"] if of_ct else [])]
    data.PatientName, data.PatientID = patient_name(pseudonym), pseudonym
    if not pseudonym.isascii():
        data.SpecificCharacterSet = "ISO_IR 192"
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


def patient_name(pseudonym: str) -> str:
    """A name that says that nobody has it: 64 characters at most, without DICOM's delimiters."""
    return f"SYNTHETIC^{re.sub('[=^]', '_', pseudonym)}"[:64].rstrip()


def check_series(series: Series) -> None:
    """Check that a series can be written with synthetic nodules, before any is synthesized.

    Raises:
        ValueError: If a slice's header lacks what must be there; names the file.
    """
    for one in series.slices:
        check_source(one.path, of_ct=True)


def check_source(path: Path, of_ct: bool) -> None:
    """Check that a CT slice or a radiograph can be written again.

    Args:
        path: the file.
        of_ct: whether it is a slice of a CT.

    Raises:
        ValueError: If its header lacks what must be there, or is that of something else.
    """
    import pydicom

    try:
        kept = taken_over(pydicom.dcmread(path, stop_before_pixels=True))
    except ValueError as error:
        message = f"{path} {error}"
        raise ValueError(message) from error
    if (kept.SOPClassUID == CT) != of_ct:
        expected = "a CT slice" if of_ct else "a radiograph"
        message = (
            f"{path} is of the SOP class {kept.SOPClassUID.name}, expected {expected}, so that it "
            "can be written again: convert the study to an image file"
        )
        raise ValueError(message)


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

    filled = {
        name: [box[0].start + int(z) for z in np.flatnonzero(mask.any(axis=(1, 2)))]
        for name, (box, mask) in masks.items()
    }
    used = sorted({z for several in filled.values() for z in several})
    # of nodules that lie apart; a voxel that rounding gives to two is the first's
    array = np.zeros((len(used), *shape), np.uint8 if len(masks) < 256 else np.uint16)
    for number, (name, (box, mask)) in enumerate(masks.items(), start=1):
        for z in filled[name]:
            part = array[used.index(z), box[1], box[2]]
            part[(mask[z - box[0].start] > 0) & (part == 0)] = number
    source = [pydicom.dcmread(slices[z], stop_before_pixels=True) for z in used]
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name[:64],
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
    measures = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    if "SliceThickness" not in measures:  # the series does not say it, and a SEG must
        measures.SliceThickness = measures.SpacingBetweenSlices
    with written_whole(path) as temporary:
        segmentation.save_as(temporary)
