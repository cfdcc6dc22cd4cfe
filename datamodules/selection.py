"""Which rows an expression selects: columns compared with values, and nothing that could run.

The expression is Python's, read as a syntax tree, of which the few kinds below are computed here;
nothing is handed to `eval`, pandas' included, which calls functions and follows attributes.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import pandas as pd

COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}

ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}

LOGIC: Mapping[type[ast.boolop | ast.operator], Callable[[Any, Any], Any]] = {
    ast.And: operator.and_,
    ast.Or: operator.or_,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
}

QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`([^`]*)`""")
"""A text, or a column's name in backticks."""


def selected(table: pd.DataFrame, expression: str) -> pd.Series[bool]:
    """Tell for each row whether an expression holds.

    It may have comparisons (chained too), `in` and `not in` a list, `and`, `or` and `not` (or `&`,
    `|` and `~`), and arithmetic, over the table's columns (in backticks where a name has spaces),
    numbers, texts, True and False. Numbers and texts are not compared: nothing would be equal.

    Args:
        table: the rows.
        expression: for example "link_cost < 3 and subtype in ['solid', 'part-solid']".

    Raises:
        ValueError: If it has anything else, names no column, or does not say yes or no of each row.
    """
    names: dict[str, str] = {}

    def plain(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0]
        name = f"_column_{len(names)}_"
        names[name] = match[1]
        return name

    try:
        tree = ast.parse(QUOTED.sub(plain, expression).strip(), mode="eval")
        result = _Selection(table, names).visit(tree.body)
    except (SyntaxError, RecursionError, MemoryError) as error:
        message = "it is not written as Python writes comparisons"
        raise ValueError(message) from error
    if not _is_column(result):
        message = "it names no column, so that it says the same of all rows"
        raise ValueError(message)
    _check_truth(result)
    chosen: pd.Series[bool] = result.astype(bool)
    return chosen


class _Selection(ast.NodeVisitor):
    """Computes the kinds of nodes that have a method here, and refuses all others."""

    def __init__(self, table: pd.DataFrame, names: Mapping[str, str]) -> None:
        self.table, self.names = table, names

    def generic_visit(self, node: ast.AST) -> NoReturn:
        shown = ast.unparse(node)
        message = (
            f"{shown!r} is not allowed: use comparisons, and, or, not, in, and arithmetic over "
            "columns, numbers and texts"
        )
        raise ValueError(message)

    def visit_Name(self, node: ast.Name) -> Any:
        name = self.names.get(node.id, node.id)
        if name not in self.table:
            message = f"there is no column {name!r}"
            raise ValueError(message)
        return self.table[name]

    def visit_Constant(self, node: ast.Constant) -> Any:
        if not isinstance(node.value, str | int | float):
            self.generic_visit(node)
        return node.value

    def visit_List(self, node: ast.List | ast.Tuple) -> list[Any]:
        values = [self.visit(one) for one in node.elts]
        if any(_is_column(one) or isinstance(one, list) for one in values):
            self.generic_visit(node)
        return values

    visit_Tuple = visit_List

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        value = self.visit(node.operand)
        if isinstance(node.op, ast.Not | ast.Invert):
            _check_truth(value)
            return ~value
        number = _as_number(value)
        return number if isinstance(node.op, ast.UAdd) else -number

    def visit_BinOp(self, node: ast.BinOp) -> Any:
        left, right = self.visit(node.left), self.visit(node.right)
        if type(node.op) in LOGIC:
            return _joined(LOGIC[type(node.op)], left, right)
        if type(node.op) not in ARITHMETIC:
            self.generic_visit(node)
        try:
            return ARITHMETIC[type(node.op)](_as_number(left), _as_number(right))
        except ArithmeticError as error:
            message = f"{ast.unparse(node)!r} is no number ({error})"
            raise ValueError(message) from error

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        result, *others = (self.visit(one) for one in node.values)
        for other in others:
            result = _joined(LOGIC[type(node.op)], result, other)
        return result

    def visit_Compare(self, node: ast.Compare) -> Any:
        values = [self.visit(one) for one in (node.left, *node.comparators)]
        result: Any = None
        for left, kind, right in zip(values, node.ops, values[1:], strict=False):
            one = self._compared(node, left, kind, right)
            result = one if result is None else _joined(operator.and_, result, one)
        return result

    def _compared(self, node: ast.Compare, left: Any, kind: ast.cmpop, right: Any) -> Any:
        if isinstance(kind, ast.In | ast.NotIn):
            if not _is_column(left) or not isinstance(right, list):
                message = f"{ast.unparse(node)!r}: in and not in take a column, then a list"
                raise ValueError(message)
            for one in right:
                _check_alike(node, left, one)
            among = left.isin(right)
            return among if isinstance(kind, ast.In) else ~among
        if type(kind) not in COMPARISONS or isinstance(left, list) or isinstance(right, list):
            self.generic_visit(node)
        _check_alike(node, left, right)
        return COMPARISONS[type(kind)](left, right)


def _is_column(value: Any) -> bool:
    import pandas as pd

    return isinstance(value, pd.Series)


def _kind(value: Any) -> str:
    """`text`, `number`, `flag`, or nothing for a column that holds nothing or several kinds."""
    import pandas as pd

    found = pd.api.types.infer_dtype(value if _is_column(value) else [value], skipna=True)
    kinds = {"string": "text", "integer": "number", "floating": "number", "boolean": "flag"}
    return kinds.get(found, "number" if found == "mixed-integer-float" else "")


def _check_alike(node: ast.AST, left: Any, right: Any) -> None:
    """Refuse to compare a text with what is none: the answer would be the same for all rows."""
    kinds = {_kind(left), _kind(right)}
    if "text" in kinds and kinds & {"number", "flag"}:
        message = (
            f"{ast.unparse(node)!r} compares a text with a number, True or False: put quotes "
            "around a value of a column of texts, and none around others"
        )
        raise ValueError(message)


def _as_number(value: Any) -> Any:
    """As floating-point numbers, which neither overflow nor grow without end."""
    if isinstance(value, list) or _kind(value) == "text":
        message = "arithmetic takes numbers, not texts or lists"
        raise ValueError(message)
    return value.astype(float) if _is_column(value) else float(value)


def _joined(joins: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    for one in (left, right):
        _check_truth(one)
    return joins(left, right)


def _check_truth(value: Any) -> None:
    """Refuse what does not say yes or no of each row."""
    import pandas as pd

    if not _is_column(value) or not pd.api.types.is_bool_dtype(value) or value.isna().any():
        message = "what stands alone or beside and, or and not must be a comparison"
        raise ValueError(message)
