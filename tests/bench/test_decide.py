"""Verdicts beside the documented baseline."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import config
from bench.decide import baseline
from bench.errors import UsageError
from bench.metrics import METRICS, Measured
from bench.record import Trial


@pytest.fixture(scope="module")
def documented():
    return config.from_overrides([]).baseline


def measured(name, value, low, high, **labels):
    metric = METRICS[name]
    return Measured(
        name=name, unit=metric.unit, better=metric.better,
        value=value, ci_low=low, ci_high=high, n=5, repeats=5,
        labels=labels, reason=None if low is not None else "3 of the 5 processes an interval needs",
    )  # fmt: skip


def trial(status="ok", repeat=0):
    return Trial(
        suite="memory", phase="search", repeat=repeat, seed=1, status=status,
        started_at="", wall=1.0, facts={}, reason=None if status == "ok" else "killed by SIGSEGV",
    )  # fmt: skip


def verdict_of(documented, *metrics, title, trials=(), conditions=None, skipped=None):
    verdicts = baseline.judge(documented, metrics, trials, conditions or {}, skipped or {})
    return next(v for v in verdicts if v.title == title)


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.010, 0.020, "pass"), (0.026, 0.030, "miss"), (0.020, 0.030, "not proven")]
)
def test_lower_is_better(documented, low, high, word):
    latency = measured("memory.search.latency.mean", 0.02, low, high)
    verdict = verdict_of(documented, latency, title="Search latency")
    assert verdict.verdict == word
    assert (verdict.ratio, verdict.ci_low, verdict.ci_high) == pytest.approx((0.8, low / 0.025, high / 0.025))


@pytest.mark.parametrize(
    ("low", "high", "word"), [(80, 90, "pass"), (60, 79, "miss"), (79, 81, "not proven")]
)
def test_higher_is_better(documented, low, high, word):
    verdict = verdict_of(documented, measured("memory.ingest.rate", 80, low, high), title="Ingestion rate")
    assert verdict.verdict == word


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(0, 10), st.sampled_from(["lower", "higher"]))
def test_swapping_direction_never_keeps_a_decided_verdict(documented_value, low, width, better):
    word, _ = baseline.compare(documented_value, low, low + width, better)
    other, _ = baseline.compare(
        documented_value, low, low + width, {"lower": "higher", "higher": "lower"}[better]
    )
    if low + width < documented_value or low > documented_value:
        assert {word, other} == {"pass", "miss"}
    elif low < documented_value < low + width:
        assert word == other == "not proven"


def test_without_an_interval_nothing_is_proven(documented):
    verdict = verdict_of(documented, measured("memory.ingest.rate", 500, None, None), title="Ingestion rate")
    assert verdict.verdict == "not proven"
    assert verdict.measured == 500
    assert "3 of the 5 processes" in verdict.reason


def test_what_is_not_measured_says_which_suite_it_needs(documented):
    verdicts = baseline.judge(documented, [], [], {}, {})
    assert {v.verdict for v in verdicts} == {"missing"}
    assert {v.reason for v in verdicts} == {
        f"needs the suite {s}" for s in ("load", "memory", "query", "agents", "system")
    }


def test_what_a_suite_that_ran_did_not_give_says_why(documented):
    ran = verdict_of(documented, title="Ingestion rate", trials=[trial()])
    assert (ran.verdict, ran.reason) == ("missing", "the suite memory gave no such figure")
    skipped = {"memory.ingest": "needs a data set of texts"}
    ran = verdict_of(documented, title="Ingestion rate", trials=[trial()], skipped=skipped)
    assert (ran.verdict, ran.reason) == ("missing", "needs a data set of texts")
    broken = verdict_of(documented, title="Ingestion rate", trials=[trial(), trial("failed", 1)])
    assert broken.reason == "trials of the suite memory failed"


def test_a_verdict_says_what_its_figure_was_measured_on(documented):
    rate = measured("memory.ingest.rate", 80, 80, 90)
    on = {"memory.ingest": "300 documents of 52 tokens", "query.search zipf": "1,000 requests"}
    scenario = verdict_of(documented, rate, title="Ingestion rate", conditions=on).scenario
    assert scenario.endswith("; 300 documents of 52 tokens")
    hits = measured("query.cache_hit_rate", 0.8, 0.7, 0.9, phase="zipf")
    verdict = verdict_of(documented, hits, title="Cache hit rate", conditions=on)
    assert verdict.scenario.endswith("; 1,000 requests")


def test_another_phase_of_a_metric_is_not_mistaken_for_the_documented_one(documented):
    cold = measured("query.cache_hit_rate", 0.0, 0.0, 0.0, phase="cold")
    assert verdict_of(documented, cold, title="Cache hit rate").verdict == "missing"


def test_every_figure_of_the_guide_is_there_once(documented):
    guide = {
        "150ms", "450ms", "120 queries/second", "50", "80 documents/second", "25ms", "2GB per 1M vectors",
        "75%", "10ms", "5%", "85%", "<80% sustained", "<90% of available RAM", "<50MB/s sustained",
        "<10ms average", "<200ms p95", ">100 queries/second", "<0.1%", ">70%",
    }  # fmt: skip
    assert sorted(figure.documented for figure in documented.figures) == sorted(guide)


def test_a_baseline_that_contradicts_a_metric_is_refused(documented):
    baseline.check(documented)
    wrong = documented.figures[4].model_copy(update={"unit": "documents/minute"})
    with pytest.raises(UsageError, match="documents/minute"):
        baseline.check(documented.model_copy(update={"figures": (wrong,)}))
    misspelt = documented.figures[4].model_copy(update={"metric": "memory.ingest.speed"})
    with pytest.raises(UsageError, match=r"memory\.ingest\.speed is not a metric"):
        baseline.check(documented.model_copy(update={"figures": (misspelt,)}))


@pytest.mark.parametrize(("low", "high"), [(0.010, 0.020), (0.026, 0.030)])
def test_what_is_not_fit_to_be_judged_neither_passes_nor_misses(documented, low, high):
    latency = measured("memory.search.latency.mean", 0.02, low, high)
    unfit = latency.model_copy(update={"reasons": ["not steady", "machine too noisy"]})
    verdict = verdict_of(documented, unfit, title="Search latency")
    assert (verdict.verdict, verdict.reason) == ("not proven", "not steady; machine too noisy")
