"""The report of a sweep: the answer first, every cell, safe to open, the same every time."""

import csv
import io
import re
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from html import unescape
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from bench import reports
from bench.config import ObjectiveConfig
from bench.errors import MeasurementError
from bench.frontier import Failure
from bench.record import RunRecord, Validity
from bench.reports import answer, html, markdown, results, sweep, terminal
from bench.reports.figures import Drawing, draw_sweep

NO_BOUND = ObjectiveConfig(recall=None, p95=None, memory=None)
RECALL_95 = ObjectiveConfig(recall=0.95, p95=None, memory=None)
SVG = "{http://www.w3.org/2000/svg}"
FAILED = Failure(
    ["suites=[memory]", "name=it's an index", "index=pq", "index.M=7"], "index.M must divide 128, not 7"
)
# index | override | recall and its interval | p95 in ms | bytes per vector
_CELLS = """
IndexFlat       | index=flat                    | 1    1    1    | 9.0 | 1536
IndexHNSW       | index=hnsw index.efSearch=16  | 0.90 0.88 0.92 | 0.2 | 1800
IndexHNSW       | index=hnsw index.efSearch=64  | 0.98 0.97 0.99 | 0.5 | 1800
IndexHNSW       | index=hnsw index.efSearch=256 | 0.99 0.98 1    | 2.0 | 1800
IndexPQ         | index=pq                      | 0.40 0.35 0.45 | 1.0 | 100
IndexRefineFlat | index=refined                 | 0.96 0.94 0.98 | 3.0 | 400
"""


def cell(
    record: RunRecord, own: str, kind: str, recall: Sequence[float], *, p95: float, size: float
) -> RunRecord:
    given = {
        "memory.recall_at_10": recall,
        "memory.search.latency.p95": [p95, 0.9 * p95, 1.1 * p95],
        "memory.index.bytes_per_vector": [size, size, size],
    }
    metrics = [
        metric.model_copy(update=dict(zip(("value", "ci_low", "ci_high"), given[metric.name], strict=True)))
        if metric.name in given and not metric.labels
        else metric
        for metric in record.metrics
    ]
    experiment = record.experiment | {"name": "index", "index": {"kind": kind}}
    command = ["suites=[memory]", "name=it's an index", *own.split()]
    return record.model_copy(update={"metrics": metrics, "experiment": experiment, "command": command})


@pytest.fixture(scope="module")
def records(record: RunRecord) -> list[RunRecord]:
    made = []
    for line in _CELLS.strip().splitlines():
        kind, own, recall, p95, size = (part.strip() for part in line.split("|"))
        made.append(
            cell(
                record, own, kind, [float(r) for r in recall.split()], p95=float(p95) / 1e3, size=float(size)
            )
        )
    return made


def over(
    records: Sequence[RunRecord], objective: ObjectiveConfig = NO_BOUND, *failures: Failure
) -> sweep.Sweep:
    return sweep.over(records, objective, failures)


def page(made: sweep.Sweep) -> str:
    return html.render_sweep(made, [f"./{number}/report.html" for number in range(len(made.records))])


def shown(records: Sequence[RunRecord], objective: ObjectiveConfig = NO_BOUND, *failures: Failure) -> str:
    out = io.StringIO()
    runs = [(Path(str(number)), record) for number, record in enumerate(records)]
    Console(file=out, width=100).print(terminal.sweep(runs, objective, failures))
    return out.getvalue()


def words(text: str) -> str:
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", text, flags=re.DOTALL).split())


# --- what is said ----------------------------------------------------------------------------------


def test_the_headline_names_the_frontier_or_the_cheapest_with_what_it_costs(records: list[RunRecord]) -> None:
    said = "6 of 6 configurations are on the frontier of recall@10, p95 latency and bytes per vector."
    assert sweep.headline(over(records)) == said
    said = "index=flat (recall@10 100%, p95 latency 9.00 ms, 1,536 B per vector)"
    assert sweep.headline(over(records, RECALL_95)) == f"Cheapest configuration with recall@10 ≥ 95%: {said}."
    may = "Cheaper, but not proven: index=refined (recall@10 96.0%, p95 latency 3.00 ms, 400 B per vector). "
    assert sweep.standing(over(records, RECALL_95)) == [
        f"{may}recall@10: more queries would narrow its interval."
    ]
    fast = ObjectiveConfig(recall=0.95, p95=0.005, memory=None)
    wanted = "recall@10 ≥ 95% and p95 latency ≤ 5 ms"
    assert sweep.headline(over(records, fast)).startswith(f"Cheapest configuration with {wanted}: index=hnsw")


