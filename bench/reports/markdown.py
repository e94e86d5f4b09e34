"""The answer of a run, or of a sweep, in Markdown, for a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from bench.record import RunRecord, Verdict
from bench.reports import answer, side_by_side, sweep, tables, units
from bench.reports.sweep import Sweep
from bench.reports.tables import Table

# What GitHub's Markdown could read as markup, a table's cell border, a link, an image or a formula.
_MARKUP = re.compile(r"([\\`*_\[\]|~#$])")


def render(record: RunRecord) -> str:
    """Render a record; every value in it is shown as the text it is."""
    name = record.experiment.get("name") or record.run_id
    parts = [
        f"### {_text(str(name))}: {_text(answer.headline(record))}",
        *_verdicts(record),
        *_metrics(record),
        *_tables(record),
        _notes(record),
        f"Reproduce: {_code(answer.reproduce(record))}",
    ]
    return "\n\n".join(parts) + "\n"


def render_sweep(made: Sweep) -> str:
    """Render the cells of a sweep; every value in it is shown as the text it is."""
    parts = [
        f"### {_text(sweep.name(made))}: {_text(sweep.headline(made))}",
        *_list("Notes", sweep.standing(made)),
        *_winners(made),
        *_cells(made),
        *map(_table, side_by_side.answering(made)),
        *_list("How it was measured", [f"{term}: {said}" for term, said in sweep.measured_how(made)]),
        "Every metric of every cell: `results.parquet`, `results.csv`",
    ]
    return "\n\n".join(parts) + "\n"


def _winners(made: Sweep) -> Iterator[str]:
    if sweep.winners(made):
        lines = [
            f"- {_text(sweep.configuration(made, point))} ({_text(sweep.described(made, point))}): "
            f"{_code(answer.reproduce(made.record(point)))}"
            for point in sweep.winners(made)
        ]
        summary = "<summary>Winners, each with the command that measures it again</summary>"
        yield f"<details>{summary}\n\n" + "\n".join(lines) + "\n\n</details>"


def _cells(made: Sweep) -> Iterator[str]:
    if made.axes:
        axes = sweep.main_axes(made)
        header = ["Cell", *(made.axes[axis].title for axis in axes), "On the frontier of recall and"]
        lines = [header, ["---"] * len(header)]
        for point in sweep.ordered(made):
            marks = "; ".join(sweep.marks(made, point)) if point.valid else "not valid"
            values = (sweep.value(point, axis) for axis in axes)
            lines.append([*map(_text, (sweep.configuration(made, point), *values, marks))])
        yield "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield f"**{title}**\n\n" + "\n".join(f"- {_text(line)}" for line in lines)


def _verdicts(record: RunRecord) -> Iterator[str]:
    if record.verdicts:
        rows = [_verdict_row(verdict) for verdict in record.verdicts]
        header = "| Documented figure | Documented | Measured [95% interval] | Ratio | Verdict |"
        yield "\n".join([header, "| --- | --- | --- | ---: | --- |", *rows])


def _verdict_row(verdict: Verdict) -> str:
    word = f"**{verdict.verdict}**" if verdict.verdict == "miss" else verdict.verdict
    ratio = "" if verdict.ratio is None else units.show(verdict.ratio, units.RATIO)
    figure = f"{verdict.section}: {verdict.title}"
    cells = [figure, verdict.documented, answer.measured(verdict), ratio]
    return f"| {' | '.join(map(_text, cells))} | {word} |"


def _metrics(record: RunRecord) -> Iterator[str]:
    rows = [
        f"| {_text(answer.title(m.name, m.labels))} | {_text(answer.value(m))} |"
        for m in answer.uncovered(record)
        if m.value is not None and m.name not in tables.SHOWN
    ]
    if rows:
        table = "\n".join(["| Metric | Measured [95% interval] |", "| --- | --- |", *rows])
        summary = f"<summary>{answer.count(len(rows), 'more metric')}, with no documented figure</summary>"
        yield f"<details>{summary}\n\n{table}\n\n</details>"


def _tables(record: RunRecord) -> Iterator[str]:
    made = tables.tables(record)
    if made:
        blocks = "\n\n".join(_table(table) for table in made)
        yield f"<details><summary>By part, level and shard</summary>\n\n{blocks}\n\n</details>"


def _table(table: Table) -> str:
    lines = [[table.title, *table.columns], ["---"] * (1 + len(table.columns))]
    lines += [[_text(label), *map(_text, cells)] for label, cells in table.rows]
    shown = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{shown}\n\n{_text(table.note)}" if table.note else shown


def _notes(record: RunRecord) -> str:
    machine = record.machine
    where = f"{machine.cpu}, {machine.cores} cores, {units.show(machine.memory, 'B')}; {machine.system}"
    lines = [
        answer.standing(record),
        *record.validity.reasons,
        *record.validity.notes,
        *answer.findings(record),
        *_unproven(record),
        f"Baseline: {answer.source(record)}",
        f"Data: {record.dataset.name}, {answer.plain(record.dataset.counts)}",
        *(f"{series}: {condition}" for series, condition in answer.conditions(record)),
        f"Machine: {where}; {answer.noise_floor(record)}",
        f"Commit: {answer.commit(record)}",
    ]
    return "**Notes**\n\n" + "\n".join(f"- {_text(line)}" for line in lines)


def _unproven(record: RunRecord) -> Iterator[str]:
    """The figures that miss or are not proven, one line for each reason."""
    reasons: dict[str, list[str]] = {}
    for verdict in record.verdicts:
        if verdict.verdict in ("miss", "not proven"):
            reason = f"{verdict.verdict}, {verdict.reason}"
            reasons.setdefault(reason, []).append(f"{verdict.section}: {verdict.title}")
    yield from (f"{reason} ({'; '.join(figures)})" for reason, figures in reasons.items())


def _text(value: str) -> str:
    """Text as it is: in one line, with neither HTML nor Markdown left in it."""
    value = answer.printable(value)
    value = value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\1", value)


def _code(value: str) -> str:
    """A code span whose fence is longer than any run of backticks in it."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", value)), default=0))
    space = " " if value.startswith("`") or value.endswith("`") else ""
    return f"{fence}{space}{value}{space}{fence}"
