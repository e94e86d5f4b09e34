"""The figures: what is drawn, what is left out, and that it is SVG a page can hold."""

import csv
import io
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.record import RunRecord
from bench.reports import figures, units
from bench.reports.figures import Drawing, Omitted
from bench.reports.figures.drawing import ticks
from bench.reports.figures.latency import POINTS_PER_LINE, POINTS_PER_PANEL

SVG = "{http://www.w3.org/2000/svg}"


def _drawn(record: RunRecord, samples: pd.DataFrame) -> dict[str, Drawing]:
    return {d.key: d for d in figures.draw(record, samples) if isinstance(d, Drawing)}


def _parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314  our own figures


def _texts(drawing: Drawing) -> list[str]:
    return [element.text or "" for element in _parsed(drawing.svg).iter(f"{SVG}text")]


def test_each_figure_is_described_and_takes_the_pages_colours(
    record: RunRecord, samples: pd.DataFrame
) -> None:
    drawn = _drawn(record, samples)
    assert list(drawn) == [
        "baseline",
        *(f"distribution-{n}" for n in (1, 2, 3)),
        "percentiles",
        "quality",
        "parts",
        "codes",
        "ingestion",
    ]
    for drawing in drawn.values():
        root = _parsed(drawing.svg)
        assert root.get("role") == "img"
        assert root.get("aria-label") == root[0].text == drawing.title
        assert root[1].text
        assert root.get("aria-describedby") == root[1].get("id")
        assert "var(--" in drawing.svg
        assert not re.search(r"#0[1-8]0\d0\d", drawing.svg)
        assert "<metadata" not in drawing.svg


def test_ids_are_unique_in_a_page(record: RunRecord, samples: pd.DataFrame) -> None:
    drawn = _drawn(record, samples).values()
    ids = [e.get("id") for d in drawn for e in _parsed(d.svg).iter() if e.get("id")]
    assert len(set(ids)) == len(ids)


def test_references_inside_a_figure_resolve(record: RunRecord, samples: pd.DataFrame) -> None:
    for drawing in _drawn(record, samples).values():
        ids = {e.get("id") for e in _parsed(drawing.svg).iter()}
        used = re.findall(r'(?:url\(#|href="#)([^)"]+)', drawing.svg)
        assert used
        assert set(used) <= ids


def test_each_judged_figure_is_beside_the_documented_one(record: RunRecord, samples: pd.DataFrame) -> None:
    baseline = _drawn(record, samples)["baseline"]
    texts = _texts(baseline)
    judged = [v for v in record.verdicts if v.ratio is not None]
    for verdict in judged:
        assert verdict.title in texts
    assert f"0.939{units.RATIO} miss" in texts
    rows = list(csv.DictReader(io.StringIO(baseline.csv)))
    assert [float(row["ratio"]) for row in rows] == [v.ratio for v in judged]


def test_a_distribution_keeps_its_extremes(record: RunRecord, samples: pd.DataFrame) -> None:
    drawing = _drawn(record, samples)["distribution-1"]
    rows = samples[samples["series"] == "memory.search"]
    drawn = pd.read_csv(io.StringIO(drawing.csv))
    for repeat, group in rows.groupby("repeat"):
        line = drawn[drawn["process"] == int(str(repeat)) + 1]
        assert len(line) == POINTS_PER_LINE
        assert line["seconds"].min() == pytest.approx(group["value"].min(), rel=1e-5)
        assert line["seconds"].max() == pytest.approx(group["value"].max(), rel=1e-5)
        assert line["share"].iloc[-1] == 1
        assert all(a < b for a, b in pairwise(line["share"]))
    assert f"Each line is drawn through {POINTS_PER_LINE} of its samples" in drawing.caption


def test_the_documented_latency_is_drawn_in_its_own_panel(record: RunRecord, samples: pd.DataFrame) -> None:
    drawn = _drawn(record, samples)
    assert "documented mean 25.0 ms" in _texts(drawn["distribution-1"])
    assert "documented p95 450 ms" in _texts(drawn["distribution-2"])
    assert not any("documented" in text for text in _texts(drawn["distribution-3"]))


def test_many_processes_share_the_points_of_a_panel(record: RunRecord, samples: pd.DataFrame) -> None:
    rows = samples[samples["series"] == "memory.search"]
    many = pd.concat([rows.assign(repeat=rows["repeat"] + 5 * n) for n in range(40)])
    drawing = _drawn(record, many)["distribution-1"]
    assert drawing.csv.count("\n") <= POINTS_PER_PANEL + 1
    assert "through 15 of its samples" in drawing.caption


