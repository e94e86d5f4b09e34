"""Dynamic batching in reports: tables by number of clients, and the curves over them."""

from __future__ import annotations

import csv
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from bench.metrics import derive, label_text
from bench.record import RunRecord
from bench.reports import html, markdown, tables
from bench.reports.figures.batching import shared_calls
from bench.reports.figures.drawing import Drawing
from bench.reports.units import RATIO
from bench.trial import frame

# By clients, in no order: queries a second in shared calls, and alone.
RATES = {16: (420.0, 105.0), 1: (90.0, 100.0), 2: (150.0, 100.0)}
QUERIES, ROUNDS = 60, 4
CONDITION = "60 queries embedded by so many clients; shared: in calls of up to 32 texts"


@pytest.fixture(scope="module")
def batched(record: RunRecord) -> RunRecord:
    return _batched(record, processes=5)


def _batched(record: RunRecord, processes: int) -> RunRecord:
    random = np.random.default_rng(6)
    rows = [row for repeat in range(processes) for row in _process(repeat, random)]
    conditions = {**record.conditions, "query.batching": CONDITION}
    return record.model_copy(
        update={"metrics": derive(frame(rows)), "verdicts": [], "conditions": conditions}
    )


def _process(repeat: int, random: np.random.Generator) -> list[dict[str, object]]:
    drift = random.uniform(0.97, 1.03)
    rows = []
    for clients, rates in RATES.items():
        walls = {}
        for calls, rate in zip(("shared", "alone"), rates, strict=True):
            about = {"clients": str(clients), "calls": calls}
            walls[calls] = QUERIES / rate * drift * random.uniform(0.99, 1.01)
            rows += [_row("query.batching", about, repeat, walls[calls], items=QUERIES)] * ROUNDS
            waits = clients / rate * random.uniform(0.9, 1.1, ROUNDS * QUERIES)
            rows += [_row("query.batching.wait", about, repeat, float(wait)) for wait in waits]
        about = {"clients": str(clients)}
        gain = _row("query.batching.gain", about, repeat, walls["alone"], reference=walls["shared"])
        rows.append(gain)
    return rows


def _row(series: str, labels: dict[str, str], repeat: int, value: float, **more: object) -> dict[str, object]:
    return {
        "suite": "query", "series": series, "labels": label_text(labels), "repeat": repeat, "seq": 0,
        "start": 0.0, "value": value, "items": 1, **more,
    }  # fmt: skip


def _drawn(record: RunRecord) -> Drawing:
    (drawing,) = shared_calls(record)
    return drawing


def _points(record: RunRecord) -> dict[str, dict[int, dict[str, str]]]:
    found: dict[str, dict[int, dict[str, str]]] = {}
    for row in csv.DictReader(io.StringIO(_drawn(record).csv)):
        found.setdefault(row["line"], {})[int(row["clients"])] = row
    return found


def _table(record: RunRecord, title: str) -> tables.Table:
    return next(table for table in tables.tables(record) if table.title == title)


def test_each_number_of_clients_has_a_row_for_either_side_the_fewest_first(batched: RunRecord) -> None:
    table = _table(batched, tables.BATCHING)
    assert table.columns == ["rate", "mean latency", "p95"]
    assert [label for label, _ in table.rows] == [
        f"{clients}, {side}"
        for clients in ("1 client", "2 clients", "16 clients")
        for side in ("shared", "alone")
    ]
    rate, mean, p95 = dict(table.rows)["16 clients, shared"]
    assert re.fullmatch(r"4[12]\d queries/s \[\d{3}, \d{3}\]", rate)
    assert re.fullmatch(r"38\.\d ms \[3\d\.\d, 3\d\.\d\]", mean)
    assert re.fullmatch(r"4\d\.\d ms \[4\d\.\d, 4\d\.\d\]", p95)