def test_what_is_not_proven_or_not_to_be_had_is_said_with_what_is_nearest(records: list[RunRecord]) -> None:
    small = over(records, ObjectiveConfig(recall=0.95, p95=None, memory=1000.0))
    assert sweep.headline(small).startswith(
        "No configuration is proven to have recall@10 ≥ 95% and bytes per vector ≤ 1,000 B; "
        "the cheapest that may: index=refined"
    )
    assert "Not proven: recall@10; more queries would narrow its interval." in sweep.standing(small)
    tiny = over(records, ObjectiveConfig(recall=0.95, p95=None, memory=50.0))
    assert sweep.headline(tiny) == "No configuration has recall@10 ≥ 95% and bytes per vector ≤ 50 B."
    assert "Best bytes per vector: 100 B, index=pq." in sweep.standing(tiny)


def test_cells_that_do_not_compare_have_no_frontier(records: list[RunRecord]) -> None:
    moved = records[0].model_copy(
        update={"machine": records[0].machine.model_copy(update={"fingerprint": "other"})}
    )
    made = over([moved, *records[1:]], RECALL_95)
    assert sweep.headline(made) == "6 cells measured, not comparable: they differ in machine."
    assert "the cells differ in machine, so they do not compare" in words(page(made))
    assert not sweep.winners(made)


def test_what_is_invalid_failed_or_unfit_is_said_and_wins_nothing(records: list[RunRecord]) -> None:
    broken = Validity(valid=False, reasons=["memory search, repeat 2, failed: killed"], notes=[])
    noisy = [
        metric.model_copy(update={"reasons": ["the machine was noisy"]})
        if metric.name == "memory.search.latency.p95"
        else metric
        for metric in records[1].metrics
    ]
    changed = [
        records[0].model_copy(update={"validity": broken}),
        records[1].model_copy(update={"metrics": noisy}),
        *records[2:],
    ]
    made = over(changed, RECALL_95, FAILED)
    said = sweep.standing(made)
    assert "Not valid, and left out: index=flat: memory search, repeat 2, failed: killed" in said
    assert "Not fit to be judged: p95 latency in 1 of 5 cells; the machine was noisy." in said
    assert "Failed: index=pq index.M=7: index.M must divide 128, not 7" in said
    assert made.choice is not None
    assert made.choice.point is not None
    assert made.choice.point.own == ("index=hnsw", "index.efSearch=64")
    assert sweep.marks(made, made.points[0]) == []
    for text in (words(page(made)), markdown.render_sweep(made), shown(changed, RECALL_95, FAILED)):
        assert "index.M must divide 128" in text


def test_where_no_cell_is_valid_nothing_is_concluded(records: list[RunRecord]) -> None:
    noisy = Validity(valid=False, reasons=["machine too noisy in 5 of 5 trials"], notes=[])
    made = over([record.model_copy(update={"validity": noisy}) for record in records], RECALL_95)
    assert sweep.headline(made) == "6 cells measured, none of them valid: nothing can be concluded."
    said = sweep.standing(made)
    assert len([line for line in said if line.startswith("Not valid, and left out: index=")]) == 5
    assert "Not valid, and left out: 1 more cell." in said
    assert not sweep.winners(made)


@pytest.mark.parametrize("render", [page, markdown.render_sweep])
def test_every_cell_is_there_with_the_command_that_measures_it_again(
    records: list[RunRecord], render: object
) -> None:
    made = over(records, RECALL_95)
    assert callable(render)
    text = unescape(render(made)).replace("\\_", "_")
    for record, point in zip(records, made.points, strict=True):
        assert sweep.configuration(made, point) in text
        assert shlex.split(answer.reproduce(record))[4:] == record.command
        assert answer.reproduce(record) in text


