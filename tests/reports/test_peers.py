"""The peers suite in reports: one table and one plot, in which the engine stands out."""

from __future__ import annotations

import numpy as np
import pytest

from bench.metrics import derive, label_text
from bench.record import RunRecord
from bench.reports import html, markdown, tables
from bench.reports.figures.drawing import Drawing
from bench.reports.figures.peers import peers
from bench.trial import frame

# By side and name: setting, recall, seconds.
MEASURED = {
    ("engine", "brein"): [("nprobe=1", 0.6, 1e-4), ("nprobe=9", 0.96, 3e-4), ("nprobe=50", 1.0, 9e-4)],
    ("peer", "fast"): [("ef=16", 0.8, 5e-5), ("ef=64", 0.97, 1e-4)],
    ("peer", "exact"): [("as built", 1.0, 6e-4)],
    ("peer", "poor"): [("as built", 0.3, 6e-5)],
}


@pytest.fixture(scope="module")
def beside_peers(record: RunRecord) -> RunRecord:
    random = np.random.default_rng(5)
    rows = []
    for (side, name), settings in MEASURED.items():
        about = {side: name, "task": "vectors"}
        rows.append(_row("peers.build", about, 0, 0, 2.0))
        for setting, recall, seconds in settings:
            rows += [
                _row("peers.search", {**about, "setting": setting}, repeat, seq, value, recall_at_10=recall)
                for repeat in range(5)
                for seq, value in enumerate(seconds * random.uniform(0.99, 1.01, 30))
            ]
    return record.model_copy(update={"metrics": derive(frame(rows))})


def _row(
    series: str, labels: dict[str, str], repeat: int, seq: int, value: float, **more: float
) -> dict[str, object]:
    return {
        "suite": "peers", "series": series, "labels": label_text(labels), "repeat": repeat, "seq": seq,
        "start": 0.0, "value": value, "items": 1, "query": str(seq), **more,
    }  # fmt: skip


def test_the_table_has_the_engine_first_and_a_ratio_where_both_reach_the_recall(
    beside_peers: RunRecord,
) -> None:
    (table,) = tables.tables(beside_peers)
    assert table.columns == ["≥ 90%", "≥ 95%", "≥ 99%", "build"]
    rows = dict(table.rows)
    assert list(rows) == ["brein", "fast", "exact", "poor"]
    assert rows["brein"][0].endswith("µs, 1.00\N{MULTIPLICATION SIGN}")
    assert "0.33" in rows["fast"][1]
    assert "[" in rows["fast"][1]
    assert rows["fast"][2] == "not reached"
    assert rows["exact"][0].partition(",")[0] == rows["exact"][2].partition(",")[0]
    assert rows["poor"] == ["not reached"] * 3 + ["2.00 s"]


def test_the_plot_has_every_setting_as_measured(beside_peers: RunRecord) -> None:
    (drawing,) = peers(beside_peers)
    assert isinstance(drawing, Drawing)
    lines = drawing.csv.splitlines()
    assert lines[0] == "name,side,setting,p50_seconds,recall_at_10"
    assert len(lines) == 1 + sum(len(settings) for settings in MEASURED.values())
    assert lines[1].startswith("brein,engine,nprobe=1,")
    for name in ("brein", "fast", "exact", "poor"):
        assert f">{name}</text>" in drawing.svg


def test_a_run_without_peers_has_neither(record: RunRecord) -> None:
    assert peers(record) == []
    assert not [table for table in tables.tables(record) if "peers" in table.title]


def test_table_and_plot_are_in_page_and_comment(beside_peers: RunRecord) -> None:
    page = html.render(beside_peers, frame([]))
    assert 'class="peers-vectors"' in page
    assert "not reached" in page
    assert "| fast |" in markdown.render(beside_peers)
