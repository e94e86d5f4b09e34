"""The small tables of a sweep: those that belong to its answer, and the others, cell by cell."""

from __future__ import annotations

from collections.abc import Sequence

from bench.frontier import Point
from bench.reports import stages, sweep, tables, units
from bench.reports.sweep import Sweep
from bench.reports.tables import Table

_STAGES = "Mean time of a query, by stage"
_STAGES_NOTE = (
    "Over all queries: one without a stage counts as none of it, so that stages add up. The whole query also "
    "has what lies between its stages."
)
_WHOLE = "whole query"


def answering(made: Sweep) -> list[Table]:
    """What stands beside the cells: stages, cell by cell, and the tables of what is compared with no cell.

    Where no cell has what cells are compared by, every table.
    """
    if not made.axes:
        return _merged(made, made.points)
    return [*_by_stage(made), *_merged(made, made.apart)]


def others(made: Sweep) -> list[Table]:
    """Every other table."""
    return _merged(made, made.compared) if made.axes else []


def _by_stage(made: Sweep) -> list[Table]:
    """A row for each stage, a column for each cell."""
    measured = {point.cell: stages.by_stage(made.record(point)) for point in made.compared}
    shown = [point for point in made.compared if measured[point.cell]]
    widest = sorted(shown, key=lambda point: len(measured[point.cell]), reverse=True)  # has most of the order
    names = dict.fromkeys(stage for point in widest for stage in measured[point.cell])
    rows = [(name, [_seconds(measured[point.cell].get(name)) for point in shown]) for name in names]
    wholes = [stages.whole(made.record(point)) for point in shown]
    rows.append((_WHOLE, [_seconds(whole.value if whole else None) for whole in wholes]))
    columns = [sweep.in_words(made, point) for point in shown]
    return [Table(_STAGES, columns, rows, _STAGES_NOTE)] if shown else []


def _seconds(value: float | None) -> str:
    return "" if value is None else units.show(value, "s")


def _merged(made: Sweep, points: Sequence[Point]) -> list[Table]:
    """The tables of some cells, one under the other: a row for each cell and label."""
    merged: dict[str, Table] = {}
    for point in points:
        for table in tables.tables(made.record(point)):
            known = merged.setdefault(table.title, Table(table.title, table.columns, [], table.note))
            own = f"{sweep.configuration(made, point)}: " if len(points) > 1 else ""
            known.rows.extend((f"{own}{label}", _aligned(table, cells, known)) for label, cells in table.rows)
    return list(merged.values())


def _aligned(table: Table, cells: list[str], wanted: Table) -> list[str]:
    by_column = dict(zip(table.columns, cells, strict=True))
    return [by_column.get(column, "") for column in wanted.columns]
