"""Conditions on metadata, and the values they compare: a pure translation into SQL and its parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from brein.errors import DataError
from brein.texts import shown

Value = str | int | float | bool | None
Condition = Value | Sequence[Value] | Mapping[str, Value | Sequence[Value]]
Where = Mapping[str, Condition]
"""A field's name with what it must be: a value, a list of values to choose from, or operators.

Operators are eq, ne, lt, lte, gt, gte and in; all conditions must hold. What they mean:

- A field that is missing is null. Null equals null and nothing else, and cannot be ordered.
- True is the number 1 and False the number 0, as in Python.
- Numbers equal and are ordered among numbers, texts among texts, by code point; a number never equals a
  text, and no order holds between the two.
- `ne` holds exactly where `eq` does not: also where the field is missing or of another type.
"""

_ORDERS = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
OPERATORS = ("eq", "ne", *_ORDERS, "in")
_MOST_CONDITIONS = 500  # in one filter; SQLite nests expressions at most 1,000 deep
_MOST_VALUES = 30_000  # in one filter; SQLite takes 32,766 parameters in a statement
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1

Test = tuple[str, str, Any]
Fragment = tuple[str, list[Value]]


def canonical(where: Where | None) -> list[Test]:
    """What `where` asks for as (name, operator, operand), ordered by name and operator.

    Filters that differ only in the order of names and operators, or in the types of their mappings and lists,
    give equal results. JSON takes them.

    Raises:
        DataError: a name, an operator or a value is not one there can be, or there are too many.
    """
    if where is not None and not isinstance(where, Mapping):
        raise DataError(f"where = {shown(where)}: must map names of metadata fields to conditions")
    tests = [_checked(*test) for name, wanted in (where or {}).items() for test in _tests(name, wanted)]
    values = sum(len(operand) if operator == "in" else 1 for _, operator, operand in tests)
    for count, most, what in (
        (len(tests), _MOST_CONDITIONS, "conditions"),
        (values, _MOST_VALUES, "values"),
    ):
        if count > most:
            raise DataError(f"the filter holds {count} {what}; split it, {most} is the most")
    return sorted(tests, key=lambda test: test[:2])


def condition(where: Where | None) -> Fragment:
    """The SQL condition on `documents.id` that `where` means, of fixed words only, and its parameters.

    Raises:
        DataError: as `canonical` does.
    """
    parts = [_translated(*test) for test in canonical(where)]
    return " AND ".join(sql for sql, _ in parts) or "1", [value for _, values in parts for value in values]


def problem(value: object) -> str | None:
    """Why `value` cannot be stored and compared; None where it can."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int):
        return None if _SMALLEST <= value <= _LARGEST else "an integer takes at most 64 bits; give a text"
    if isinstance(value, float):
        return None if math.isfinite(value) else "a number must be finite; use null"
    if isinstance(value, str):
        return None if _encodable(value) else "the text is not valid Unicode; mend its lone surrogates"
    return f"a {type(value).__name__} cannot be compared; give a text, a number, a boolean or null"


@contextmanager
def text_errors() -> Iterator[None]:
    """Turn a text that is not valid Unicode, wherever it was given, into a DataError."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise DataError(
            f"{error.object!r} is not valid Unicode at character {error.start}; mend it"
        ) from None


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _tests(name: str, wanted: Condition) -> list[Test]:
    if not isinstance(name, str) or problem(name):
        raise DataError(f"filter on {shown(name)}: the name of a metadata field is a valid text")
    if isinstance(wanted, Mapping):
        if not wanted:
            raise DataError(f"filter on {shown(name)}: no operator is given; known: {', '.join(OPERATORS)}")
        return [(name, operator, operand) for operator, operand in wanted.items()]
    return [(name, "in" if isinstance(wanted, list | tuple) else "eq", wanted)]


def _checked(name: str, operator: str, operand: Any) -> Test:
    if operator not in OPERATORS:
        raise DataError(
            f"filter on {shown(name)}: operator {shown(operator)} is unknown; known: {', '.join(OPERATORS)}"
        )
    if operator == "in" and not isinstance(operand, list | tuple):
        raise DataError(f"filter on {shown(name)}: in = {shown(operand)}: must be a list of values")
    values = list(operand) if operator == "in" else [operand]
    for value in values:
        if reason := problem(value):
            raise DataError(f"filter on {shown(name)}: {operator} = {shown(value)}: {reason}")
    if operator in _ORDERS and operand is None:
        raise DataError(f"filter on {shown(name)}: {operator} = null: null has no order; use eq or ne")
    return name, operator, values if operator == "in" else operand


def _translated(name: str, operator: str, operand: Any) -> Fragment:
    if operator in _ORDERS:
        return _ordered(name, operator, operand)
    sql, parameters = _among(name, operand if operator == "in" else [operand])
    return (f"NOT {sql}" if operator == "ne" else sql), parameters


# Table `fields` holds no nulls: a null is a field that is not there. Names and values are bound; nothing but
# fixed words and question marks is put together below.


def _among(name: str, values: list[Value]) -> Fragment:
    known = [value for value in values if value is not None]
    marks = ",".join("?" * len(known))
    sql = f"id IN (SELECT id FROM fields WHERE name = ? AND value IN ({marks}))"  # noqa: S608
    if len(known) == len(values):
        return f"({sql})", [name, *known]
    missing = "id NOT IN (SELECT id FROM fields WHERE name = ?)"
    return f"({sql} OR {missing})", [name, *known, name]


def _ordered(name: str, operator: str, value: Value) -> Fragment:
    # SQLite sorts every number before every text, and '' is the first text.
    same_kind = "value >= ''" if isinstance(value, str) else "value < ''"
    test = f"value {_ORDERS[operator]} ? AND {same_kind}"
    return f"id IN (SELECT id FROM fields WHERE name = ? AND {test})", [name, value]  # noqa: S608
