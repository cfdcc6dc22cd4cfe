"""An expression selects rows, and does nothing else."""

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.selection import selected
from datamodules.tables import select_rows

TABLE = pd.DataFrame(
    {
        "nodule_id": ["a", "b", "c", "d"],
        "subtype": ["solid", "part-solid", "solid", None],
        "cost": [1.0, 2.5, float("nan"), 4.0],
        "count": [1, 2, 3, 4],
        "seen": [True, False, True, False],
        "view position": ["PA", "AP", "PA", "AP"],
        "empty": [float("nan")] * 4,
    }
)


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("cost < 3", "ab"),
        ("1 < cost <= 4", "bd"),
        ("1 < count < cost + 1", "bd"),
        ("cost == cost", "abd"),
        ("not cost < 3", "cd"),
        ("subtype == 'solid'", "ac"),
        ("subtype != 'solid'", "bd"),
        ('nodule_id in ["a", "d"]', "ad"),
        ("nodule_id not in ('a', 'd')", "bc"),
        ("count in [1, 3] and cost == 1", "a"),
        ("seen and count > 1 or cost == 4", "cd"),
        ("(seen) & (count > 1) | ~(cost < 4)", "cd"),
        ("seen == True", "ac"),
        ("(count + 1) % 2 == 0", "ac"),
        ("2 ** count // 2 - 1 >= -count / -1 + 3", "d"),
        ("`view position` == 'PA'", "ac"),
        ("nodule_id != '`view position`'", "abcd"),
        ("empty == 1 or count == 2", "b"),
    ],
)
def test_rows_are_those_that_pandas_would_choose(expression: str, rows: str) -> None:
    chosen = TABLE[selected(TABLE, expression)]
    assert "".join(chosen["nodule_id"]) == rows
    pd.testing.assert_frame_equal(chosen, TABLE.query(expression, engine="python"))


@pytest.mark.parametrize(
    "expression",
    [
        "@pd.io.common.os.system('touch trace')",
        "nodule_id.to_csv('trace')",
        "nodule_id.str.contains('a')",
        "__import__('os')",
        "cost.__class__ == 1",
        "nodule_id[0] == 'a'",
        "[x for x in [1]] == cost",
        "(lambda: cost > 1)()",
        "cost > 1 if seen else cost",
        "(y := cost) > 1",
        "f'{cost}' == nodule_id",
        "cost is None",
        "cost == None",
        "cost == [1.0]",
        "count in cost",
        "count in [[1]]",
        "cost",
        "count",
        "nodule_id",
        "not count",
        "seen and cost",
        "cost > 1 & count < 2",
        "True",
        "1 < 2",
        "absent > 1",
        "subtype < 3",
        "count == '1'",
        "seen == 'true'",
        "nodule_id in ['a', 1]",
        "nodule_id + 'x' == 'ax'",
        "cost > 9 ** 9 ** 9",
        "cost > 1 / 0",
        "cost = 1",
        "cost > 1; cost",
        "",
        "'",
        "`cost",
        "cost > \0",
        "(" * 500 + "cost" + ")" * 500 + " > 1",
        "cost > " + "-" * 5000 + "1",
    ],
)
def test_anything_else_is_refused(
    expression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"is no query on nodules\.csv \("):
        select_rows(TABLE, expression, "nodules.csv")
    assert not list(tmp_path.iterdir())


@given(st.text(st.sampled_from("cost nd()[]<>=!+-*/%&|~'\"`.,@:0123456789ai"), max_size=40))
def test_no_text_breaks_it(expression: str) -> None:
    try:
        kept = select_rows(TABLE, expression, "nodules.csv")
    except ValueError as error:
        assert "nodules.csv" in str(error)  # noqa: PT017
    else:
        assert 0 < len(kept) <= len(TABLE)
