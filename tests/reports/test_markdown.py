"""The answer for a pull request."""

from collections import Counter
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from bench.record import RunRecord
from bench.reports import answer, markdown, tables

GOLDEN = Path(__file__).parent / "report.md"


def test_it_reads_as_it_did(record: RunRecord) -> None:
    # After a wanted change: write markdown.render(record) to the golden file, and read the difference.
    assert markdown.render(record) == GOLDEN.read_text(encoding="utf-8")


def test_every_verdict_has_its_row(record: RunRecord) -> None:
    rows = [line for line in markdown.render(record).splitlines() if line.startswith("| ")]
    for verdict in record.verdicts:
        row = next(row for row in rows if f": {verdict.title} |" in row)
        assert verdict.verdict in row


def test_hostile_values_stay_in_their_cells(hostile: RunRecord) -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown.render(hostile))
    kinds = Counter(token.type for top in tokens for token in (top, *(top.children or ())))
    assert {"link_open", "image", "html_inline"}.isdisjoint(kinds)
    assert kinds["html_block"] == 4  # our own two <details>, opened and closed
    covered = len(hostile.verdicts)
    rest = [metric for metric in answer.uncovered(hostile) if metric.name not in tables.SHOWN]
    listed = sum(metric.value is not None for metric in rest)
    small = sum((1 + len(table.columns)) * len(table.rows) for table in tables.tables(hostile))
    assert kinds["td_open"] == 5 * covered + 2 * listed + small
    code = [
        child.content for token in tokens for child in token.children or () if child.type == "code_inline"
    ]
    assert code == [answer.reproduce(hostile)]


def test_a_command_with_backticks_stays_code(record: RunRecord) -> None:
    text = markdown.render(record.model_copy(update={"command": ["name=`` ` x"]}))
    assert text.splitlines()[-1] == "Reproduce: ```python -m bench run 'name=`` ` x'```"


@pytest.mark.parametrize("name", ["broken", "failed", "bare"])
def test_runs_with_less_in_them(name: str, request: pytest.FixtureRequest) -> None:
    text = markdown.render(request.getfixturevalue(name))
    assert "nan" not in text
    assert "None" not in text
    assert "Reproduce: `python -m bench run" in text
