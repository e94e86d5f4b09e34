"""A run's answer in Markdown, for a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bench.record import RunRecord, Verdict
from bench.reports import answer, tables, units
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
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _notes(record: RunRecord) -> str:
    machine = record.machine
    where = f"{machine.cpu}, {machine.cores} cores, {units.show(machine.memory, 'B')}; {machine.system}"
    lines = [
        answer.standing(record),
        *record.validity.reasons,
        *record.validity.notes,
        *_unproven(record),
        f"Baseline: {answer.source(record)}",
        f"Data: {record.dataset.name}, {answer.plain(record.dataset.counts)}",
        *(f"{series}: {condition}" for series, condition in answer.conditions(record)),
        f"Machine: {where}",
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