def test_the_terminal_has_a_row_for_each_cell_and_a_command_that_can_be_pasted(
    records: list[RunRecord],
) -> None:
    text = shown(records, RECALL_95)
    assert max(map(len, text.splitlines())) <= 100
    rows = [line for line in text.splitlines() if " index=" in line and line.startswith(" ●")]
    assert len(rows) == 6
    assert "99.0%" in rows[1]
    command = text[text.index("python -m bench run") :].replace("\\\n", " ")
    assert shlex.split(command)[4:] == records[0].command


def test_a_long_sweep_shows_its_best_in_the_terminal(records: list[RunRecord]) -> None:
    assert "8 more in the report" in shown(records * 8)


def test_cells_without_recall_stand_side_by_side(record: RunRecord) -> None:
    caches = [metric for metric in record.metrics if metric.name.startswith("memory.cache")]
    cells = [
        record.model_copy(update={"metrics": caches, "command": [f"cache.l1.max_entries={size}"]})
        for size in (10, 100)
    ]
    made = over(cells)
    assert sweep.headline(made) == "2 cells measured; recall was not, so there is no frontier."
    asked = sweep.headline(over(cells, RECALL_95))
    assert asked == "Whether a configuration has recall@10 ≥ 95% is not known: recall@10 was not measured."
    for text in (words(page(made)), markdown.render_sweep(made).replace("\\_", "_"), shown(cells)):
        flat = " ".join(text.split())
        assert "Cache, by the level that answers" in flat
        assert re.search(r"cache\.l1\.max_entries=100: ?L2", flat)


def test_the_data_are_those_that_the_judged_suite_searched(record: RunRecord) -> None:
    asked = [metric for metric in record.metrics if metric.name.startswith("query.")]
    said = [
        dict(sweep.measured_how(over([record.model_copy(update={"metrics": metrics})])))["Data"]
        for metrics in (record.metrics, asked)
    ]
    assert [text.partition(":")[0] for text in said] == ["synthetic", "pydocs"]


def test_the_query_suite_is_judged_where_only_it_ran(record: RunRecord) -> None:
    asked = [metric for metric in record.metrics if metric.name.startswith("query.")]
    made = over([record.model_copy(update={"metrics": asked})])
    assert list(made.frontiers) == [("recall", "p95"), ("recall", "throughput")]
    assert "nDCG@10" in words(page(made))


# --- the files -------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_each_cell_and_metric(records: list[RunRecord], tmp_path: Path) -> None:
    runs = [(tmp_path / str(number), record) for number, record in enumerate(records)]
    reports.write_sweep(runs, tmp_path, NO_BOUND, [FAILED])
    table = pd.read_parquet(tmp_path / "results.parquet")
    assert len(table) == sum(len(record.metrics) for record in records) + 1
    assert list(table.columns[:6]) == ["cell", "run", "index", "index.efSearch", "index.M", "metric"]
    wanted = table[(table["metric"] == "memory.recall_at_10") & (table["index.efSearch"] == "64")].iloc[0]
    assert (wanted["cell"], wanted["index"], wanted["value"], wanted["ci_low"]) == (3, "hnsw", 0.98, 0.97)
    assert (wanted["labels"], wanted["frontiers"]) == ("{}", "p95; p95 & memory")
    last = table.iloc[-1]
    assert (last["cell"], last["valid"], last["index.M"]) == (7, False, "7")
    assert last["invalid_because"] == FAILED.reason
    read = pd.read_csv(tmp_path / "results.csv", dtype={"index.efSearch": "string", "index.M": "string"})
    assert list(read.columns) == list(table.columns)
    assert read["value"].tolist() == pytest.approx(table["value"].astype(float).tolist(), nan_ok=True)


@pytest.mark.parametrize(
    "formula", ["=1+1", "@SUM(A1)", "-1", "+1", " =1+1", "\t=1+1", "\N{FULLWIDTH EQUALS SIGN}1"]
)
def test_a_spreadsheet_takes_no_override_for_a_formula(records: list[RunRecord], formula: str) -> None:
    evil = records[0].model_copy(update={"command": [f"index={formula}"]})
    rows = csv.DictReader(io.StringIO(results.as_csv(results.table(over([evil, records[1]])))))
    assert next(rows)["index"] == "'" + formula.expandtabs(1)


