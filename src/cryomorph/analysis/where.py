"""Conditions on columns, such as `pc1 > 1.5 and not state == 2`: read by a grammar of their own, never executed."""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryomorph.errors import InputError

Mask = NDArray[np.bool_]

LONGEST = 2000
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_GRAMMAR = "expected comparisons of columns and numbers, joined by and, or, not and parentheses, such as 'pc1 > 1.5'"


def matching(condition: str, columns: Mapping[str, NDArray[Any]], more: str = "") -> Mask:
    """Return which rows meet a condition, shape (m,).

    Parameters
    ----------
    condition
        Comparisons (`<`, `<=`, `>`, `>=`, `==`, `!=`, also chained) of columns and numbers, joined by `and`, `or`,
        `not` and parentheses. A comparison with NaN is not met, but for `!=`.
    columns
        By name, each of shape (m,).
    more
        Appended to the message about a column that is not there.

    Raises
    ------
    InputError
        If the condition is something else, or names a column that is not there.
    """
    return _Condition(condition, columns, more).rows()


class _Condition:
    """A condition and the columns that it is about."""

    def __init__(self, text: str, columns: Mapping[str, NDArray[Any]], more: str) -> None:
        self.text, self.columns, self.more = text, columns, more

    def rows(self) -> Mask:
        if len(self.text) > LONGEST:
            raise InputError(f"--where: is longer than {LONGEST} characters; use --indices instead")
        try:
            tree = ast.parse(self.text.strip(), mode="eval")
            return self._truth(tree.body)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self._wrong(self.text) from error

    def _truth(self, node: ast.expr) -> Mask:
        if isinstance(node, ast.BoolOp):
            combine = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
            result = self._truth(node.values[0])
            for value in node.values[1:]:
                result = np.asarray(combine(result, self._truth(value)))
            return result
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ~self._truth(node.operand)
        if isinstance(node, ast.Compare):
            return self._compared(node)
        raise self._wrong(node)

    def _compared(self, node: ast.Compare) -> Mask:
        values = [self._value(operand) for operand in (node.left, *node.comparators)]
        if not any(isinstance(value, np.ndarray) for value in values):
            raise self._wrong(node)
        result = np.ones(len(next(iter(self.columns.values()))), dtype=np.bool_)
        for place, kind in enumerate(node.ops):
            if type(kind) not in _COMPARISONS:
                raise self._wrong(node)
            result &= _COMPARISONS[type(kind)](values[place], values[place + 1])
        return result

    def _value(self, node: ast.expr) -> NDArray[Any] | float:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            value = self._value(node.operand)
            return -value if isinstance(node.op, ast.USub) else value
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return float(node.value)
        if isinstance(node, ast.Name):
            return self._column(node.id)
        raise self._wrong(node)

    def _column(self, name: str) -> NDArray[Any]:
        if name not in self.columns:
            there = ", ".join(self.columns)
            raise InputError(f"--where {self.text!r}: there is no column {name}; there are {there}{self.more}")
        return self.columns[name]

    def _wrong(self, part: ast.expr | str) -> InputError:
        shown = part if isinstance(part, str) else ast.unparse(part)
        return InputError(f"--where {self.text!r}: cannot read {' '.join(shown.split())!r}; {_GRAMMAR}")
