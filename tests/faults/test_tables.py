"""Tables that are none, are of another form, or lack what must be there, given to every command."""

from collections.abc import Callable
from dataclasses import dataclass

from faulty import Case, cases
from faulty_edits import cell, content, folder, packed, remove, rows, without

Change = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Table:
    """A table of a right input.

    Attributes:
        inputs: whose it is.
        name: the file.
        required: one of its columns that must be there.
        options: that make the command read it.
        told_in: as of `Case`.
    """

    inputs: str
    name: str
    required: str
    options: str = ""


TABLES = (
    Table("store", "nodules.csv", "mask"),
    Table("volumes", "table.csv", "patient_id"),
    Table("chestxray14", "Data_Entry_2017_v2020.csv", "Patient ID"),
    Table("chest", "shapes/nodules.csv", "image"),
    Table("chest", "there.csv", "study", "--avoid in/there.csv"),
    Table("radiographs", "radiographs.csv", "spacing_mm"),
    Table("runs", "full-1/nodules.csv", "subtype"),
    Table("runs", "full-1/generation.csv", "split"),
    Table("memorization", "synthetic/nodules.csv", "nodule_id"),
    Table("realism", "real/nodules.csv", "patient_id"),
    Table("autoencoder", "store/nodules.csv", "image"),
    Table("film autoencoder", "radiographs.csv", "image"),
    Table("insert", "requests.csv", "study"),
    Table("classifier", "synthetic/nodules.csv", "patient_id"),
    Table("detector", "normal/radiographs.csv", "patient_id"),
)


def lines(change: Callable[[list[bytes]], list[bytes]]) -> Change:
    """Change the lines of a table."""
    return lambda whole: b"\n".join(change(whole.splitlines())) + b"\n"


FORMS: dict[str, tuple[Change, tuple[str, ...]]] = {
    "empty": (lambda whole: b"", ("empty",)),
    "blank": (lambda whole: b" \n\n \n", ("empty",)),
    "gzip": (packed, ("gzip", "gunzip")),
    "UTF-16": (lambda whole: whole.decode().encode("utf-16"), ("UTF-16", "UTF-8")),
    "UTF-16 without a mark": (lambda whole: whole.decode().encode("utf-16-le"), ("NUL", "UTF-8")),
    "Latin-1": (lambda whole: whole + "é".encode("latin-1"), ("UTF-8", "line")),
    "a spreadsheet": (lambda whole: b"PK\x03\x04" + whole, ("spreadsheet", "CSV")),
    "a NUL byte": (lambda whole: whole.replace(b",", b"\0,", 1), ("NUL", "line 1")),
    "a short row": (
        lines(lambda own: [*own[:-1], own[-1].rpartition(b",")[0]]),
        ("cell(s)", "line"),
    ),
    "a long row": (lines(lambda own: [*own[:-1], own[-1] + b",more"]), ("cell(s)", "line")),
    "an open quote": (lines(lambda own: [own[0], b'"' + own[1], *own[2:]]), ("quote", "line 2")),
    "semicolons": (lambda whole: whole.replace(b",", b";"), ("semicolons", "commas")),
    "tabs": (lambda whole: whole.replace(b",", b"\t"), ("tabs", "commas")),
    "a doubled column": (
        lines(lambda own: [row + b"," + row.partition(b",")[0] for row in own]),
        ("more than once", "rename"),
    ),
    "blanks around a column": (
        lines(lambda own: [own[0].replace(b",", b", ", 1), *own[1:]]),
        ("blanks around",),
    ),
    "no row": (lines(lambda own: own[:1]), ("no rows",)),
}
"""Forms that no table may have, and words of their refusals."""

NOT_OF = {"there.csv": {"no row"}, "Data_Entry_2017_v2020.csv": {"blanks around a column"}}
"""Where a form is no fault (nodules to be avoided may be none), or another one."""


def faulty_forms(table: Table) -> list[Case]:
    """Every form of a table that is no table."""
    found = []
    for form, (change, says) in FORMS.items():
        if form in NOT_OF.get(table.name, ()):
            continue
        name = f"{table.inputs}: {table.name} with {form}"
        spoil = content(table.name, change)
        found.append(Case(name, table.inputs, spoil, (table.name, *says), table.options))
    told = (table.name, table.required)
    of_form = (
        ("missing", remove(table.name), (table.name,)),
        ("a folder", folder(table.name), (table.name,)),
        ("without a column", without(table.name, table.required), told),
    )
    for form, spoil, says in of_form:
        name = f"{table.inputs}: {table.name} {form}"
        found.append(Case(name, table.inputs, spoil, says, table.options))
    return found


SLOW = {"insert", "detector", "classifier", "film autoencoder", "autoencoder"}
FEW = ("gzip", "a short row", "missing", "without a column", "empty", "a doubled column")
"""One reader reads all tables: where a command takes long, some forms stand for all."""

FORM_CASES = [
    case
    for table in TABLES
    for case in faulty_forms(table)
    if table.inputs not in SLOW or case.name.endswith(FEW)
]


@cases(FORM_CASES)
def test_what_is_no_table_is_refused(case: Case, attempt: Callable[[Case], None]) -> None:
    attempt(case)


