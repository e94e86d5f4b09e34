"""The agents suite in reports: tables of one client and of the loads, and the curves over the loads."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from bench.config import ObjectiveConfig
from bench.metrics import derive, label_text
from bench.record import RunRecord
from bench.reports import html, markdown, side_by_side, sweep, tables, terminal
from bench.reports.figures.agents import under_load
from bench.reports.figures.drawing import Drawing
from bench.trial import frame

# By load: the median latency, how busy reasoning is, the share of questions rejected.
MEASURED = {
    "20%": (0.08, 0.19, 0.0),
    "80%": (0.11, 0.78, 0.0),
    "90%": (0.16, 0.88, 0.0),
    "100%": (0.6, 0.97, 0.01),
    "150%": (1.9, 0.99, 0.31),
}
SERVICE = {"hippocampus": 0.011, "amygdala": 0.007, "prefrontal_cortex": 0.058}
REQUESTS = 300
NO_BOUND = ObjectiveConfig(recall=None, p95=None, memory=None)


@pytest.fixture(scope="module")
def loaded(record: RunRecord) -> RunRecord:
    random = np.random.default_rng(5)
    rows = [row for repeat in range(5) for row in _process(repeat, random)]
    experiment = {**record.experiment, "suite": {"agents": {"objective_p95": 0.45}}}
    documented = record.verdicts[0].model_copy(update={"metric": "agents.utilisation", "baseline": 0.85})
    return record.model_copy(
        update={
            "metrics": derive(frame(rows)),
            "experiment": experiment,
            "verdicts": [*record.verdicts, documented],
        }
    )


def _process(repeat: int, random: np.random.Generator) -> list[dict[str, object]]:
    rows = [_row("agents.capacity", {}, repeat, 10.0, items=round(250 * random.uniform(0.97, 1.03)))]
    for agent, seconds in SERVICE.items():
        about = {"agent": agent}
        rows += [_row("agents.hop", about, repeat, 4e-5 * random.uniform(0.8, 1.5)) for _ in range(20)]
        rows += [_row("agents.service", about, repeat, seconds * random.uniform(0.8, 1.2)) for _ in range(20)]
        rows += [_row("agents.queue_wait", about, repeat, 1e-6 * random.uniform(0.8, 1.2)) for _ in range(20)]
    rows += [_row("agents.hop", {}, repeat, 4e-5 * random.uniform(0.8, 1.5)) for _ in range(60)]
    for load, (latency, busy, rejected) in MEASURED.items():
        about = {"load": load}
        lost = round(rejected * REQUESTS)
        for n in range(REQUESTS):
            ended = "rejected" if n < lost else "answered"
            value = latency * float(random.lognormal(0, 0.3)) if n >= lost else 1e-4
            rows.append(_row("agents.load", about, repeat, value, outcome=ended))
        rows += [_row("agents.load.hop", about, repeat, 6e-5 + 1e-6 * repeat)] * REQUESTS
        rows.append(_row("agents.load.overhead", about, repeat, 0.003 + 1e-4 * repeat))
        rows.append(_row("agents.load.busiest", about, repeat, busy))
        rows.append(_row("agents.load.within_objective", about, repeat, float(latency < 0.45)))
        rows += [
            _row("agents.load.utilisation", {**about, "agent": agent}, repeat, busy * seconds / 0.058)
            for agent, seconds in SERVICE.items()
        ]
    kept = [_row("agents.utilisation", {}, repeat, 0.88), _row("agents.sustained_rate", {}, repeat, 22.5)]
    return rows + kept


def _row(series: str, labels: dict[str, str], repeat: int, value: float, **more: object) -> dict[str, object]:
    return {
        "suite": "agents", "series": series, "labels": label_text(labels), "repeat": repeat, "seq": 0,
        "start": 0.0, "value": value, "items": 1, **more,
    }  # fmt: skip


def _drawn(record: RunRecord) -> Drawing:
    (drawing,) = under_load(record)
    assert isinstance(drawing, Drawing)
    return drawing


def _rows(record: RunRecord) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(_drawn(record).csv)))


def test_the_curves_hold_every_figure_that_there_is_by_ascending_load(loaded: RunRecord) -> None:
    rows = _rows(loaded)
    loads = {
        line: [float(row["load"]) for row in rows if row["line"] == line] for line in ("p50", "rejected")
    }
    assert loads["p50"] == [0.2, 0.8, 0.9, 1.0, 1.5]
    assert loads["rejected"] == [0.2, 0.8, 0.9, 1.0, 1.5]
    by_line = {(row["line"], float(row["load"])): float(row["value"]) for row in rows}
    assert by_line["p50", 0.8] == pytest.approx(0.11, rel=0.1)
    assert by_line["rejected", 1.5] == pytest.approx(0.31)
    assert by_line["prefrontal_cortex", 0.9] == pytest.approx(0.88)


def test_a_percentile_ends_where_too_many_questions_have_no_answer(loaded: RunRecord) -> None:
    p95 = [float(row["load"]) for row in _rows(loaded) if row["line"] == "p95"]
    assert p95 == [0.2, 0.8, 0.9, 1.0]
    rows = dict(next(t for t in tables.tables(loaded) if t.title.startswith("Agents under load")).rows)
    mean, p50, p95_cell, within = rows["load 150%"]
    assert (mean, p95_cell) == ("not all answered", "not all answered")
    assert p50.endswith("]")
    assert within == "0%"
    assert "]" in rows["load 100%"][2]


def test_the_objective_the_agents_and_what_happened_are_named(loaded: RunRecord) -> None:
    svg = _drawn(loaded).svg
    ET.fromstring(svg)  # noqa: S314  our own figure
    for text in ("objective 450 ms", "documented 85%", *SERVICE, "rejected", "p95"):
        assert f">{text}</text>" in svg
    assert ">timed out</text>" not in svg, "nobody timed out"
    assert "100% is the capacity, 25" in _drawn(loaded).caption


def test_what_never_happened_has_no_line(loaded: RunRecord) -> None:
    calm = [m for m in loaded.metrics if m.labels.get("load") in (None, "20%", "80%")]
    lines = {row["line"] for row in _rows(loaded.model_copy(update={"metrics": calm}))}
    assert lines == {"p50", "p95", *SERVICE, "in time"}
    assert {row["line"] for row in _rows(loaded)} - lines == {"rejected"}


def test_where_no_load_has_the_samples_for_a_percentile_its_mean_is_drawn(loaded: RunRecord) -> None:
    few = [m for m in loaded.metrics if not m.name.startswith("agents.load.latency.p")]
    rows = _rows(loaded.model_copy(update={"metrics": few}))
    assert [float(row["load"]) for row in rows if row["line"] == "mean"] == [0.2, 0.8, 0.9]
    assert {row["line"] for row in _rows(loaded)}.isdisjoint({"mean"})


def test_one_client_has_a_row_for_each_agent_and_one_for_all_hops(loaded: RunRecord) -> None:
    table = next(t for t in tables.tables(loaded) if t.title.startswith("Agents, one question"))
    assert [label for label, _ in table.rows] == [*SERVICE, "all"]
    assert len(set(table.columns)) == len(table.columns)
    cells = dict(zip(table.columns, dict(table.rows)["amygdala"], strict=True))
    assert cells["work, mean"].startswith("7.")
    assert "ms" in cells["work, mean"]


def test_what_the_agents_can_do_at_most_and_within_the_objective_is_one_row(loaded: RunRecord) -> None:
    table = next(t for t in tables.tables(loaded) if t.title.startswith("Agents, at most"))
    ((label, (capacity, kept, busiest)),) = table.rows
    assert label == "all"
    assert capacity.startswith("25.")
    assert kept.startswith("22.5 requests/s")
    assert busiest.startswith("88.0%")


@pytest.fixture(scope="module")
def cells(loaded: RunRecord) -> list[RunRecord]:
    """Two cells of the agents suite alone, the second with fewer loads."""
    metrics = [metric for metric in loaded.metrics if metric.name.startswith("agents.")]
    fewer = [metric for metric in metrics if metric.labels.get("load") != "80%"]
    return [
        loaded.model_copy(update={"metrics": own, "command": [f"agents.amygdala.max_concurrent={slots}"]})
        for slots, own in ((1, metrics), (8, fewer))
    ]


def test_a_sweep_of_agents_has_a_row_for_each_cell_and_a_column_for_each_load(cells: list[RunRecord]) -> None:
    made = sweep.over(cells, NO_BOUND, [])
    found = {table.title: table for table in side_by_side.answering(made)}
    own = [f"agents.amygdala.max_concurrent={slots}" for slots in (1, 8)]
    kept = found["Agents, at most and within the objective"]
    assert [label for label, _ in kept.rows] == own
    rejected = found["Questions rejected, load by load"]
    assert rejected.columns == [f"load {load}" for load in MEASURED]
    assert [label for label, _ in rejected.rows] == own
    assert [cells[-1] for _, cells in rejected.rows] == ["31.0%", "31.0%"]
    assert [cells[1] for _, cells in rejected.rows] == ["0%", ""]
    assert "Questions timed out, load by load" in found


def test_the_headline_of_a_sweep_of_agents_says_what_was_compared(cells: list[RunRecord]) -> None:
    said = "2 cells compared side by side, by the figures of the suite agents; without recall, no frontier."
    made = sweep.over(cells, NO_BOUND, [])
    assert sweep.headline(made) == said
    out = io.StringIO()
    Console(file=out, width=100).print(terminal.sweep([(Path(), record) for record in cells], NO_BOUND))
    for text in (out.getvalue(), markdown.render_sweep(made), html.render_sweep(made, ["a", "b"])):
        flat = " ".join(text.split())
        assert said in flat
        assert "Questions rejected, load by load" in flat
        assert "Agents, at most and within the objective" in flat


def test_what_coordination_costs_is_told_of_each_load(loaded: RunRecord) -> None:
    table = next(t for t in tables.tables(loaded) if t.title.endswith("what coordinating them costs"))
    assert [label for label, _ in table.rows] == [f"load {load}" for load in MEASURED]
    mean, p95, overhead = dict(table.rows)["load 90%"]
    assert "µs" in mean
    assert "µs" in p95
    assert "%" in overhead


def test_labels_that_are_no_load_are_not_drawn(loaded: RunRecord) -> None:
    odd = [
        m.model_copy(update={"labels": {**m.labels, "load": load}})
        for m, load in zip(loaded.metrics, ["9" * 5000, "", "0%", "half", "-5%"] * 99, strict=False)
        if "load" in m.labels
    ]
    assert len(odd) > 20
    drawn = _rows(loaded.model_copy(update={"metrics": [*loaded.metrics, *odd]}))
    assert len(drawn) == len(_rows(loaded))
    assert under_load(loaded.model_copy(update={"metrics": odd})) == []


def test_a_run_without_loads_has_no_curves(record: RunRecord) -> None:
    assert under_load(record) == []


def test_curves_and_tables_are_in_page_and_comment(loaded: RunRecord) -> None:
    page = html.render(loaded, frame([]))
    assert 'class="agents"' in page
    assert "not all answered" in page
    assert "| load 150% |" in markdown.render(loaded)