def test_samples_that_are_no_time_are_left_out_and_counted(record: RunRecord, samples: pd.DataFrame) -> None:
    odd = samples[samples["series"] == "memory.search"].copy()
    odd.loc[odd.index[:4], "value"] = [np.nan, np.inf, 0.0, -1.0]
    drawing = _drawn(record, odd)["distribution-1"]
    assert "4 samples are left out" in drawing.caption
    nothing = odd.assign(value=np.nan)
    omitted = next(
        d for d in figures.draw(record, nothing) if d.title == "Latency distribution: memory.search"
    )
    assert isinstance(omitted, Omitted)


def test_a_percentile_without_the_samples_to_carry_it_is_not_drawn(
    record: RunRecord, samples: pd.DataFrame
) -> None:
    drawing = _drawn(record, samples)["percentiles"]
    assert "query.search zipf p99: 600 of the 1,000 samples" in drawing.caption
    assert "query.search zipf" in _texts(drawing)


def test_the_bars_are_what_each_process_gives(record: RunRecord, samples: pd.DataFrame) -> None:
    drawing = _drawn(record, samples)["ingestion"]
    bars = pd.read_csv(io.StringIO(drawing.csv))["documents/s"]
    rows = samples[samples["series"] == "memory.ingest"]
    expected = [group["items"].sum() / group["value"].sum() for _, group in rows.groupby("repeat")]
    assert bars.tolist() == pytest.approx(expected)


def test_the_parts_of_the_index_add_up_to_the_whole(record: RunRecord, samples: pd.DataFrame) -> None:
    drawing = _drawn(record, samples)["parts"]
    rows = pd.read_csv(io.StringIO(drawing.csv))
    whole = next(m for m in record.metrics if m.name == "memory.index.bytes_per_vector" and not m.labels)
    assert rows["bytes"].sum() == pytest.approx(whole.value)
    assert rows["part"].tolist() == ["codes", "ids", "centroids"]
    assert "codes 1,536 B, 92.0%" in _texts(drawing)


def test_codes_of_vectors_and_of_residuals_are_beside_each_other(
    record: RunRecord, samples: pd.DataFrame
) -> None:
    rows = pd.read_csv(io.StringIO(_drawn(record, samples)["codes"].csv))
    assert rows[["qtype", "of", "bytes_per_vector"]].values.tolist() == [
        ["QT_4bit", "vectors", 192],
        ["QT_8bit", "vectors", 384],
        ["QT_4bit", "residuals", 193],
        ["QT_8bit", "residuals", 385],
    ]


def test_what_stands_in_a_table_is_not_drawn_twice(record: RunRecord, samples: pd.DataFrame) -> None:
    drawn = _drawn(record, samples)
    assert "memory.cache" not in drawn["percentiles"].csv
    assert "memory.coding" not in drawn["quality"].csv


def test_nothing_is_drawn_from_nothing(failed: RunRecord, no_samples: pd.DataFrame) -> None:
    drawn = figures.draw(failed, no_samples)
    assert [type(d) for d in drawn] == [Omitted] * 7
    assert all(isinstance(d, Omitted) and d.reason for d in drawn)


def test_hostile_labels_are_text(hostile: RunRecord, samples: pd.DataFrame) -> None:
    for drawing in _drawn(hostile, samples).values():
        _parsed(drawing.svg)
        assert "<script" not in drawing.svg


def test_numbers_that_are_none_are_survived(broken: RunRecord, samples: pd.DataFrame) -> None:
    omitted = [d for d in figures.draw(broken, samples) if isinstance(d, Omitted)]
    assert {d.title for d in omitted} == {
        "Beside the documented baseline",
        "Latency percentiles",
        "Quality",
        "Index size per vector, by part",
        "What residual coding buys",
    }


def test_a_spreadsheet_takes_no_text_for_a_formula(record: RunRecord, samples: pd.DataFrame) -> None:
    verdict = record.verdicts[0].model_copy(update={"title": "=1+1"})
    drawing = _drawn(record.model_copy(update={"verdicts": [verdict]}), samples)["baseline"]
    assert ",'=1+1," in drawing.csv


@given(st.floats(-9, 6), st.floats(0.1, 9), st.sampled_from([4, 6]))
def test_ticks_are_few_and_inside_the_axis(low: float, decades: float, most: int) -> None:
    made = ticks(low, low + decades, most)
    assert 1 <= len(made) <= most
    assert all(low - 1e-9 <= np.log10(tick) <= low + decades + 1e-9 for tick in made)
    assert len({units.tick(tick, "s") for tick in made}) == len(made)
