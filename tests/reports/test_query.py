"""The query suite in reports: stages, the ablation, predictions; strategies side by side."""

from __future__ import annotations

import csv
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from bench.config import ObjectiveConfig
from bench.metrics import derive, label_text
from bench.record import RunRecord
from bench.reports import figures, html, markdown, side_by_side, stages, sweep, tables, terminal
from bench.reports.figures.drawing import Drawing
from bench.trial import frame

NO_BOUND = ObjectiveConfig(recall=None, p95=None, memory=None)
REPEATS, QUERIES, SLOW = 5, 120, 15  # the first queries of a process are slow
STAGES = {"lexical": 2e-3, "embedding": 8e-3, "rerank": 1e-3}  # seconds; every other query is reranked
# By change: mean difference in nDCG@10, and latency over the whole pipeline's.
CHANGES = {"without lexical": (-0.15, 0.6), "multi_stage with mesh": (0.0, 1.4), "two_stage": (0.05, 1.0)}


def _row(
    series: str, repeat: int, seq: int, value: float, labels: dict[str, str] | None = None, **more: object
) -> dict[str, object]:
    return {
        "suite": "query", "series": series, "labels": label_text(labels or {}), "repeat": repeat, "seq": seq,
        "start": float(seq), "value": value, "items": 1, "query": f"q{seq}", **more,
    }  # fmt: skip


def _cold(seed: int = 3) -> Iterator[dict[str, object]]:
    random = np.random.default_rng(seed)
    for repeat in range(REPEATS):
        for seq in range(QUERIES):
            slowed = (20.0 if seq < SLOW else 1.0) * random.uniform(0.97, 1.03)
            quality = {"recall_at_10": 0.8, "ndcg_at_10": float(random.uniform(0.6, 0.8))}
            took = slowed * sum(s for name, s in STAGES.items() if name != "rerank" or seq % 2)
            yield _row("query.search", repeat, seq, 1.1 * took, {"phase": "cold"}, **quality)
            for name, seconds in STAGES.items():
                if name != "rerank" or seq % 2:
                    yield _row("query.stage", repeat, seq, slowed * seconds, {"stage": name})
            yield _row("query.strategy", repeat, seq, float(seq % 2), {"strategy": "two_stage"})
            if seq >= SLOW:
                predicted = 1.1 * took * (1.2 if seq % 2 else 0.9)
                yield _row("query.prediction", repeat, seq, 1.1 * took, reference=predicted)


def _ablation() -> Iterator[dict[str, object]]:
    random = np.random.default_rng(4)
    for change, (difference, cost) in CHANGES.items():
        for repeat in range(REPEATS):
            for seq in range(QUERIES):
                found = difference + float(random.normal(0, 0.05))
                yield _row(
                    "query.ablation", repeat, seq, 0.01 * cost * random.uniform(0.98, 1.02),
                    {"change": change}, reference=0.01, ndcg_difference=found,
                )  # fmt: skip


@pytest.fixture(scope="module")
def query_samples() -> pd.DataFrame:
    return frame([*_cold(), *_ablation()])


@pytest.fixture(scope="module")
def retrieved(record: RunRecord, query_samples: pd.DataFrame) -> RunRecord:
    return record.model_copy(update={"metrics": derive(query_samples), "verdicts": []})


@pytest.fixture(scope="module")
def strategies(record: RunRecord) -> list[RunRecord]:
    """Two cells to compare, and one of the ablation alone."""
    own = [
        ["suite.query.parts=[cold]", "retrieval.strategy=single_stage"],
        ["suite.query.parts=[cold]", "retrieval.strategy=auto"],
        ["suite.query.parts=[ablation]"],
    ]
    measured = [derive(frame(list(rows))) for rows in (_cold(1), _cold(2), _ablation())]
    measured[0] = [m for m in measured[0] if m.labels != {"stage": "rerank"}]
    return [
        record.model_copy(update={"metrics": metrics, "command": ["suites=[query]", *command]})
        for metrics, command in zip(measured, own, strict=True)
    ]


def _table(record: RunRecord, title: str) -> tables.Table:
    return next(table for table in tables.tables(record) if table.title == title)


def _rows(drawing: Drawing) -> list[dict[str, str]]:
    ET.fromstring(drawing.svg)  # noqa: S314  our own figure
    return list(csv.DictReader(io.StringIO(drawing.csv)))


def _drawn(record: RunRecord, samples: pd.DataFrame) -> dict[str, Drawing]:
    return {one.key: one for one in figures.draw(record, samples) if isinstance(one, Drawing)}


def test_a_stage_has_one_row_of_mean_and_percentiles(retrieved: RunRecord) -> None:
    table = _table(retrieved, tables.STAGES)
    assert table.columns == ["mean", "p50", "p95"]
    assert [label for label, _ in table.rows] == list(STAGES)
    assert "do not add up" in table.note


def test_the_warm_up_of_queries_is_that_of_their_stages(retrieved: RunRecord) -> None:
    found = {m.labels["stage"]: m for m in retrieved.metrics if m.name == "query.stage.latency.mean"}
    whole = stages.whole(retrieved)
    assert whole is not None
    assert whole.cut == found["embedding"].cut >= REPEATS * SLOW
    assert found["embedding"].value == pytest.approx(8e-3, rel=0.05)


def test_stages_add_up_to_the_queries_but_for_what_is_between_them(retrieved: RunRecord) -> None:
    whole = stages.whole(retrieved)
    assert whole is not None
    assert whole.value is not None
    assert 1.1 * sum(stages.by_stage(retrieved).values()) == pytest.approx(whole.value, rel=0.02)
    assert stages.by_stage(retrieved)["rerank"] == pytest.approx(0.5e-3, rel=0.1), "half had it"