def test_the_same_records_give_the_same_bytes(records: list[RunRecord], tmp_path: Path) -> None:
    written = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        runs = [(folder / str(number), record) for number, record in enumerate(records)]
        assert reports.write_sweep(runs, folder, RECALL_95) == folder / "report.html"
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == {"report.html", "report.md", "results.csv", "results.parquet"}


def test_a_folder_that_cannot_be_written_is_an_error(records: list[RunRecord], tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="cannot be written"):
        reports.write_sweep([(tmp_path, records[0])], tmp_path / "absent", NO_BOUND)


def test_links_lead_to_the_cells_own_reports(records: list[RunRecord], tmp_path: Path) -> None:
    places = ["0", "a b", "../elsewhere", "javascript:x", "1?#"]
    runs = [(tmp_path / "sweep" / place, record) for place, record in zip(places, records, strict=False)]
    (tmp_path / "sweep").mkdir()
    text = reports.write_sweep(runs, tmp_path / "sweep", NO_BOUND).read_text()
    links = re.findall(r'<a href="(\.[^"]+)"', text)
    assert sorted(links) == sorted(
        [
            *("./0/report.html", "./a%20b/report.html", "./../elsewhere/report.html"),
            *("./javascript%3Ax/report.html", "./1%3F%23/report.html"),
        ]
    )


# --- the figures -----------------------------------------------------------------------------------


def test_the_points_of_a_frontier_are_named_and_the_cheapest_is_ringed(records: list[RunRecord]) -> None:
    drawn = {d.key: d for d in draw_sweep(over(records, RECALL_95)) if isinstance(d, Drawing)}
    assert list(drawn) == ["frontier-p95", "frontier-memory"]
    texts = [e.text for e in ET.fromstring(drawn["frontier-memory"].svg).iter(f"{SVG}text")]  # noqa: S314
    assert {"flat", "pq", "refined", "IndexHNSW", "95%"} <= set(texts)
    assert "hnsw efSearch 16" not in texts
    assert "Ringed: the cheapest, proven." in drawn["frontier-memory"].caption
    rows = pd.read_csv(io.StringIO(drawn["frontier-memory"].csv))
    assert dict(zip(rows["configuration"], rows["frontier"], strict=True))["index=pq"] == "yes"
    assert rows["frontier"].tolist() == ["yes", "no", "no", "no", "yes", "yes"]
    assert 'role="img"' in drawn["frontier-p95"].svg


def test_a_hundred_points_are_drawn_without_labels_over_each_other(record: RunRecord) -> None:
    cells = [
        cell(record, f"index.efSearch={n}", "IndexHNSW", [n / 100, n / 100, n / 100], p95=n / 1e4, size=100.0)
        for n in range(1, 101)
    ]
    drawing = next(d for d in draw_sweep(over(cells)) if isinstance(d, Drawing))
    named = drawing.svg.count(">efSearch ")
    assert 3 <= named < 40


# --- whatever a record holds -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hostile", "broken", "failed", "bare"])
def test_no_record_can_break_it(
    name: str, records: list[RunRecord], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    odd: RunRecord = request.getfixturevalue(name)
    evil = Failure(odd.command, "</td><script>alert(1)</script>\u202e\x1b[31m")
    for cells in ([odd], [odd, *records]):
        made = over(cells, RECALL_95, evil)
        text = page(made)
        assert "<script" not in text
        assert not re.search(r"\b(nan|None|inf)\b", words(text))
        assert re.search("[\u202e\x1b]", text + markdown.render_sweep(made)) is None
        assert re.search("[\u202e\x1b]", shown(cells, RECALL_95, evil)) is None
        tokens = MarkdownIt("commonmark").enable("table").parse(markdown.render_sweep(made))
        kinds = {token.type for top in tokens for token in (top, *(top.children or ()))}
        assert {"link_open", "image", "html_inline"}.isdisjoint(kinds)
        reports.write_sweep([(tmp_path, record) for record in cells], tmp_path, RECALL_95, [evil])