NODULES = "nodules.csv"
CELLS = [
    Case(f"{name} in a table of nodules", "store", spoil, ("nodules.csv", *says))
    for name, spoil, says in (
        ("an empty id", cell(NODULES, "nodule_id", ""), ("nodule_id", "line(s) 2")),
        ("an empty patient", cell(NODULES, "patient_id", ""), ("patient_id", "line(s) 2")),
        ("a blank patient", cell(NODULES, "patient_id", "  "), ("patient_id", "line(s) 2")),
        ("an empty image", cell(NODULES, "image", ""), ("image", "line(s) 2")),
        ("a repeated id", cell(NODULES, "nodule_id", "n1"), ("n1", "more than once")),
        ("an id with a slash", cell(NODULES, "nodule_id", "a/b"), ("a/b",)),
        ("an id that leads out", cell(NODULES, "nodule_id", "../n"), ("../n",)),
        ("a rating as a word", cell(NODULES, "malignancy", "high"), ("malignancy", "high")),
        ("a rating of 9", cell(NODULES, "malignancy", "9"), ("malignancy", "9")),
        ("a rating of NaN as text", cell(NODULES, "texture", "inf"), ("texture", "inf")),
        ("a decimal comma", cell(NODULES, "texture", "4,5"), ("texture", "4,5")),
        ("an unknown subtype", cell(NODULES, "subtype", "cavitary"), ("cavitary", "solid")),
        ("a subtype in capitals", cell(NODULES, "subtype", "Solid"), ("Solid", "solid")),
    )
]
FILMS = "radiographs.csv"
CELLS += [
    Case(f"{name} in a table of radiographs", "radiographs", spoil, ("radiographs.csv", *says))
    for name, spoil, says in (
        ("a spacing of 0", cell(FILMS, "spacing_mm", "0"), ("spacing_mm",)),
        ("a negative spacing", cell(FILMS, "spacing_mm", "-1"), ("spacing_mm", "-1")),
        ("a spacing as a word", cell(FILMS, "spacing_mm", "wide"), ("spacing_mm", "wide")),
        ("an infinite spacing", cell(FILMS, "spacing_mm", "inf"), ("spacing_mm", "inf")),
        ("an empty patient", cell(FILMS, "patient_id", ""), ("patient_id", "line(s) 2")),
        ("an unknown split", cell(FILMS, "split", "dev"), ("split", "dev")),
    )
]
ENTRIES, BOXES = "Data_Entry_2017_v2020.csv", "BBox_List_2017.csv"
CELLS += [
    Case(f"{name} in ChestX-ray14", "chestxray14", spoil, says)
    for name, spoil, says in (
        ("a box beyond the image", content(BOXES, lambda w: w.replace(b"300", b"3000")), ("3000",)),
        ("a box of no width", content(BOXES, lambda w: w.replace(b",50,50", b",0,50")), (BOXES,)),
        ("a box of words", content(BOXES, lambda w: w.replace(b"300", b"left")), (BOXES, "left")),
        ("no boxes", remove(BOXES), (BOXES,)),
        ("a spacing of words", content(ENTRIES, lambda w: w.replace(b"0.17", b"x")), (ENTRIES,)),
        ("a spacing of 0", content(ENTRIES, lambda w: w.replace(b"0.17", b"0")), (ENTRIES,)),
    )
]
LINES = "CLNDAT_EN.txt"
CELLS += [
    Case(f"{name} in JSRT's table", "jsrt", spoil, (LINES, *says))
    for name, spoil, says in (
        ("no line", content(LINES, lambda w: b""), ()),
        ("a place as a word", content(LINES, lambda w: w.replace(b"700", b"left")), ("left",)),
        ("a short line", content(LINES, lambda w: w[:30]), ()),
        ("a subtlety of 9", content(LINES, lambda w: w.replace(b"\t4\t", b"\t9\t")), ("9",)),
        (
            "a place beyond the film",
            content(LINES, lambda w: w.replace(b"700", b"7000")),
            ("7000",),
        ),
        ("UTF-16", content(LINES, lambda w: w.decode().encode("utf-16")), ("UTF-16",)),
        ("missing", remove(LINES), ()),
    )
]
CELLS += [
    Case(f"{name} in tested runs", "runs", spoil, says)
    for name, spoil, says in (
        ("a repeated nodule", rows("full-1/nodules.csv", {}), ("full-1",)),
        ("a figure as a word", cell("full-1/nodules.csv", "w1_first", "x"), ("w1_first", "x")),
        ("another nodule", cell("full-1/nodules.csv", "name", "other"), ("full-1",)),
        ("other data", cell("full-1/generation.csv", "data", "xyz"), ("xyz", "abc")),
        ("no test", cell("full-1/generation.csv", "split", "val"), ("test",)),
        ("a metric as a word", cell("full-1/generation.csv", "value", "much"), ("much",)),
        ("an unknown subtype", cell("full-1/nodules.csv", "subtype", "x"), ("full-1",)),
    )
]
CELLS += [
    Case(f"{name} of a nodule to be avoided", "chest", spoil, ("there.csv", says), OPTION)
    for OPTION in ("--avoid in/there.csv",)
    for name, spoil, says in (
        ("a place as a word", cell("there.csv", "x_mm", "left"), "left"),
        ("an empty place", cell("there.csv", "y_mm", ""), "y_mm"),
        ("a negative diameter", cell("there.csv", "diameter_mm", "-4"), "-4"),
        ("an infinite place", cell("there.csv", "z_mm", "inf"), "z_mm"),
    )
]


@cases(CELLS)
def test_a_faulty_cell_is_named(case: Case, attempt: Callable[[Case], None]) -> None:
    attempt(case)


def test_there_are_enough() -> None:
    assert len(FORM_CASES) + len(CELLS) > 200
