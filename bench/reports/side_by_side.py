"""The small tables of a sweep: those that belong to its answer, and the others, cell by cell."""

from __future__ import annotations

from collections.abc import Sequence

from bench.frontier import Point
from bench.record import RunRecord
from bench.reports import answer, stages, sweep, tables, units
from bench.reports.sweep import Sweep
from bench.reports.tables import Table

_STAGES = "Mean time of a query, by stage"
_STAGES_NOTE = (
    "Over all queries: one without a stage counts as none of it, so that stages add up. The whole query also "
    "has what lies between its stages."
)
_WHOLE = "whole query"
# What becomes of questions under load, by metric.
_BY_LOAD = {
    "agents.load.rejection_rate": "Questions rejected, load by load",
    "agents.load.timeout_rate": "Questions timed out, load by load",
}


def answering(made: Sweep) -> list[Table]:
    """What stands beside the cells: stages and loads, cell by cell; tables of what is compared with no cell.

    Where no cell has what cells are compared by, every table.
    """
    if not made.axes:
        return [*_by_load(made), *_merged(made, made.points)]
    return [*_by_stage(made), *_by_load(made), *_merged(made, made.apart)]


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


def _by_load(made: Sweep) -> list[Table]:
    """Of each outcome, a row for each cell that offered loads, a column for each load."""
    found = []
    for name, title in _BY_LOAD.items():
        by_point = ((point, _loads(made.record(point), name)) for point in made.points)
        measured = [(sweep.configuration(made, point), row) for point, row in by_point if row]
        offered = {load for _, row in measured for load in row}
        loads = sorted(offered, key=lambda load: (len(load), load))
        rows = [(own, [row.get(load, "") for load in loads]) for own, row in measured]
        found += [Table(title, [f"load {load}" for load in loads], rows)] if rows else []
    return found


def _loads(record: RunRecord, name: str) -> dict[str, str]:
    """What a metric is, by load."""
    return {
        answer.printable(metric.labels["load"]): tables.cell(metric)
        for metric in record.metrics
        if metric.name == name and "load" in metric.labels
    }


def _seconds(value: float | None) -> str:
    return "" if value is None else units.show(value, "s")


def _merged(made: Sweep, points: Sequence[Point]) -> list[Table]:
    """The tables of some cells, one under the other: a row for each cell and label."""
    merged: dict[str, Table] = {}
    for point in points:
        for table in tables.tables(made.record(point)):
            known = merged.setdefault(table.title, Table(table.title, table.columns, [], table.note))
            own = sweep.configuration(made, point) if len(points) > 1 else ""
            for label, cells in table.rows:
                known.rows.append((_row(own, label, table), _aligned(table, cells, known)))
    return list(merged.values())


def _row(own: str, label: str, table: Table) -> str:
    """The name of a row: its cell's, and its label where the cell has several rows or the one has labels."""
    if not own:
        return label
    return own if len(table.rows) == 1 and label == tables.ALL else f"{own}: {label}"


def _aligned(table: Table, cells: list[str], wanted: Table) -> list[str]:
    by_column = dict(zip(table.columns, cells, strict=True))
    return [by_column.get(column, "") for column in wanted.columns]
