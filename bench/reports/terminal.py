"""A run's answer in a terminal: the documented figures, what else was measured, what to know."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bench.config import ObjectiveConfig
from bench.frontier import Failure
from bench.metrics import Measured
from bench.record import RunRecord, Verdict
from bench.reports import answer, side_by_side, tables
from bench.reports import sweep as sweeps

_STYLES = {"pass": "green", "miss": "bold red", "not proven": "yellow", "missing": "dim"}
_MOST_ROWS = 40


def table(record: RunRecord) -> RenderableType:
    """Render a record for a console of 100 columns or more; nothing in it is read as markup."""
    parts: list[RenderableType] = []
    if record.verdicts:
        parts.append(_verdicts(record))
    rest = [metric for metric in answer.uncovered(record) if metric.name not in tables.SHOWN]
    if rest:
        parts.append(_metrics(rest))
    parts += [_small(table) for table in tables.tables(record)]
    parts += [*_standing(record), Text(answer.headline(record), style="bold")]
    return Group(*parts)


def sweep(
    runs: Sequence[tuple[Path, RunRecord]], objective: ObjectiveConfig, failures: Sequence[Failure] = ()
) -> RenderableType:
    """Render what `reports.write_sweep` writes: the cells beside each other, and what they say together."""
    made = sweeps.over([record for _, record in runs], objective, failures)
    parts: list[RenderableType] = [
        *([_cells(made)] if made.axes else []),
        *(_small(table, widest=1 if made.axes else 2) for table in side_by_side.answering(made)),
    ]
    parts += [Text(f"  - {line}") for line in sweeps.standing(made)]
    parts.append(Text(sweeps.headline(made), style="bold"))
    if made.choice and made.choice.point:
        parts.append(_command(made.record(made.choice.point)))
    return Group(*parts)


def _command(record: RunRecord) -> Text:
    """The command that measures a cell again, a line for each override, so that it can be pasted."""
    words = ["python -m bench run", *map(shlex.quote, record.command)]
    return Text(" \\\n  ".join(map(answer.printable, words)))


def _cells(made: sweeps.Sweep) -> RenderableType:
    shown = _table("Side by side; ● is on a frontier")
    shown.add_column("", width=1)
    shown.add_column("cell", min_width=18, overflow="fold")
    axes = sweeps.main_axes(made)
    for axis in axes:
        shown.add_column(made.axes[axis].title, justify="right", overflow="fold")
    rows = sweeps.ordered(made)
    for point in rows[:_MOST_ROWS]:
        mark = "●" if sweeps.marks(made, point) else "" if point.valid else "✗"
        cells = (Text(sweeps.in_short(point, axis)) for axis in axes)
        shown.add_row(Text(mark), Text(sweeps.configuration(made, point)), *cells)
    left_out = len(rows) - _MOST_ROWS
    return Group(shown, Text(f"{left_out} more in the report", style="dim")) if left_out > 0 else shown


def _verdicts(record: RunRecord) -> Table:
    made = _table(f"Beside the documented baseline {answer.printable(record.baseline)}")
    made.add_column("documented figure", ratio=15, overflow="fold")
    made.add_column("documented", ratio=10, overflow="fold")
    made.add_column("measured [95% interval]", ratio=16, overflow="fold")
    made.add_column("verdict", min_width=10, no_wrap=True)
    for section, verdicts in answer.sections(record).items():
        made.add_section()
        made.add_row(Text(answer.printable(section), style="bold"))
        for verdict in verdicts:
            made.add_row(*_verdict_row(verdict))
    return made


def _verdict_row(verdict: Verdict) -> Iterable[RenderableType]:
    figure = Text(answer.printable(verdict.title))
    if verdict.verdict in ("miss", "not proven"):
        figure.append("\n" + answer.printable(verdict.reason), style="dim")
    return (
        Padding(figure, (0, 0, 0, 2)),
        Text(answer.printable(verdict.documented)),
        Text(answer.measured(verdict), style="dim" if verdict.measured is None else ""),
        Text(verdict.verdict, style=_STYLES[verdict.verdict]),
    )


def _metrics(metrics: Iterable[Measured]) -> Table:
    made = _table("Measured, with no documented figure")
    made.add_column("metric", ratio=5, overflow="fold")
    made.add_column("measured [95% interval]", ratio=4, overflow="fold")
    made.add_column("samples", justify="right")
    made.add_column("processes", justify="right")
    for metric in metrics:
        shown = metric.value is not None
        value = answer.value(metric)
        made.add_row(
            Text(answer.title(metric.name, metric.labels)),
            Text(value if shown else answer.printable(metric.reason or value), style="" if shown else "dim"),
            Text(f"{metric.n:,}"),
            Text(f"{metric.repeats:,}"),
        )
    return made


def _small(table: tables.Table, widest: int = 1) -> Table:
    made = _table(table.title)
    made.caption = Text(f"{table.note}\n") if table.note else None
    made.add_column("", ratio=widest, overflow="fold")
    for column in table.columns:
        made.add_column(column, ratio=1, overflow="fold")
    for label, cells in table.rows:
        made.add_row(Text(label), *(Text(cell) for cell in cells))
    return made


def _table(title: str) -> Table:
    return Table(
        title=Text(title),
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        caption_style="dim",
        box=box.SIMPLE_HEAD,
        expand=True,
        pad_edge=False,
    )


def _standing(record: RunRecord) -> Iterable[Text]:
    style = "green" if record.validity.valid else "bold red"
    yield Text(answer.standing(record), style=style)
    for line in (*record.validity.reasons, *record.validity.notes, *answer.findings(record)):
        yield Text(f"  - {answer.printable(line)}")
    for series, condition in answer.conditions(record):
        yield Text(f"{series}: {condition}", style="dim")
