"""What a synthetic DICOM image takes over from its source: numbers and codes alone, all valid.

Whatever stands in the source's header, what is made of it is valid DICOM and holds no free text; a
source that lacks what cannot be left out is refused.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

NEEDED = (
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated"),
    *("BitsStored", "PixelRepresentation", "SOPInstanceUID"),
)
"""Without these there is no image."""

NEEDED_CT = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
NEEDED_DX = ("PixelIntensityRelationship", "PixelIntensityRelationshipSign")

NUMBERS = (
    *("SliceThickness", "SpacingBetweenSlices", "SliceLocation", "InstanceNumber"),
    *("AcquisitionNumber", "HighBit", "PixelPaddingValue", "RescaleIntercept", "RescaleSlope"),
    *("WindowCenter", "WindowWidth", "KVP", "ReconstructionDiameter", "GantryDetectorTilt"),
    *("ExposureTime", "XRayTubeCurrent", "Exposure", "ImagerPixelSpacing"),
    *("FieldOfViewOrigin", "FieldOfViewRotation"),
)
"""What is left out where it is not valid: how the image was taken, and how it is shown."""

POSITIVE = ("SliceThickness", "SpacingBetweenSlices", "KVP", "ImagerPixelSpacing", "PixelSpacing")

YES_NO = ("YES", "NO")
CODES: dict[str, tuple[str, ...]] = {
    "PatientPosition": (
        *("HFS", "HFP", "HFDR", "HFDL", "FFS", "FFP", "FFDR", "FFDL"),
        *("LFP", "LFS", "RFP", "RFS", "AFDR", "AFDL", "PFDR", "PFDL"),
    ),
    "PhotometricInterpretation": ("MONOCHROME1", "MONOCHROME2"),
    "RescaleType": ("HU", "US", "OD"),
    "ViewPosition": ("AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO"),
    "PixelIntensityRelationship": ("LIN", "LOG"),
    "PresentationLUTShape": ("IDENTITY", "INVERSE"),
    "LossyImageCompression": ("00", "01"),
    "BurnedInAnnotation": YES_NO,
    "ImageLaterality": ("R", "L", "U", "B"),
    "DetectorType": ("DIRECT", "SCINTILLATOR", "STORAGE", "FILM"),
    "FieldOfViewHorizontalFlip": YES_NO,
}
"""Elements of text, and the values of theirs that are taken over."""

DIRECTION = re.compile("[LRAPHF]{1,3}")
"""A value of PatientOrientation."""

CT = "1.2.840.10008.5.1.4.1.1.2"
CR = "1.2.840.10008.5.1.4.1.1.1"
DX, DX_RAW = f"{CR}.1", f"{CR}.1.1"
SECONDARY = "1.2.840.10008.5.1.4.1.1.7"
MODALITIES = {CT: "CT", CR: "CR", DX: "DX", DX_RAW: "DX", SECONDARY: "OT"}
"""SOP classes that can be written, and their modality."""


def taken_over(source: Dataset) -> Dataset:
    """The elements of a header that a synthetic image keeps.

    Args:
        source: the header of a CT slice or a radiograph.

    Raises:
        ValueError: If it is no image of a kind that can be written, or lacks what such an image
            must have; says what.
    """
    from pydicom.dataset import Dataset

    data = Dataset()
    kind = str(source.get("SOPClassUID", ""))
    if kind not in MODALITIES:
        message = (
            f"is of the SOP class {kind or 'none'}, expected a CT slice or a radiograph (CR, DX or "
            "secondary capture), so that it can be written again: convert it to an image file"
        )
        raise ValueError(message)
    data.SOPClassUID, data.Modality = kind, MODALITIES[kind]
    needed = {CT: NEEDED_CT, DX: NEEDED_DX, DX_RAW: NEEDED_DX}.get(kind, ())
    for name in dict.fromkeys((*NEEDED, *needed, *NUMBERS, *CODES, "PixelSpacing")):
        take(source, name, data)
    lacking = [name for name in (*NEEDED, *needed) if name not in data]
    if lacking:
        message = (
            f"has no valid {', '.join(lacking)}, without which it cannot be written again: correct "
            "the header, or convert the study to an image file"
        )
        raise ValueError(message)
    if "HighBit" not in data:
        data.HighBit = data.BitsStored - 1
    _complete(source, data)
    return data


def take(source: Dataset, name: str, data: Dataset) -> None:
    """Take over an element if it is there and valid.

    Args:
        source: where it may be.
        name: its keyword.
        data: gets it.
    """
    from pydicom.config import RAISE
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.dataelem import DataElement

    tag = tag_for_keyword(name)
    if tag is None or tag not in source:
        return
    try:
        value = source[tag].value
        if value is None or value == "" or not _allowed(name, value):
            return
        vr = dictionary_VR(tag)
        if vr == "DS":
            value = _decimals(value)
        elif vr == "US or SS":
            vr = "SS" if source.get("PixelRepresentation") else "US"
        data[tag] = DataElement(tag, vr, value, validation_mode=RAISE)
    # what pydicom raises for bytes that are no value of the element's type
    except (ValueError, TypeError, OverflowError, NotImplementedError):
        return


def _several(value: Any) -> list[Any]:
    """The values of an element that has none, one or several."""
    from pydicom.multival import MultiValue

    if value is None:
        return []
    return list(value) if isinstance(value, MultiValue | list) else [value]


def _allowed(name: str, value: Any) -> bool:
    """Whether a value is one of an element's codes, and above 0 where it must be."""
    if name in CODES:
        return str(value) in CODES[name]
    if name in POSITIVE:
        return all(float(one) > 0 for one in _several(value))
    return True


