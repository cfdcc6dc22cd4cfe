import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from datamodules.file_names import check_file_name, is_file_name, safe_file_name

TEXTS = st.text() | st.text(string.ascii_letters + string.digits + "_.-/ ", max_size=8)


@pytest.mark.parametrize("name", ["n0", "000-0", "Nodule 1", "1.3.6.1.4.1.100", "_x", "A" * 200])
def test_a_plain_name_may_become_part_of_a_path(name: str) -> None:
    assert check_file_name(name, "name") == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", ".hidden", "a/b", "x/../../victim", "/etc", r"a\b", "C:x", "~", "-rf"),
        *("a\n", "a\x00", "a ", " a", "a.", "结节", "e\u0301", "\u202egnp", "nul", "COM1.txt"),
        *("A" * 201, "a*", 'a"', "<a>"),
    ],
)
def test_what_could_lead_elsewhere_or_is_no_name_everywhere_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"name is .*, which names files: give 1 to 200 letters"):
        check_file_name(name, "name")


def test_a_message_shows_the_beginning_of_a_long_name() -> None:
    with pytest.raises(ValueError, match=r"^name is 'x{64}\.\.\.', which"):
        check_file_name("x" * 10_000, "name")


@pytest.mark.parametrize("name", ["LIDC-IDRI-0001", "1.3.6.1.4.1.100", "0001", "9" * 20])
def test_plain_names_of_large_letters_and_digits_stay(name: str) -> None:
    assert safe_file_name(name) == name


def test_other_texts_keep_a_readable_beginning() -> None:
    assert safe_file_name("a/b.mha").startswith("a_b_mha-")
    assert safe_file_name("Jos\u00e9").startswith("Jose-")
    assert is_file_name(safe_file_name("患者一"))


@given(TEXTS)
@example("/".join(["1.3.6.1.4.1." + "1" * 50] * 3))
@example("\ud800")
@example("NUL")
def test_every_text_gets_a_name(text: str) -> None:
    assert check_file_name(safe_file_name(text), "name") == safe_file_name(text)


@given(TEXTS, TEXTS)
@example("a", "A")
@example("a b", "a_b")
@example("a/b.mha", "a_b.mha")
@example("患者一", "患者二")
@example("患者一", safe_file_name("患者一"))
@example("a b", safe_file_name("a b").upper())
@example("\u00e9", "e\u0301")
def test_different_texts_get_different_names_even_without_case(one: str, other: str) -> None:
    same = safe_file_name(one).casefold() == safe_file_name(other).casefold()
    assert same == (one == other)
