"""Nodules as DICOM segmentation objects (SEG), one segment a reader's outline of a nodule."""

from pathlib import Path
from typing import NamedTuple

import highdicom
import numpy as np
import pydicom
from numpy.typing import NDArray

from datamodules.io.dicom import Series
from datamodules.io.limits import check_size


class Segment(NamedTuple):
    """One segment.

    Attributes:
        path: the file.
        number: of the segment in it.
        name: its label, with the file's name.
        reader: stands for who drew the file, by its SOP instance UID: outlines of one file are of
            different nodules.
        ratings: of a structured report, by name.
    """

    path: Path
    number: int
    name: str
    reader: str
    ratings: dict[str, int]


def list_segments(path: Path) -> tuple[str, list[Segment]]:
    """The series that a SEG file is about, and its segments.

    Raises:
        ValueError: If it does not say which series it is about, or is beyond
            `datamodules.io.limits`.
    """
    data = pydicom.dcmread(path, stop_before_pixels=True)
    check_size([int(data.get(name) or 1) for name in ("NumberOfFrames", "Rows", "Columns")], "it")
    references = data.get("ReferencedSeriesSequence")
    if not references:
        message = "does not say which series it is about"
        raise ValueError(message)
    segments = [
        Segment(
            path,
            int(one.SegmentNumber),
            f"{path.stem} {one.get('SegmentLabel', one.SegmentNumber)}",
            str(data.SOPInstanceUID),
            {},
        )
        for one in data.SegmentSequence
    ]
    return str(references[0].SeriesInstanceUID), segments


def locate(
    segment: Segment, series: Series, run: range
) -> tuple[NDArray[np.bool_], tuple[int, int, int]] | None:
    """The segment's voxels on the grid of a run.

    Returns:
        The mask, a box `(z, y, x)`, and the index of its first voxel; None if its first slice is
        not in the run.

    Raises:
        ValueError: If the segment is empty, is on another grid, or reaches beyond the run.
    """
    segmentation = highdicom.seg.segread(segment.path)
    volume = segmentation.get_volume(segment_numbers=[segment.number]).squeeze_channel()
    filled = np.argwhere(volume.array)
    if not len(filled):
        message = "is empty"
        raise ValueError(message)
    grid = series.grid(run)
    places = volume.map_indices_to_reference(filled[[0]])
    first = series.slice_of("", float(places[0, 2]))
    if first not in run:
        return None
    indices = np.array([grid.index(point) for point in volume.map_indices_to_reference(filled)])
    whole = np.rint(indices).astype(int)
    if np.abs(indices - whole).max() > 0.1 or len(np.unique(whole, axis=0)) < len(filled):
        message = "lies on another grid than its series"
        raise ValueError(message)
    low, high = whole.min(axis=0), whole.max(axis=0) + 1
    if low[0] < 0 or high[0] > len(run):
        message = "goes over a gap between slices"
        raise ValueError(message)
    mask = np.zeros(high - low, np.bool_)
    mask[tuple((whole - low).T)] = True
    z, y, x = low.tolist()
    return mask, (z, y, x)
