"""The system suite in reports: services side by side, and what HTTP costs beside a bare server."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from bench.metrics import derive, label_text
from bench.record import RunRecord
from bench.reports import html, markdown, tables
from bench.reports.figures.drawing import Drawing
from bench.reports.figures.system import over_http, side_by_side
from bench.reports.units import RATIO
from bench.trial import frame

RATES = {4: 150.0, 1: 60.0, 2: 108.0}  # searches a second by number of services, in no order
# By server: requests a second, and seconds of CPU of one.
SERVERS = {"echo": (12_000.0, 75e-6), "service": (6_600.0, 0.14e-3), "balancer": (900.0, 1.1e-3)}
SECONDS = 10.0
CONDITIONS = {
    "system.processes": "8 clients for each service",
    "system.http": "one query, found in the cache",
}


@pytest.fixture(scope="module")
def served(record: RunRecord) -> RunRecord:
    return _served(record, processes=5)


def _served(record: RunRecord, processes: int) -> RunRecord:
    random = np.random.default_rng(8)
    rows = [row for repeat in range(processes) for row in _process(repeat, random.uniform(0.97, 1.03))]
    conditions = {**record.conditions, **CONDITIONS}
    return record.model_copy(
        update={"metrics": derive(frame(rows)), "verdicts": [], "conditions": conditions}
    )


def _process(repeat: int, drift: float) -> list[dict[str, object]]:
    rows = []
    for count, rate in RATES.items():
        about = {"processes": str(count)}
        rows.append(_row("system.processes", about, repeat, SECONDS, items=round(rate * drift * SECONDS)))
        rows.append(_row("system.processes.gain", about, repeat, rate * drift, reference=RATES[1]))
    for server, (rate, cpu) in SERVERS.items():
        about = {"server": server}
        rows.append(_row("system.http", about, repeat, SECONDS, items=round(rate * drift * SECONDS)))
        rows.append(_row("system.http.cpu", about, repeat, cpu * drift))
    rows.append(_row("system.http.ratio", {}, repeat, 6_600.0 * drift, reference=12_000.0))
    return rows


def _row(series: str, labels: dict[str, str], repeat: int, value: float, **more: object) -> dict[str, object]:
    return {
        "suite": "system", "series": series, "labels": label_text(labels), "repeat": repeat, "seq": 0,
        "start": 0.0, "value": value, "items": 1, **more,
    }  # fmt: skip


def _rows(drawings: list[Drawing]) -> list[dict[str, str]]:
    (drawing,) = drawings
    ET.fromstring(drawing.svg)  # noqa: S314  our own figure
    return list(csv.DictReader(io.StringIO(drawing.csv)))


def _without_labels_of(record: RunRecord, label: str, values: list[str]) -> RunRecord:
    """The record with as many metrics more, whose label says something else."""
    odd = [
        metric.model_copy(update={"labels": {**metric.labels, label: value}})
        for metric in record.metrics
        if label in metric.labels
        for value in values
    ]
    return record.model_copy(update={"metrics": odd})


def test_searches_and_gain_are_drawn_by_ascending_services_with_intervals(served: RunRecord) -> None:
    rows = _rows(side_by_side(served))
    assert [(row["line"], int(row["services"])) for row in rows] == [
        (line, count) for line in ("searches", "gain") for count in (1, 2, 4)
    ]
    for row in rows:
        wanted = RATES[int(row["services"])] / (RATES[1] if row["line"] == "gain" else 1)
        assert float(row["value"]) == pytest.approx(wanted, rel=0.04)
        assert float(row["ci_low"]) < float(row["value"]) < float(row["ci_high"])


def test_services_are_named_and_said_what_they_were_measured_on(served: RunRecord) -> None:
    (drawing,) = side_by_side(served)
    for text in ("1", "2", "4", "searches", "gain", "services at once (log scale)"):
        assert f">{text}</text>" in drawing.svg
    assert drawing.caption.startswith("8 clients for each service. The gain is ")


def test_labels_that_are_no_number_of_services_are_not_drawn(served: RunRecord) -> None:
    odd = _without_labels_of(served, "processes", ["9" * 5000, "", "0", "many", "-5"])
    assert side_by_side(odd) == []
    both = served.model_copy(update={"metrics": [*served.metrics, *odd.metrics]})
    assert _rows(side_by_side(both)) == _rows(side_by_side(served))


def test_each_server_has_its_rate_and_its_cpu_with_intervals(served: RunRecord) -> None:
    rows = _rows(over_http(served))
    assert [row["server"] for row in rows] == [server for server in SERVERS for _ in range(2)]
    for row in rows:
        wanted = SERVERS[row["server"]][row["metric"] == "system.http.cpu"]
        assert float(row["value"]) == pytest.approx(wanted, rel=0.04)
        assert float(row["ci_low"]) < float(row["value"]) < float(row["ci_high"])


def test_servers_are_named_with_their_figures_and_the_ratio(served: RunRecord) -> None:
    (drawing,) = over_http(served)
    for server in SERVERS:
        assert f">{server}</text>" in drawing.svg
    assert "requests/s</text>" in drawing.svg
    assert "ms</text>" in drawing.svg
    assert drawing.caption.startswith("one query, found in the cache. The service answers 0.5")
    assert f"{RATIO} [0.5" in drawing.caption


def test_a_server_without_one_of_the_figures_is_not_drawn(served: RunRecord) -> None:
    some = [m for m in served.metrics if m.labels != {"server": "balancer"} or m.name != "system.http.cpu"]
    rows = _rows(over_http(served.model_copy(update={"metrics": some})))
    assert {row["server"] for row in rows} == {"echo", "service"}
    none = (None, 0.0, float("inf"))
    odd = [m.model_copy(update={"value": value}) for m in served.metrics for value in none]
    assert over_http(served.model_copy(update={"metrics": odd})) == []
    assert side_by_side(served.model_copy(update={"metrics": [m for m in odd if m.value != 0]})) == []


def test_without_enough_processes_there_are_figures_and_no_intervals(record: RunRecord) -> None:
    few = _served(record, processes=3)
    rows = [*_rows(side_by_side(few)), *_rows(over_http(few))]
    assert len(rows) == 2 * len(RATES) + 2 * len(SERVERS)
    assert not any(row["ci_low"] or row["ci_high"] for row in rows)


def test_a_run_without_services_has_no_such_figures(record: RunRecord) -> None:
    assert side_by_side(record) == over_http(record) == []


def test_figures_and_tables_are_in_page_and_comment(served: RunRecord) -> None:
    page = html.render(served, frame([]))
    assert 'class="services"' in page
    assert 'class="http"' in page
    by_title = {table.title: dict(table.rows) for table in tables.tables(served)}
    assert list(by_title["Services side by side"]) == ["processes 1", "processes 2", "processes 4"]
    cached = next(rows for title, rows in by_title.items() if title.startswith("Cached searches"))
    assert list(cached) == [*SERVERS]
    assert "| balancer |" in markdown.render(served)