def test_the_gain_is_a_ratio_with_its_interval_by_number_of_clients(batched: RunRecord) -> None:
    table = _table(batched, tables.BATCHING_GAIN)
    assert [label for label, _ in table.rows] == ["1 client", "2 clients", "16 clients"]
    (gain,) = dict(table.rows)["16 clients"]
    assert re.fullmatch(rf"(3\.9|4\.0)\d{RATIO} \[3\.\d\d, 4\.\d\d\]", gain)


def test_the_curves_hold_every_rate_and_gain_by_ascending_clients(batched: RunRecord) -> None:
    points = _points(batched)
    assert list(points) == ["shared", "alone", "gain"]
    for line in points.values():
        assert list(line) == [1, 2, 16]
    for clients, (shared, alone) in RATES.items():
        assert float(points["shared"][clients]["value"]) == pytest.approx(shared, rel=0.05)
        assert float(points["alone"][clients]["value"]) == pytest.approx(alone, rel=0.05)
        assert float(points["gain"][clients]["value"]) == pytest.approx(shared / alone, rel=0.05)
        assert float(points["gain"][clients]["ci_low"]) < float(points["gain"][clients]["ci_high"])


def test_clients_sides_and_the_line_of_no_gain_are_named(batched: RunRecord) -> None:
    drawing = _drawn(batched)
    ET.fromstring(drawing.svg)  # noqa: S314  our own figure
    for text in ("1", "2", "16", "shared", "alone", "gain", f"1{RATIO}"):
        assert f">{text}</text>" in drawing.svg
    assert drawing.caption.startswith(f"{CONDITION}. ")


def test_clients_without_room_for_their_number_are_drawn_unnamed(batched: RunRecord) -> None:
    many = [
        metric.model_copy(update={"labels": {**metric.labels, "clients": str(clients)}})
        for clients in range(240, 257)
        for metric in batched.metrics
        if metric.labels["clients"] == "16"
    ]
    crowded = batched.model_copy(update={"metrics": [*batched.metrics, *many]})
    assert len(_points(crowded)["gain"]) == len(RATES) + 17
    named = [n for n in range(240, 257) if f">{n}</text>" in _drawn(crowded).svg]
    assert named == [256]


def test_without_enough_processes_there_are_rates_and_no_intervals(record: RunRecord) -> None:
    few = _batched(record, processes=3)
    rows = [row for line in _points(few).values() for row in line.values()]
    assert len(rows) == 3 * len(RATES)
    assert not any(row["ci_low"] or row["ci_high"] for row in rows)


def test_one_number_of_clients_is_enough_for_a_figure(batched: RunRecord) -> None:
    one = [metric for metric in batched.metrics if metric.labels["clients"] == "1"]
    points = _points(batched.model_copy(update={"metrics": one}))
    assert {line: list(of) for line, of in points.items()} == {"shared": [1], "alone": [1], "gain": [1]}


def test_labels_that_are_no_number_of_clients_are_not_drawn(batched: RunRecord) -> None:
    odd = [
        metric.model_copy(update={"labels": {**metric.labels, "clients": clients}})
        for metric, clients in zip(batched.metrics, ["9" * 5000, "", "0", "many", "-5"] * 9, strict=False)
    ]
    assert len(odd) == len(batched.metrics)
    drawn = _drawn(batched.model_copy(update={"metrics": [*batched.metrics, *odd]}))
    assert drawn.csv == _drawn(batched).csv
    assert shared_calls(batched.model_copy(update={"metrics": odd})) == []


def test_a_run_that_embedded_nothing_by_clients_has_no_curves(record: RunRecord) -> None:
    assert shared_calls(record) == []


def test_curves_and_tables_are_in_page_and_comment(batched: RunRecord) -> None:
    page = html.render(batched, frame([]))
    assert 'class="batching"' in page
    assert tables.BATCHING_GAIN in page
    assert "| 16 clients, shared |" in markdown.render(batched)
