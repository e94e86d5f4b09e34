"""A run's answer in a terminal: the documented figures, what else was measured, what to know."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bench.metrics import Measured
from bench.record import RunRecord, Verdict
from bench.reports import answer, tables, units

_STYLES = {"pass": "green", "miss": "bold red", "not proven": "yellow", "missing": "dim"}

# What tells the runs of a sweep apart: a column's title, the metric and its part.
_COMPARED = (
    ("recall@10", "memory.recall_at_10", None),
    ("mean latency", "memory.search.latency.mean", None),
    ("build", "memory.index.build_time", None),
    ("codes", "memory.index.bytes_per_vector", "codes"),
    ("refinement", "memory.index.bytes_per_vector", "refinement"),
    ("in memory", "memory.index.bytes_per_vector", None),
    ("on disk", "memory.index.disk_bytes_per_vector", None),
)


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


def comparison(records: Sequence[RunRecord]) -> RenderableType:
    """The runs of a sweep beside each other, by what their commands do not share."""
    common = set.intersection(*(set(record.command) for record in records))
    rows = [[_compared(record, name, part) for _, name, part in _COMPARED] for record in records]
    there = [number for number in range(len(_COMPARED)) if any(row[number] for row in rows)]
    if not there:
        return Text("")
    made = _table("Side by side; sizes are bytes per vector")
    made.add_column("run", min_width=18, overflow="fold")
    for number in there:
        made.add_column(_COMPARED[number][0], overflow="fold", justify="right")
    for record, row in zip(records, rows, strict=True):
        own = " ".join(override for override in record.command if override not in common)
        made.add_row(Text(answer.printable(own or record.run_id)), *(Text(row[number]) for number in there))
    return made


def _compared(record: RunRecord, name: str, part: str | None) -> str:
    labels = {"part": part} if part else {}
    found = next((m for m in record.metrics if m.name == name and m.labels == labels), None)
    return units.show(found.value, found.unit) if found and found.value is not None else ""


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


def _small(table: tables.Table) -> Table:
    made = _table(table.title)
    made.add_column("", ratio=1, overflow="fold")
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
        box=box.SIMPLE_HEAD,
        expand=True,
        pad_edge=False,
    )


def _standing(record: RunRecord) -> Iterable[Text]:
    style = "green" if record.validity.valid else "bold red"
    yield Text(answer.standing(record), style=style)
    for line in (*record.validity.reasons, *record.validity.notes):
        yield Text(f"  - {answer.printable(line)}")
    for series, condition in answer.conditions(record):
        yield Text(f"{series}: {condition}", style="dim")
