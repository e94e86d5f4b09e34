"""Questions over several shards: what each shard is asked, and how their answers become one.

Both halves are SQL, and the merging runs in SQLite too, so that several shards sort and group exactly as one
file does. Only fixed words and numbered columns are put into a statement; names and values are bound.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from brein.errors import DataError
from brein.storage.filters import Fragment, Value, Where, condition, problem
from brein.texts import shown

Row = tuple[Any, ...]

_NUMBERS = "FILTER (WHERE typeof({0}) IN ('integer', 'real'))"
# An aggregate's name: what each shard computes of column {0}, and what the merging makes of those.
AGGREGATES: dict[str, tuple[tuple[str, ...], str]] = {
    "count": (("count({0})",), "sum({0})"),
    "sum": ((f"total({{0}}) {_NUMBERS}",), "total({0})"),
    "min": (("min({0})",), "min({0})"),
    "max": (("max({0})",), "max({0})"),
    "avg": ((f"total({{0}}) {_NUMBERS}", f"count({{0}}) {_NUMBERS}"), "sum({0}) / sum({1})"),
}
_MOST = 2**62  # rows; twice that is still an integer of SQLite


@dataclass(frozen=True)
class Question:
    """A statement for every shard, whose rows have `width` columns, and one over all their rows."""

    ask: str
    parameters: tuple[Value, ...]
    width: int
    merge: str
    merge_parameters: tuple[int, ...] = ()

    def merged(self, answers: Iterable[Sequence[Row]]) -> list[Row]:
        """One answer out of the shards' answers."""
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.execute(f"CREATE TABLE answers ({_columns(0, self.width)})")
            marks = ",".join("?" * self.width)
            for rows in answers:
                connection.executemany(f"INSERT INTO answers VALUES ({marks})", rows)  # noqa: S608
            return connection.execute(self.merge, self.merge_parameters).fetchall()


def select(
    fields: Sequence[str], where: Where | None, order_by: Sequence[str], limit: int | None, offset: int
) -> Question:
    """The question behind `DocumentStore.query`."""
    if not fields:
        raise DataError("fields is empty; name at least one of id, text and metadata.<name>")
    keys = [*order_by, "id"]  # the id decides between equals, so that every answer has one order
    columns, values = _selected([*fields, *(key.removeprefix("-") for key in keys)])
    test, test_values = condition(where)
    width = len(fields) + len(keys)
    directions = (" DESC" if key.startswith("-") else "" for key in keys)
    order = ", ".join(f"c{len(fields) + n}{direction}" for n, direction in enumerate(directions))
    skip = _bounded("offset", offset)
    most = None if limit is None else _bounded("limit", limit)
    return Question(
        f"SELECT {columns} FROM documents WHERE {test} ORDER BY {order} LIMIT ?",  # noqa: S608
        (*values, *test_values, -1 if most is None else skip + most),
        width,
        f"SELECT {_columns(0, len(fields))} FROM answers ORDER BY {order} LIMIT ? OFFSET ?",  # noqa: S608
        (-1 if most is None else most, skip),
    )


def aggregate(functions: Sequence[tuple[str, str]], where: Where | None, group_by: Sequence[str]) -> Question:
    """The question behind `DocumentStore.aggregate`."""
    if unknown := [function for function, _ in functions if function not in AGGREGATES]:
        raise DataError(f"aggregate {unknown[0]!r} is unknown; known: {', '.join(AGGREGATES)}")
    if not functions:
        raise DataError(f"functions is empty; name at least one of {', '.join(AGGREGATES)}")
    inner, values = _selected([*group_by, *(field for _, field in functions)])
    test, test_values = condition(where)
    groups = len(group_by)
    partial, final = [f"c{n}" for n in range(groups)], [f"c{n}" for n in range(groups)]
    for n, (function, _) in enumerate(functions):
        asked, merging = AGGREGATES[function]
        final.append(merging.format(*(f"c{len(partial) + m}" for m in range(len(asked)))))
        partial += [part.format(f"c{groups + n}") for part in asked]
    grouping = f" GROUP BY {_columns(0, groups)}" if groups else ""
    ordering = f" ORDER BY {_columns(0, groups)}" if groups else ""
    return Question(
        f"SELECT {', '.join(partial)} FROM (SELECT {inner} FROM documents WHERE {test}){grouping}",  # noqa: S608
        (*values, *test_values),
        len(partial),
        f"SELECT {', '.join(final)} FROM answers{grouping}{ordering}",  # noqa: S608
    )


def _columns(first: int, last: int) -> str:
    return ", ".join(f"c{n}" for n in range(first, last))


def _selected(fields: Sequence[str]) -> Fragment:
    parts = [_expression(field) for field in fields]
    sql = ", ".join(f"{expression} AS c{n}" for n, (expression, _) in enumerate(parts))
    return sql, [value for _, values in parts for value in values]


def _expression(field: str) -> Fragment:
    if field in ("id", "text"):
        return f"documents.{field}", []
    kind, dot, name = field.partition(".")
    if kind != "metadata" or not dot or problem(name):
        raise DataError(f"field {field!r} is unknown; known: id, text and metadata.<name>")
    return "(SELECT value FROM fields WHERE fields.id = documents.id AND fields.name = ?)", [name]


def _bounded(name: str, value: int) -> int:
    if not isinstance(value, int) or not 0 <= value <= _MOST:
        raise DataError(f"{name} = {shown(value)}: must be an integer from 0 to {_MOST}")
    return value
