"""The one reader of tables: what it refuses, and that it reads right ones as pandas does."""

import gzip
import io
from pathlib import Path

import pandas as pd
import pytest

from datamodules.tables import empty_cells, listed, read_table

RIGHT = "nodule_id,patient_id,diameter_mm\n001,0007,5.25\n002,Müller,\n"
TEXTS = {"nodule_id": str, "patient_id": str}

FAULTS = {
    "empty": (b"", "is empty: write it again"),
    "blank": (b" \n\n", "is empty: write it again"),
    "header alone": (b"nodule_id,patient_id,diameter_mm\n", "has no rows below its header"),
    "UTF-16": (RIGHT.encode("utf-16"), "is UTF-16 text, expected plain text: save it as UTF-8"),
    "UTF-16 unmarked": (RIGHT.encode("utf-16-le"), "has a NUL byte in line 1"),
    "Latin-1": (RIGHT.encode("latin-1"), "is no UTF-8 text, by line 3 .*save it as UTF-8"),
    "gzip": (gzip.compress(RIGHT.encode()), "is compressed with gzip.*unpack it"),
    "spreadsheet": (b"PK\x03\x04", "is a zip file or a spreadsheet.*save it as CSV"),
    "NUL bytes": (RIGHT.encode() + bytes(9), "has a NUL byte in line 4"),
    "a cell too few": (RIGHT.encode() + b"3,4\n", r"line 4 has 2 cell\(s\), expected 3"),
    "a cell too many": (RIGHT.encode() + b"\n3,4,5,6\n", r"line 5 has 4 cell\(s\), expected 3"),
    "too many in all": (b"nodule_id,patient_id\n1,2,3\n", r"line 2 has 3 cell\(s\), expected 2"),
    "open quote": (RIGHT.encode() + b'3,"4,5\n6,7,8\n', "quote that is not closed.*in line 4"),
    "quote closed late": (
        RIGHT.encode() + b'3,"4,5\n6,"7",8\n',
        "quote that is not closed, or text beside one, in the row that begins in line 4",
    ),
    "doubled column": (b"nodule_id,a,a\n1,2,3\n", r"column\(s\) a more than once"),
    "padded column": (b"nodule_id, seed\n1,2\n", r"blanks around .* \[' seed'\]: remove them"),
    "semicolons": (RIGHT.replace(",", ";").encode(), "has semicolons between its cells"),
    "tabs": (RIGHT.replace(",", "\t").encode(), "has tabs between its cells"),
    "lacking column": (b"nodule_id\n1\n", r"lacks the column\(s\) patient_id \(found: nodule_id\)"),
}


@pytest.mark.parametrize(("content", "said"), FAULTS.values(), ids=FAULTS)
def test_a_faulty_table_is_refused_with_its_name_and_a_mend(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "nodules.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said) as refusal:
        read_table(path, TEXTS, ("nodule_id", "patient_id"))
    assert str(refusal.value).startswith(str(path))


@pytest.mark.parametrize(
    "text",
    [
        RIGHT,
        "\ufeff" + RIGHT,
        RIGHT.replace("\n", "\r\n"),
        RIGHT.replace("\n", "\n\n") + "  \n",
        ',nodule_id,note\n0,1,"two\nlines, ""quoted"""\n',
    ],
    ids=["plain", "byte order mark", "Windows", "blank lines", "index and quotes"],
)
def test_a_right_table_is_read_as_pandas_does(tmp_path: Path, text: str) -> None:
    path = tmp_path / "nodules.csv"
    path.write_bytes(text.encode())
    expected = pd.read_csv(io.BytesIO(text.encode()), dtype=TEXTS)
    pd.testing.assert_frame_equal(read_table(path, TEXTS), expected)


def test_columns_can_be_named_anew(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("Index,Bbox [x,y],,\n001.png,2,3\n")  # a header as ChestX-ray14's
    table = read_table(path, {"image": str}, names=("image", "x", "y"))
    assert table.to_dict("records") == [{"image": "001.png", "x": 2, "y": 3}]


def test_of_many_ragged_rows_ten_are_told(tmp_path: Path) -> None:
    path = tmp_path / "nodules.csv"
    path.write_text("a,b\n" + "1\n" * 30)
    with pytest.raises(ValueError, match="and 20 more like these") as refusal:
        read_table(path)
    assert str(refusal.value).count("expected 2") == 10


def test_a_table_may_be_allowed_to_have_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "candidates.csv"
    path.write_text("image,score\n")
    assert list(read_table(path, empty=True)) == ["image", "score"]


def test_a_folder_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is a folder"):
        read_table(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_table(tmp_path / "nodules.csv")


def test_of_many_names_ten_are_listed(tmp_path: Path) -> None:
    assert listed(range(10)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert listed(range(13)).endswith("8, 9 and 3 more")
    table = pd.DataFrame({"a": [None] * 12 + ["x"], "b": ["y"] * 13})
    (told,) = empty_cells(table, ("a", "b"), tmp_path / "t.csv")
    assert told.endswith(
        "a is empty in line(s) 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 2 more: fill it in"
    )
