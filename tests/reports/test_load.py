"""The load suite in reports: its tables, its load from second to second, latency against load."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from bench.metrics import derive, label_text
from bench.record import RunRecord
from bench.reports import html, tables
from bench.reports.figures.drawing import Drawing
from bench.reports.figures.load import against_load, over_time
from bench.trial import frame

RATES = {"1: 50/s": 50, "2: 100/s": 100, "3: 200/s": 200}
OBJECTIVE = {"load": {"name": "steps", "objective": {"p95": 0.2}, "model": {"kind": "steps"}}}
PROBES = ((100, "met", 0.05), (200, "met", 0.11), (400, "missed", None), (280, "missed", 0.31))


def _row(
    series: str, labels: dict[str, str], repeat: int, value: float, start: float = 0.0, **more: object
) -> dict[str, object]:
    return {
        "suite": "load", "series": series, "labels": label_text(labels), "repeat": repeat, "seq": 0,
        "start": start, "value": value, "items": 1, **more,
    }  # fmt: skip


def _process(repeat: int, random: np.random.Generator) -> list[dict[str, object]]:
    rows = []
    for place, (step, rate) in enumerate(RATES.items()):
        about = {"load": "steps", "step": step}
        for n in range(400):
            service = 0.0002 * rate * float(random.lognormal(0, 0.3))
            failed = rate == 200 and n % 50 == 0
            rows.append(
                _row(
                    "load.request", about, repeat, service + 0.001, place * 10 + n / 50, service_time=service,
                    outcome="rejected" if failed else "answered", status=503 if failed else 200, worker=0,
                )
            )  # fmt: skip
        single = {"offered": rate, "in_flight": rate / 20, "cpu": rate / 250, "generator_cpu": 0.1}
        rows += [_row(f"load.{name}", about, repeat, value) for name, value in single.items()]
        rows.append(_row("load.memory", about, repeat, 5e8 + 1e6 * place))
        rows.append(_row("load.sampled", about, repeat, 0.9, query="q", recall_at_10=0.9))
    rows += [
        _row("load.lead_in", {"load": "steps", "step": "warm-up"}, repeat, 0.5, -1.0, outcome="answered")
    ]
    for of, value in (("cpu", 0.7), ("memory", 5e8)):
        rows += [_row("load.seen", {"load": "steps", "of": of}, repeat, value, at) for at in range(30)]
    return rows


@pytest.fixture(scope="module")
def steps() -> pd.DataFrame:
    random = np.random.default_rng(3)
    return frame([row for repeat in range(5) for row in _process(repeat, random)])


@pytest.fixture(scope="module")
def probes() -> pd.DataFrame:
    rows = [_row("load.capacity", {"load": "capacity"}, repeat, 200 + repeat) for repeat in range(5)]
    for repeat in range(5):
        for number, (rate, verdict, p95) in enumerate(PROBES):
            about = {"load": "capacity", "rate": str(rate), "verdict": verdict}
            found = {"p95": p95, "service p95": p95 and p95 / 2, "errors": 0.0, "cpu": rate / 500}
            rows += [
                _row("load.probe", {**about, "of": of}, repeat, value, number)
                for of, value in found.items()
                if value is not None
            ]
    return frame(rows)


@pytest.fixture(scope="module")
def loaded(record: RunRecord, steps: pd.DataFrame) -> RunRecord:
    experiment = {**record.experiment, **OBJECTIVE, "suites": ["load"]}
    return record.model_copy(update={"metrics": derive(steps), "experiment": experiment})


@pytest.fixture(scope="module")
def sought(record: RunRecord, probes: pd.DataFrame) -> RunRecord:
    facts = {"capacity": "204 requests/s", "saturates_first": "step poisson: CPU (service 1.80 of 2 cores)"}
    trials = [trial.model_copy(update={"facts": facts}) for trial in record.trials]
    experiment = {**record.experiment, **OBJECTIVE, "suites": ["load"]}
    return record.model_copy(update={"metrics": derive(probes), "experiment": experiment, "trials": trials})


def _only(drawings: list[Drawing]) -> Drawing:
    (drawing,) = drawings
    ET.fromstring(drawing.svg)  # noqa: S314  our own figure
    return drawing


def _lines(drawing: Drawing, over: str) -> dict[str, list[tuple[float, float]]]:
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in csv.DictReader(io.StringIO(drawing.csv)):
        lines.setdefault(row["line"], []).append((float(row[over]), float(row["value"])))
    return lines


def test_latency_against_load_holds_every_step_of_every_process(
    loaded: RunRecord, steps: pd.DataFrame
) -> None:
    drawing = _only(against_load(loaded, steps))
    lines = _lines(drawing, "rate")
    p95 = lines["latency (log scale) p95"]
    assert [rate for rate, _ in p95] == [50] * 5 + [100] * 5 + [200] * 5
    assert [value for rate, value in p95 if rate == 50] == pytest.approx([0.0174] * 5, rel=0.15)
    failed = dict(lines["of all cores, and of the requests no answer"])
    assert failed == {50: 0, 100: 0, 200: pytest.approx(0.02)}
    assert dict(lines["memory of the service"])[200] == 5.02e8
    assert ">objective 200 ms</text>" in drawing.svg


def test_a_search_for_the_capacity_is_drawn_by_its_measurements_with_what_saturates_first(
    sought: RunRecord, probes: pd.DataFrame
) -> None:
    drawing = _only(against_load(sought, probes))
    lines = _lines(drawing, "rate")
    assert {rate for rate, _ in lines["latency (log scale) p95"]} == {100, 200, 280}, "one had no p95"
    assert {rate for rate, _ in lines["of all cores, and of the requests service"]} == {100, 200, 280, 400}
    assert "204 requests/s" in drawing.caption
    said = "step poisson: CPU (10 of 10 processes). The first process saw: service 1.80 of 2 cores."
    assert said in drawing.caption
    assert over_time(sought, probes) == []


def test_one_rate_is_no_curve(loaded: RunRecord, steps: pd.DataFrame) -> None:
    one = steps[steps["labels"].str.contains("1: 50/s")].copy()
    each = one["series"] == "load.offered"
    one.loc[each, "value"] += one.loc[each, "repeat"]  # as users offer a rate that is never the same
    assert against_load(loaded, one) == []
    assert len(over_time(loaded, one)) == 1


def test_a_load_from_second_to_second_counts_what_failed_apart(
    loaded: RunRecord, steps: pd.DataFrame
) -> None:
    drawing = _only(over_time(loaded, steps))
    lines = _lines(drawing, "seconds")
    of_first = steps[(steps["repeat"] == 0) & steps["series"].isin(["load.request", "load.lead_in"])]
    width = (of_first["start"].max() - of_first["start"].min()) / 40
    failed = sum(value for _, value in lines["requests a second failed"]) * width
    assert failed == pytest.approx(8, rel=1e-4)
    slowest = max(value for _, value in lines["latency (log scale) slowest"])
    assert slowest == pytest.approx(of_first[of_first["outcome"] == "answered"]["value"].max(), rel=1e-4)
    assert "cores the service kept busy" in lines


def test_a_run_without_a_load_has_no_such_figure(record: RunRecord, samples: pd.DataFrame) -> None:
    assert over_time(record, samples) == against_load(record, samples) == []


def test_steps_are_rows_of_tables_and_the_load_is_named(loaded: RunRecord, steps: pd.DataFrame) -> None:
    titles = {table.title: table for table in tables.tables(loaded)}
    table = titles["The service under load, from the intended start"]
    assert [label for label, _ in table.rows] == [f"load steps, step {step}" for step in RATES]
    became = titles["The service under load, what became of the requests"]
    assert dict(became.rows)["load steps, step 3: 200/s"][became.columns.index("rejected")].startswith(
        "2.00%"
    )
    assert "steps: steps" in html.render(loaded, steps)
