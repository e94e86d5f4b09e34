"""The table in the terminal."""

import io

import pytest
from rich.console import Console

from bench.record import RunRecord
from bench.reports import answer, terminal


def _shown(record: RunRecord, colour: bool = False) -> str:
    shown = io.StringIO()
    console = Console(
        file=shown, width=100, force_terminal=colour, color_system="standard" if colour else None
    )
    console.print(terminal.table(record))
    return shown.getvalue()


def test_every_figure_stands_in_one_row_at_a_hundred_columns(record: RunRecord) -> None:
    lines = _shown(record).splitlines()
    assert max(map(len, lines)) <= 100
    for verdict in record.verdicts:
        row = next(line for line in lines if line.strip().startswith(f"{verdict.title} "))
        assert verdict.documented in row
        assert row.rstrip().endswith(verdict.verdict)
    assert any("75.2 documents/s [68.0, 83.1]" in line for line in lines)
    assert lines[-1].strip() == answer.headline(record)


def test_metrics_without_a_documented_figure_and_notes_follow(record: RunRecord) -> None:
    shown = _shown(record)
    assert "nDCG@10 (cold)" in shown
    assert "600 of the 1,000 samples a" in shown
    assert "  - the machine was busy" in shown


def test_what_has_labels_stands_in_small_tables(record: RunRecord) -> None:
    lines = [" ".join(line.split()) for line in _shown(record).splitlines()]
    assert "codes 1,536 B" in lines
    assert "all 1,670 B" in lines
    assert any(line.startswith("L2 9.00%") for line in lines)
    assert "too few samples" in _shown(record)
    assert any(
        "memory.storage: not measured: suite.memory.parts leaves storage out" in line for line in lines
    )


def test_verdicts_have_a_colour_and_a_word(record: RunRecord) -> None:
    assert "\x1b[32mpass" in _shown(record, colour=True)
    assert "\x1b[1;31mmiss" in _shown(record, colour=True)


@pytest.mark.parametrize("name", ["hostile", "broken", "failed", "bare"])
def test_no_value_can_break_it(name: str, request: pytest.FixtureRequest) -> None:
    shown = _shown(request.getfixturevalue(name))
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_square_brackets_are_text(record: RunRecord) -> None:
    verdict = record.verdicts[0].model_copy(update={"title": "[red]p95[/red]"})
    assert "[red]p95[/red]" in _shown(record.model_copy(update={"verdicts": [verdict]}))
