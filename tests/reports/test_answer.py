"""What is said of a run, in whatever format."""

import shlex

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import stats
from bench.record import RunRecord
from bench.reports import answer, units


def test_the_headline_counts_the_verdicts(record: RunRecord) -> None:
    said = "7 documented figures judged: 3 pass, 2 miss, 2 not proven; 3 not measured."
    assert answer.headline(record) == said


def test_the_headline_of_runs_with_less_in_them(
    record: RunRecord, bare: RunRecord, failed: RunRecord
) -> None:
    assert answer.headline(bare).startswith("No documented figure to stand beside; 31 metrics measured")
    assert answer.headline(failed) == "Not valid. Nothing was measured: all 10 trials failed."
    missing = record.model_copy(update={"verdicts": failed.verdicts})
    assert answer.headline(missing) == "No documented figure judged: 10 figures not measured."
    one = record.model_copy(update={"verdicts": record.verdicts[:1]})
    assert answer.headline(one) == "1 documented figure judged: 1 pass."


def test_a_run_that_is_not_valid_says_so_first(hostile: RunRecord) -> None:
    assert answer.headline(hostile).startswith("Not valid.")
    assert answer.standing(hostile) == "Not valid: do not judge the engine by this run."


def test_the_number_shown_is_the_one_the_samples_give(record: RunRecord, samples: pd.DataFrame) -> None:
    rows = samples[(samples["series"] == "query.search") & (samples["labels"] == '{"phase": "cold"}')]
    by_process = [float(group["value"].quantile(0.95)) for _, group in rows.groupby("repeat")]
    interval = stats.log_t_interval(by_process)
    assert interval is not None
    verdict = next(v for v in record.verdicts if v.metric == "query.latency.p95")
    expected = units.show(stats.geometric_mean(by_process), "s", interval.low, interval.high)
    assert answer.measured(verdict) == expected == "12.4 ms [12.0, 12.8]"


def test_what_was_not_measured_says_which_suite_it_needs(record: RunRecord) -> None:
    missing = [v for v in record.verdicts if v.verdict == "missing"]
    assert [answer.measured(v) for v in missing] == [
        "needs the suite load",
        "needs the suite agents",
        "needs the suite agents",
    ]
    assert answer.missing(missing[0].model_copy(update={"reason": ""})) == "needs the suite load"


def test_every_metric_is_covered_or_listed(record: RunRecord) -> None:
    rest = answer.uncovered(record)
    judged = [v for v in record.verdicts if v.measured is not None]
    assert len(rest) + len(judged) == len(record.metrics)
    assert ("query.latency.p95", {"phase": "zipf"}) in [(m.name, m.labels) for m in rest]


def test_the_key_figures_are_a_latency_a_quality_and_a_rate(record: RunRecord, failed: RunRecord) -> None:
    shown = [
        (key.title, key.value, key.verdict and key.verdict.verdict) for key in answer.key_figures(record)
    ]
    assert shown == [
        ("Query latency, text to hits, p95 (cold)", "12.4 ms", "pass"),
        ("Recall@10 against exact search", "93.7%", None),
        ("Ingestion rate", "75.2 documents/s", "miss"),
    ]
    assert answer.key_figures(failed) == []


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"phase": "cold"}, "cold"),
        ({"part": "codes"}, "codes"),
        ({"level": "l2"}, "L2"),
        ({"shards": "1"}, "1 shard"),
        ({"shards": "4"}, "4 shards"),
        ({"calls": "alone", "clients": "1"}, "1 client, alone"),
        ({"calls": "shared", "clients": "16"}, "16 clients, shared"),
        ({"share": "0.01"}, "1%"),
        ({"share": "few"}, "few"),
        ({"of": "residuals", "qtype": "QT_4bit"}, "residuals, QT_4bit"),
        ({"load": "documented"}, "load documented"),
    ],
)
def test_labels_read_as_words(labels: dict[str, str], said: str) -> None:
    assert answer.described(labels) == said


def test_the_command_reproduces_the_run(record: RunRecord) -> None:
    assert shlex.split(answer.reproduce(record)) == ["python", "-m", "bench", "run", *record.command]


def test_what_was_asked_leaves_out_what_the_record_does_not_say(record: RunRecord) -> None:
    asked = dict(answer.asked(record))
    assert asked["Index"] == "IndexIVFFlat (metric cosine, nlist 100, nprobe 5)"
    assert asked["Vectors searched"] == "synthetic: vectors 100,000, queries 1,000, dimension 384"
    assert asked["Repeats"] == "5"
    empty = record.model_copy(update={"experiment": {"index": "flat", "trial": []}, "memory_vectors": None})
    assert [term for term, _ in answer.asked(empty)] == ["Data"]


def test_json_values_read_as_a_line() -> None:
    value: dict[str, object] = {"a": [1234, 0.5], "b": {}, "c": [], "d": None, "e": True, "f": "x\ny"}
    assert answer.plain(value) == "a 1,234, 0.5, b none, c none, d none, e True, f x y"


@given(st.text())
def test_printable_text_cannot_steer_what_shows_it(text: str) -> None:
    shown = answer.printable(text)
    shown.encode("utf-8")
    assert not any(ord(c) < 32 or c in "\x7f\x9b\u202e\u2066\ufffe" for c in shown)


@pytest.mark.parametrize("text", ["µs", "日本語", "عربي", "naïve “quoted”", "👩‍🔬"])
def test_printable_text_keeps_every_script(text: str) -> None:
    assert answer.printable(text) == text