def test_a_stage_that_ran_only_in_the_warm_up_is_kept(query_samples: pd.DataFrame) -> None:
    rare = frame([_row("query.stage", 0, 1, 5.0, {"stage": "mesh"})])
    metrics = derive(pd.concat([query_samples, rare]))
    mesh = next(m for m in metrics if m.name == "query.stage.latency.mean" and m.labels == {"stage": "mesh"})
    assert mesh.value == pytest.approx(5.0)


def test_a_change_has_points_and_a_ratio_with_their_intervals(retrieved: RunRecord) -> None:
    table = _table(retrieved, tables.ABLATION)
    rows = dict(table.rows)
    assert list(rows) == list(CHANGES)
    difference, ratio = rows["without lexical"]
    assert re.fullmatch(r"-1[45]\.\d\d points \[-1\d\.\d\d, -1\d\.\d\d\]", difference)
    assert rows["two_stage"][0].startswith("+")
    assert ratio.startswith("0.6")
    assert "\N{MULTIPLICATION SIGN} [" in ratio
    assert "paired over" in table.note


def test_notes_and_tables_are_in_terminal_comment_and_page(
    retrieved: RunRecord, query_samples: pd.DataFrame
) -> None:
    out = io.StringIO()
    Console(file=out, width=100).print(terminal.table(retrieved))
    for text in (out.getvalue(), markdown.render(retrieved), html.render(retrieved, query_samples)):
        assert "without lexical" in text
        assert "do not add up" in text
        assert " points " in text
    assert max(map(len, out.getvalue().splitlines())) <= 100


def test_the_forest_has_each_change_and_says_what_is_better(
    retrieved: RunRecord, query_samples: pd.DataFrame
) -> None:
    drawing = _drawn(retrieved, query_samples)["ablation"]
    assert "the median ratio of latencies" in drawing.caption
    rows = _rows(drawing)
    assert [row["change"] for row in rows] == [name for name in CHANGES for _ in range(2)]
    assert float(rows[1]["value"]) == pytest.approx(0.6, rel=0.02)
    assert "var(--miss)" in drawing.svg, "without lexical the answers are worse"
    assert "var(--pass)" in drawing.svg, "and faster"


def test_predictions_are_drawn_as_they_were_made(retrieved: RunRecord, query_samples: pd.DataFrame) -> None:
    drawing = _drawn(retrieved, query_samples)["calibration"]
    rows = _rows(drawing)
    assert len(rows) == REPEATS * (QUERIES - SLOW)
    off = {round(float(row["predicted_seconds"]) / float(row["measured_seconds"]), 2) for row in rows}
    assert off == {1.2, 0.9}
    assert "525 predictions" in drawing.caption
    assert "percentage error is 15.0%" in drawing.caption


def test_predictions_that_are_no_times_are_left_out(retrieved: RunRecord) -> None:
    odd = [float("nan"), float("inf"), -1.0, 0.0]
    rows = [_row("query.prediction", 0, n, value, reference=0.01) for n, value in enumerate(odd)]
    assert "calibration" not in _drawn(retrieved, frame(rows))
    rows.append(_row("query.prediction", 0, 9, 0.02, reference=0.01))
    assert len(_rows(_drawn(retrieved, frame(rows))["calibration"])) == 1


def test_a_run_without_stages_has_no_such_figures(record: RunRecord, samples: pd.DataFrame) -> None:
    assert {"stages", "ablation", "calibration"}.isdisjoint(_drawn(record, samples))


def test_strategies_are_side_by_side_and_the_ablation_beside_them(strategies: list[RunRecord]) -> None:
    made = sweep.over(strategies, NO_BOUND, [])
    assert [point.cell for point in made.apart] == [3]
    assert "of 2 configurations" in sweep.headline(made)
    assert {sweep.configuration(made, p) for p in sweep.ordered(made)} == {
        "retrieval.strategy=single_stage",
        "retrieval.strategy=auto",
    }
    by_stage, ablation = side_by_side.answering(made)
    assert by_stage.columns == ["strategy single_stage", "strategy auto"]
    assert [label for label, _ in by_stage.rows] == [*STAGES, "whole query"]
    assert dict(by_stage.rows)["rerank"][0] == "", "a single stage has none"
    assert [label for label, _ in ablation.rows] == list(CHANGES)
    drawn = {one.key: one for one in figures.draw_sweep(made) if isinstance(one, Drawing)}
    assert {row["configuration"] for row in _rows(drawn["stages"])} == set(by_stage.columns)
    assert "ablation" in drawn


def test_what_is_compared_with_none_is_no_failure_and_no_choice(strategies: list[RunRecord]) -> None:
    impossible = ObjectiveConfig(recall=0.99, p95=None, memory=None)
    assert sweep.headline(sweep.over(strategies, impossible, [])).startswith("No configuration has recall")
    out = io.StringIO()
    runs = [(Path(str(n)), record) for n, record in enumerate(strategies)]
    Console(file=out, width=100).print(terminal.sweep(runs, NO_BOUND))
    made = sweep.over(strategies, NO_BOUND, [])
    for text in (out.getvalue(), markdown.render_sweep(made), html.render_sweep(made, ["a", "b", "c"])):
        assert "p50 latency" in text
        assert "whole query" in text
        assert "without lexical" in text
        assert "its tables stand apart" in text
    assert "✗" not in out.getvalue()