def _decimals(value: Any) -> Any:
    """Decimal numbers as they are written, or shortened to the 16 characters that DICOM allows."""
    from pydicom.valuerep import format_number_as_ds

    several = _several(value)
    if not all(map(math.isfinite, several)):
        message = f"{value} is not finite"
        raise ValueError(message)
    short = [one if len(str(one)) <= 16 else format_number_as_ds(float(one)) for one in several]
    return short if len(short) > 1 else short[0]


def _complete(source: Dataset, data: Dataset) -> None:
    """Add what an image of its kind must have, and take away what makes no sense alone."""
    from highdicom.sr import CodedConcept

    centers, widths = (_several(data.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if len(centers) != len(widths) or not all(width >= 1 for width in widths):
        for name in ("WindowCenter", "WindowWidth"):
            data.pop(name, None)
    kind = data.SOPClassUID
    if kind == CT:
        for name, usual in (("RescaleIntercept", 0), ("RescaleSlope", 1)):
            if name not in source:
                setattr(data, name, usual)
        if not data.get("RescaleSlope") or "RescaleIntercept" not in data:
            message = "has a RescaleSlope or RescaleIntercept that is no number: correct the header"
            raise ValueError(message)
        if data.get("PresentationLUTShape") == "INVERSE":
            del data.PresentationLUTShape
        return
    orientation = _several(source.get("PatientOrientation"))
    valid = len(orientation) == 2 and all(map(DIRECTION.fullmatch, map(str, orientation)))
    data.PatientOrientation = orientation if valid else None
    if kind == SECONDARY:
        data.ConversionType = "SYN"
    if kind in (DX, DX_RAW):
        chest = CodedConcept("51185008", "SCT", "Thorax")
        data.AnatomicRegionSequence = [chest]
        data.AcquisitionContextSequence, data.PositionerType = [], None
        levels = 2 ** int(data.BitsStored)
        data.PresentationIntentType = "FOR PRESENTATION" if kind == DX else "FOR PROCESSING"
        defaults: dict[str, Any] = {
            **{"RescaleIntercept": 0, "RescaleSlope": 1, "RescaleType": "US"},
            **{"ImageLaterality": "U", "BurnedInAnnotation": "NO", "LossyImageCompression": "00"},
            "PresentationLUTShape": (
                "INVERSE" if data.PhotometricInterpretation == "MONOCHROME1" else "IDENTITY"
            ),
            "DetectorType": None,
            "ImagerPixelSpacing": data.get("PixelSpacing"),
        }
        if kind == DX:
            defaults |= {"WindowCenter": levels // 2, "WindowWidth": levels}
        for name, value in defaults.items():
            if name not in data:
                setattr(data, name, value)
