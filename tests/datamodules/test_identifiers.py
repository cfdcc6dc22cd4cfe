import pandas as pd
import pytest

from datamodules.identifiers import check_readings, identifier, identifiers, reading


@pytest.mark.parametrize(
    "text",
    ["P1", " P1", "P1\t", "\u00a0P1\u3000", "\ufeffP1", "P1\u200b", "P1\r\n", "\u2060P1\u2009"],
)
def test_blanks_of_any_kind_are_no_part_of_an_identifier(text: str) -> None:
    assert identifier(text) == "P1"


def test_identifiers_have_one_unicode_form() -> None:
    assert identifier("Ju\u0308rgen") == identifier("J\u00fcrgen") == "J\u00fcrgen"
    assert identifier("張 偉") == "張 偉"  # blanks within are kept
    assert identifier(" \u200b ") == ""


def test_identifiers_are_their_own_form() -> None:
    for text in (" a b ", "0001", "1.0", "\ufeff Ju\u0308rgen\u00a0"):
        assert identifier(identifier(text)) == identifier(text)


def test_a_column_keeps_its_missing_cells() -> None:
    column = identifiers(pd.Series([" P1", None, "  ", "P1\u00a0"]))
    assert column.isna().tolist() == [False, True, True, False]
    assert column.dropna().tolist() == ["P1", "P1"]
    assert identifiers(pd.Series([None, None], dtype=object)).isna().all()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("P1", "p1"),
        ("1", "01"),
        ("LIDC-IDRI-0001", "LIDC-IDRI-1"),
        ("1", "1.0"),
        ("0", "00"),
        ("\uff11\uff12", "12"),
        ("a b", "a  b"),
        ("Straße", "STRASSE"),
        ("P\u00ad1", "P1"),
    ],
)
def test_what_reads_the_same_is_refused_with_both_named(one: str, other: str) -> None:
    with pytest.raises(ValueError, match="read the same") as refused:
        check_readings([one, other, one], "table.csv", "patient_id")
    assert repr(one) in str(refused.value)
    assert repr(other) in str(refused.value)


def test_what_reads_otherwise_is_accepted() -> None:
    names = [
        "1",
        "10",
        "100",
        "P1",
        "P10",
        "1.2.3",
        "1.2.30",
        "1.0.3",
        "a-b",
        "a_b",
        "李娜",
        "张伟",
    ]
    check_readings([*names, *names], "table.csv", "patient_id")
    assert len({reading(name) for name in names}) == len(names)
