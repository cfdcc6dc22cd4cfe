"""Readers' ratings as DICOM structured reports (SR) of template TID 1500, as TCIA has LIDC's.

Each measurement group rates one segment of a DICOM SEG. The codes are those of the standardized
LIDC-IDRI annotations (Fedorov et al. 2020), both of its first form and of its later one.
"""

from pathlib import Path

import highdicom
from highdicom.sr import (
    CodedConcept,
    MeasurementReport,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)

from datamodules.ratings import RATINGS

Ratings = dict[tuple[str, int], dict[str, int]]
"""By SOP instance UID and number of a segment, the ratings under the names of `RATINGS`."""

OWN = "99LIDCQIICR"
"""The coding scheme of LIDC's own codes, whose last digit is the rating."""

REFERENCED_SEGMENT = CodedConcept("121191", "DCM", "Referenced Segment")

CONCEPTS = {
    ("C45992", "NCIt"): "subtlety",
    ("200", OWN): "internal_structure",
    ("C3672", "NCIt"): "calcification",
    ("400", OWN): "sphericity",
    ("C25563", "NCIt"): "margin",
    ("600", OWN): "lobulation",
    ("C62175", "NCIt"): "lobulation",
    ("700", OWN): "spiculation",
    ("C28749", "NCIt"): "spiculation",
    ("C41144", "NCIt"): "texture",
    ("900", OWN): "malignancy",
    ("RID36042", "RadLex"): "malignancy",
}
"""What each code rates."""

VALUES = {
    "internal_structure": {"C12471": 1, "C25278": 2, "C12472": 3, "C73434": 4},
    "calcification": {"RID35453": 1, "RID5741": 3, "RID5827": 5, "RID28473": 6},
    "sphericity": {"RID5811": 1, "RID5800": 3, "RID5799": 5},
    "margin": {"RID5709": 1, "RID5707": 5},
    "texture": {"RID50153": 1, "RID50152": 3, "RID50151": 5},
}
"""Ratings that common terminologies have a code for."""


def read_report(path: Path) -> Ratings:
    """Read the ratings of one report.

    Raises:
        ValueError: If it is no report of TID 1500 on segments, or rates something as no reader of
            LIDC can.
    """
    try:
        report = highdicom.sr.srread(path).content
        if not isinstance(report, MeasurementReport):
            message = "is no structured report of TID 1500"
            raise ValueError(message)
        groups = report.get_volumetric_roi_measurement_groups()
    # damaged or foreign content leads highdicom to nearly any exception
    except Exception as error:
        message = f"is no structured report of TID 1500 that can be read ({error})"
        raise ValueError(message) from error
    found: Ratings = {}
    for group in groups:
        segment = group.referenced_segment
        if segment is None:
            continue
        for item in segment:
            if item.name != REFERENCED_SEGMENT or not item.referenced_segment_numbers:
                continue
            key = (str(item.referenced_sop_instance_uid), int(item.referenced_segment_numbers[0]))
            if key in found:
                message = f"rates segment {key[1]} twice"
                raise ValueError(message)
            found[key] = _ratings(group)
    if not found:
        message = "is a structured report that rates no segment"
        raise ValueError(message)
    return found


def _ratings(group: VolumetricROIMeasurementsAndQualitativeEvaluations) -> dict[str, int]:
    ratings: dict[str, int] = {}
    for (evaluation,) in group.get_qualitative_evaluations():
        rating = CONCEPTS.get((evaluation.name.value, evaluation.name.scheme_designator))
        if rating is None:
            continue
        if rating in ratings:
            message = f"gives {rating} of one segment twice"
            raise ValueError(message)
        ratings[rating] = _value(rating, evaluation.value)
    return ratings


def _value(rating: str, code: CodedConcept) -> int:
    value = VALUES.get(rating, {}).get(code.value)
    if value is None and code.scheme_designator == OWN and code.value[-1:].isdecimal():
        value = int(code.value[-1])
    low, high = RATINGS[rating]
    if value is None or not low <= value <= high:
        message = f"has the {rating} {code.meaning!r} ({code.value}), which is none of LIDC's"
        raise ValueError(message)
    return value
