"""Every metric the lab reports: name, unit, which direction is better, how it is derived.

Metrics are derived from raw samples, never measured. A sample is one row of `samples.parquet`:

    suite, series, labels  what was sampled; `labels` (see `label_text`) tell apart series of one name
    repeat, seq            which process of the trial, and the order within it
    start                  seconds since its series began
    value                  seconds for timings, bytes for sizes, a share for shares
    items                  how many things the value stands for (documents of an ingest), else 1
    reference              seconds the same thing took the other way, in the same turn, else null
    query                  the query's id, where there is one
    cache_hit              whether a search was answered from the search cache, else null
    outcome                of a request that may fail (see `Outcome`), else null
    service_time           of a request of a load, seconds from when it was sent; `value` counts from when
                           it was to be; else null
    status, worker         of a request of a load: HTTP's (0: no answer, -1: none in time), the number of the
                           process that sent it; else null
    recall_at_…, ndcg_at_10, mrr_at_10    quality of one search, computed after the timed region, else null
    ndcg_difference                       nDCG@10 less that of what it is compared with, else null
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from bench import matched, stats

if TYPE_CHECKING:
    import pandas as pd  # slow to load, and only the parent of a run has tables

COLUMNS = {
    "suite": "string",
    "series": "string",
    "labels": "string",
    "repeat": "int64",
    "seq": "int64",
    "start": "float64",
    "value": "float64",
    "items": "int64",
    "reference": "Float64",
    "query": "string",
    "cache_hit": "boolean",
    "outcome": "string",
    "service_time": "Float64",
    "status": "Int64",
    "worker": "Int64",
    "recall_at_1": "Float64",
    "recall_at_10": "Float64",
    "recall_at_100": "Float64",
    "ndcg_at_10": "Float64",
    "mrr_at_10": "Float64",
    "ndcg_difference": "Float64",
}

# What became of a request: `value` of those that were not answered is the seconds until that was clear.
Outcome = Literal["answered", "degraded", "rejected", "timed out", "failed"]
NO_ANSWER = "had no answer"  # of requests; why a time that must not do without them has no value

Direction = Literal["lower", "higher"]
# Intervals are over whole processes: on the logarithm, or plainly for shares between 0 and 1. What is exact
# is counted, not sampled: one figure of all processes' samples, its own interval.
Spread = Literal["processes", "share", "exact"]


class Measured(BaseModel):
    """One metric of one run. `value` is None, with a reason, where the samples cannot carry it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(description="dotted name; a line of bench/metrics.py")
    unit: str = Field(description="SI unit of value, ci_low and ci_high; empty for ratios")
    better: Direction
    value: float | None
    ci_low: float | None = Field(description="lower end of the 95% interval")
    ci_high: float | None
    n: int = Field(description="samples the value was derived from")
    cut: int = Field(default=0, description="samples before them, left out as warm-up")
    repeats: int = Field(description="processes they came from")
    unsettled: int = Field(default=0, description="processes that never settled; nothing of them is cut")
    labels: dict[str, str] = Field(description="what tells apart two metrics of one name")
    reason: str | None = Field(description="why there is no value, or no interval")
    reasons: list[str] = Field(
        default=[], description="why it is not fit to be judged; none where it is (bench/validity.py)"
    )


@dataclass(frozen=True)
class Metric:
    """How one metric is derived from the samples of one series.

    `derive` takes the rows of one process and gives one value, or None where they are too few.
    """

    name: str
    title: str
    unit: str
    better: Direction
    series: str
    derive: Callable[[pd.DataFrame], float | None]
    spread: Spread = "processes"
    quality: str | None = None  # a column of `samples`: the interval is then a bootstrap over queries
    quantile: float | None = None

    @property
    def suite(self) -> str:
        """The suite that measures it: the first part of its name."""
        return self.name.partition(".")[0]

    @property
    def is_timing(self) -> bool:
        """Whether it is made of times, which a busy machine changes."""
        return self.spread == "processes" and self.quality is None and self.unit != "B"


# --- a value of one process's samples ------------------------------------------------------------------


def _largest(rows: pd.DataFrame) -> float:
    return float(rows["value"].max())


def _mean(rows: pd.DataFrame) -> float:
    return float(rows["value"].mean())


def _unanswered(rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Which of the requests had no answer."""
    given = rows["outcome"]
    return (given.notna() & ~given.isin(["answered", "degraded"])).to_numpy(dtype=np.bool_)


def _mean_of(column: str) -> Callable[[pd.DataFrame], float | None]:
    def derive(rows: pd.DataFrame) -> float | None:
        return None if _unanswered(rows).any() else float(rows[column].mean())

    return derive


def _rate(rows: pd.DataFrame) -> float:
    return float(rows["items"].sum() / rows["value"].sum())


def _cost(rows: pd.DataFrame) -> float | None:
    known = rows["reference"].dropna()
    return float(rows["value"].mean() / known.mean()) if len(known) else None


def _median_ratio(rows: pd.DataFrame) -> float | None:
    """Of what was timed both ways, one after the other: one stall decides no such figure."""
    known = rows[rows["reference"].notna()]
    return float((known["value"] / known["reference"]).median()) if len(known) else None


def _relative_error(rows: pd.DataFrame) -> float | None:
    """Mean of |expected − measured| ÷ measured, of what was expected."""
    known = rows[rows["reference"].notna()]
    return (
        float(((known["reference"] - known["value"]).abs() / known["value"]).mean()) if len(known) else None
    )


def _hit_rate(rows: pd.DataFrame) -> float | None:
    known = rows["cache_hit"].dropna()
    return float(known.mean()) if len(known) else None


def _quantile(quantile: float, column: str) -> Callable[[pd.DataFrame], float | None]:
    def derive(rows: pd.DataFrame) -> float | None:
        lost = _unanswered(rows)
        return stats.percentile(rows[column].to_numpy(dtype=np.float64)[~lost], quantile, int(lost.sum()))

    return derive


# --- lines of the table --------------------------------------------------------------------------------


def _latency(
    prefix: str, title: str, series: str, *percents: float, column: str = "value"
) -> Iterator[Metric]:
    yield _time(f"{prefix}.mean", f"{title}, mean", series, column)
    for percent in percents:
        q, name = percent / 100, f"{prefix}.p{percent:g}".replace("99.9", "999")
        yield Metric(name, f"{title}, p{percent:g}", "s", "lower", series, _quantile(q, column), quantile=q)


def _time(name: str, title: str, series: str, column: str = "value") -> Metric:
    return Metric(name, title, "s", "lower", series, _mean_of(column))


def _per_second(name: str, title: str, things: str, series: str) -> Metric:
    return Metric(name, title, f"{things}/s", "higher", series, _rate)


def _size(name: str, title: str, series: str) -> Metric:
    return Metric(name, title, "B", "lower", series, _mean, "exact")


def _share(name: str, title: str) -> Metric:
    return Metric(name, title, "", "higher", name, _mean, "share")


def _ended(name: str, title: str, series: str, outcome: Outcome) -> Metric:
    """The share of requests that ended so."""

    def derive(rows: pd.DataFrame) -> float:
        return float((rows["outcome"] == outcome).mean())

    return Metric(name, title, "", "lower", series, derive, "share")


def _errors(name: str, title: str, series: str) -> Metric:
    """The share of requests without an answer, whatever the reason."""

    def derive(rows: pd.DataFrame) -> float:
        return float(_unanswered(rows).mean())

    return Metric(name, title, "", "lower", series, derive, "share")


def _error(name: str, title: str) -> Metric:
    """The largest there was."""
    return Metric(name, title, "", "lower", name, _largest, "exact")


def _quality(name: str, title: str, series: str, column: str) -> Metric:
    def derive(rows: pd.DataFrame) -> float | None:
        known = rows[column].dropna()
        return float(known.mean()) if len(known) else None

    return Metric(name, title, "", "higher", series, derive, quality=column)


# --- the table, suite by suite -------------------------------------------------------------------------


_MEMORY = (
    _per_second("memory.ingest.rate", "Ingestion rate", "documents", "memory.ingest"),
    *_latency("memory.search.latency", "Vector search latency", "memory.search", 50, 95, 99),
    _per_second("memory.search.throughput", "Vector searches, one client", "queries", "memory.search"),
    _per_second(
        "memory.search.batch_throughput", "Vector searches, in batches", "queries", "memory.search.batch"
    ),
    _quality("memory.recall_at_1", "Recall@1 against exact search", "memory.search", "recall_at_1"),
    _quality("memory.recall_at_10", "Recall@10 against exact search", "memory.search", "recall_at_10"),
    _quality("memory.recall_at_100", "Recall@100 against exact search", "memory.search", "recall_at_100"),
    _quality("memory.filtered.recall_at_10", "Filtered recall@10", "memory.filtered", "recall_at_10"),
    _time("memory.filtered.latency.mean", "Filtered search latency, mean", "memory.filtered"),
    _time("memory.index.build_time", "Index build time", "memory.build"),
    _size("memory.index.bytes_per_vector", "Index size per vector", "memory.index.bytes"),
    _size("memory.index.disk_bytes_per_vector", "Index size per vector on disk", "memory.index.disk_bytes"),
    _size(
        "memory.index.bytes_per_million",
        "Index size, projected to a million vectors",
        "memory.index.projected_bytes",
    ),
    Metric("memory.peak", "Peak memory of a search process", "B", "lower", "memory.peak", _mean),
    _time("memory.shards.latency.mean", "Sharded search latency, mean", "memory.shards"),
    Metric(
        "memory.shards.cost", "Sharded search latency over one shard's", "", "lower", "memory.shards", _cost
    ),
    _quality("memory.coding.recall_at_10", "Recall@10 of scalar codes", "memory.coding", "recall_at_10"),
    _size("memory.coding.bytes_per_vector", "Size of a scalar code", "memory.coding"),
    _share("memory.cache.answered", "Requests answered by a cache level"),
    _share("memory.cache.hit_rate", "Hit rate of a cache level"),
    *_latency("memory.cache.latency", "Cache latency", "memory.cache", 95),
    *_latency("memory.mixed.latency", "Search latency between writes", "memory.mixed.search", 95),
    _quality("memory.mixed.recall_at_10", "Recall@10 between writes", "memory.mixed.search", "recall_at_10"),
    _per_second("memory.mixed.write_rate", "Writes between searches", "vectors", "memory.mixed.write"),
    *_latency("memory.streaming.latency", "Search latency in a runbook", "memory.streaming.search", 95),
    _quality(
        "memory.streaming.recall_at_10", "Recall@10 in a runbook", "memory.streaming.search", "recall_at_10"
    ),
    _size("memory.streaming.bytes_per_vector", "Index size in a runbook", "memory.streaming.bytes"),
    _per_second("memory.streaming.write_rate", "Writes in a runbook", "vectors", "memory.streaming.write"),
    _per_second("memory.storage.write_rate", "Documents written", "documents", "memory.storage.write"),
    _per_second("memory.storage.read_rate", "Documents read", "documents", "memory.storage.read"),
)
_QUERY = (
    *_latency("query.latency", "Query latency, text to hits", "query.search", 50, 95, 99),
    _per_second("query.throughput", "Queries, one client", "queries", "query.search"),
    Metric("query.cache_hit_rate", "Search cache hit rate", "", "higher", "query.search", _hit_rate, "share"),
    _quality("query.ndcg_at_10", "nDCG@10", "query.search", "ndcg_at_10"),
    _quality("query.mrr_at_10", "MRR@10", "query.search", "mrr_at_10"),
    _quality("query.recall_at_10", "Recall@10 against judgements", "query.search", "recall_at_10"),
    *_latency("query.stage.latency", "Latency of a stage", "query.stage", 50, 95),
    Metric("query.degraded", "Degraded answers", "", "lower", "query.degraded", _mean, "share"),
    _share("query.strategy", "Queries by strategy"),
    Metric(
        "query.prediction.error",
        "Error of the predicted latency, mean absolute, relative",
        "",
        "lower",
        "query.prediction",
        _relative_error,
    ),
    _quality(
        "query.ablation.ndcg_difference",
        "nDCG@10 over the whole pipeline's",
        "query.ablation",
        "ndcg_difference",
    ),
    _per_second("query.batching.rate", "Queries embedded by several clients", "queries", "query.batching"),
    *_latency("query.batching.latency", "Latency of an embedding", "query.batching.wait", 95),
    Metric(
        "query.batching.gain", "Rate in shared calls over alone", "", "higher", "query.batching.gain", _cost
    ),
    Metric(
        "query.ablation.cost",
        "Latency over the whole pipeline's",
        "",
        "lower",
        "query.ablation",
        _median_ratio,
    ),
    _quality(
        "query.filtered.recall_at_10",
        "Filtered recall@10 against exact search",
        "query.filtered",
        "recall_at_10",
    ),
    _time("query.filtered.latency.mean", "Filtered query latency, mean", "query.filtered"),
)
_AGENTS = (
    *_latency("agents.latency", "Question to answer, one client", "agents.ask", 50, 95),
    *_latency("agents.hop_latency", "Hop to an agent", "agents.hop", 95),
    Metric("agents.coordination_overhead", "Coordination overhead", "", "lower", "agents.overhead", _mean),
    _time("agents.coordination_time.mean", "Coordination of a question, mean", "agents.coordination"),
    _time("agents.handover_time.mean", "Two bare hand-overs to threads and back, mean", "agents.handover"),
    _time("agents.service_time.mean", "Service time of an agent, mean", "agents.service"),
    _time("agents.queue_wait.mean", "Wait for an agent's slot, mean", "agents.queue_wait"),
    _per_second("agents.capacity", "Questions answered at most", "requests", "agents.capacity"),
    *_latency("agents.load.latency", "Latency under load", "agents.load", 50, 95),
    _share("agents.load.within_objective", "Questions answered within the objective"),
    _per_second("agents.load.throughput", "Questions answered under load", "requests", "agents.load.answers"),
    _ended("agents.load.rejection_rate", "Questions rejected under load", "agents.load", "rejected"),
    *_latency("agents.load.refusal_time", "Time to reject a question under load", "agents.load.refusal", 95),
    _ended("agents.load.timeout_rate", "Questions timed out under load", "agents.load", "timed out"),
    _ended("agents.load.failure_rate", "Questions failed under load", "agents.load", "failed"),
    _ended("agents.load.degraded_rate", "Answers degraded under load", "agents.load", "degraded"),
    *_latency("agents.load.queue_wait", "Wait for a slot under load", "agents.load.queue_wait", 95),
    *_latency("agents.load.hop_latency", "Hop to an agent under load", "agents.load.hop", 95),
    Metric(
        "agents.load.coordination_overhead",
        "Coordination overhead under load",
        "",
        "lower",
        "agents.load.overhead",
        _mean,
    ),
    _share("agents.load.utilisation", "Utilisation of an agent under load"),
    _share("agents.load.busiest", "Utilisation of the busiest agent under load"),
    _share("agents.utilisation", "Busiest agent's utilisation at the highest load that keeps the objective"),
    Metric(
        "agents.sustained_rate",
        "Highest load that keeps the objective",
        "requests/s",
        "higher",
        "agents.sustained_rate",
        _mean,
    ),
)
_SYSTEM = (
    _time("system.startup_time", "Start of the service until it is ready", "system.startup"),
    *_latency("system.latency", "Search over HTTP, under the stated load", "system.search", 50, 95, 99),
    _per_second("system.throughput", "Searches answered over HTTP", "requests", "system.answers"),
    _ended("system.rejection_rate", "Searches rejected", "system.search", "rejected"),
    _ended("system.timeout_rate", "Searches timed out", "system.search", "timed out"),
    _ended("system.failure_rate", "Searches failed", "system.search", "failed"),
    _ended("system.degraded_rate", "Answers degraded", "system.search", "degraded"),
    Metric("system.cpu", "CPU of the service, of all cores", "", "lower", "system.cpu", _mean, "share"),
    Metric("system.memory", "Memory of the service, of all memory", "", "lower", "system.memory", _mean),
    Metric("system.resident_memory", "Memory of the service", "B", "lower", "system.resident_memory", _mean),
    Metric("system.disk_rate", "Disk traffic of the service", "B/s", "lower", "system.disk", _mean),
    _time("system.network_latency", "Way to the service and back", "system.network"),
    _per_second(
        "system.processes.throughput", "Searches by several services", "requests", "system.processes"
    ),
    Metric(
        "system.processes.gain",
        "Searches by several services over the fewest's",
        "",
        "higher",
        "system.processes.gain",
        _cost,
    ),
    _per_second("system.http.throughput", "Requests answered over HTTP", "requests", "system.http"),
    _time("system.http.cpu", "CPU of a request over HTTP", "system.http.cpu"),
    Metric(
        "system.http.ratio",
        "Cached searches over a bare server's echoes",
        "",
        "higher",
        "system.http.ratio",
        _cost,
    ),
)
_OF_LOAD = "load.request"
_LOAD = (
    *_latency("load.latency", "Latency under load, from the intended start", _OF_LOAD, 50, 95, 99),
    *_latency("load.service_time", "Service time under load", _OF_LOAD, 50, 95, 99, column="service_time"),
    _per_second("load.throughput", "Requests answered under load", "queries", "load.answers"),
    _errors("load.error_rate", "Requests without an answer under load", _OF_LOAD),
    _ended("load.rejection_rate", "Requests rejected under load", _OF_LOAD, "rejected"),
    Metric(
        "load.users", "Users at once, by the share answered", "users", "higher", "load.users", _mean, "exact"
    ),
    Metric("load.offered", "Load offered", "requests/s", "higher", "load.offered", _mean),
    Metric("load.lateness.p99", "Lateness of the generator, p99", "s", "lower", "load.lateness", _mean),
    Metric("load.in_flight", "Requests under way", "requests", "lower", "load.in_flight", _mean),
    Metric(
        "load.capacity",
        "Highest load that meets the objective",
        "requests/s",
        "higher",
        "load.capacity",
        _mean,
    ),
    _quality(
        "load.recall_at_10", "Recall@10 under load, against exact search", "load.sampled", "recall_at_10"
    ),
    _share("load.cache_hit_rate", "Search cache hit rate under load"),
    Metric(
        "load.cpu", "CPU of the service under load, of all cores", "", "lower", "load.cpu", _mean, "share"
    ),
    Metric("load.memory", "Memory of the service under load", "B", "lower", "load.memory", _mean),
    Metric(
        "load.generator_cpu",
        "CPU of the generator, of all cores",
        "",
        "lower",
        "load.generator_cpu",
        _mean,
        "share",
    ),
)
_LAB = (
    # Of a made-up engine, whose figures are known; `lab.error` says how far these are from them.
    *_latency(
        "lab.service_time", "Service time of a made-up engine", "lab.service_time", 50, 90, 95, 99, 99.9
    ),
    _per_second("lab.throughput", "Throughput of a made-up engine", "operations", "lab.service_time"),
    _error("lab.error.percentile", "Error of a percentile"),
    _error("lab.error.throughput", "Error of a throughput"),
    _error("lab.error.memory", "Error of planted memory"),
    _error("lab.error.recall", "Error of planted recall"),
    Metric(
        "lab.aa.contains_zero",
        "Equal sides whose difference's interval contains zero",
        "",
        "higher",
        "lab.aa.contains_zero",
        _mean,
        "exact",
    ),
    _error("lab.aa.half_width", "Half-width of a difference's interval, the widest"),
    _time("lab.cost.trial", "A trial's time beside its timed work", "lab.cost.trial"),
    _time("lab.cost.wall", "A sweep's wall time", "lab.cost.wall"),
    Metric("lab.cost.ratio", "Wall time over a plain loop's", "", "lower", "lab.cost.ratio", _mean),
)
_PEERS = (
    *_latency("peers.latency", "Latency, engine and peers", "peers.search", 50, 95),
    _per_second("peers.throughput", "Searches, engine and peers, one client", "queries", "peers.search"),
    _per_second("peers.batch_throughput", "Searches in batches, engine and peers", "queries", "peers.batch"),
    _quality("peers.recall_at_10", "Recall@10 of engine and peers", "peers.search", "recall_at_10"),
    _time("peers.build_time", "Build time of engine and peers", "peers.build"),
    Metric("peers.memory", "Memory of engine and peers", "B", "lower", "peers.memory", _mean),
    _time("peers.matched.latency.p50", "Latency at equal recall, p50", matched.SERIES),
    Metric(
        "peers.matched.cost", "Latency over the engine's at equal recall", "", "lower", matched.SERIES, _cost
    ),
)
# Series that start cold, by `phase`: their timings are those of the steady state. The passes that begin with
# empty caches change all along, by nature.
_WARMS_UP = {
    ("lab.service_time", None),
    ("memory.search", None),
    ("memory.shards", None),
    ("query.search", "cold"),
}
_STAGES = "query.stage"
METRICS = {metric.name: metric for metric in (*_MEMORY, *_QUERY, *_AGENTS, *_SYSTEM, *_LOAD, *_LAB, *_PEERS)}


# --- metrics from samples ------------------------------------------------------------------------------


def label_text(labels: Mapping[str, str]) -> str:
    """Labels as the samples hold them: a JSON object with its keys in order."""
    return json.dumps(labels, sort_keys=True)


def series_text(series: str, labels: str) -> str:
    """A series of samples and its labels, as `label_text` writes them, where it has any."""
    return series if labels == label_text({}) else f"{series} {labels}"


def derive(samples: pd.DataFrame) -> list[Measured]:
    """Derive every metric the samples hold something for, in the order of the table above."""
    import pandas as pd

    if compared := matched.compare(samples):
        samples = pd.concat([samples, pd.DataFrame(compared, columns=list(COLUMNS)).astype(COLUMNS)])
    measured = []
    for metric in METRICS.values():
        rows = samples[samples["series"] == metric.series]
        for text, group in rows.groupby("labels", sort=False):
            labels = json.loads(str(text))
            if metric.series == _STAGES:
                result = _derive_stage(metric, group, labels, samples)
            else:
                result = _derive_one(metric, group, labels)
            if result is not None:
                measured.append(result)
    return measured


def _derive_stage(
    metric: Metric, rows: pd.DataFrame, labels: dict[str, str], samples: pd.DataFrame
) -> Measured | None:
    """A stage of the queries that count: its times are those of the steady state where theirs are."""
    of = samples[(samples["series"] == "query.search") & (samples["labels"] == label_text({"phase": "cold"}))]
    queries, _, unsettled = _steady(of)
    since = queries.groupby("repeat")["start"].min()
    kept = rows[rows["start"] >= rows["repeat"].map(since).fillna(0)]
    if set(kept["repeat"]) != set(rows["repeat"]):  # so rare that a process had it as it warmed up alone
        return _derive_one(metric, rows, labels)
    found = _derive_one(metric, kept, labels)
    return found and found.model_copy(update={"cut": len(rows) - len(kept), "unsettled": unsettled})


def _derive_one(metric: Metric, rows: pd.DataFrame, labels: dict[str, str]) -> Measured | None:
    cut = unsettled = 0
    if metric.is_timing and (metric.series, labels.get("phase")) in _WARMS_UP:
        rows, cut, unsettled = _steady(rows)
    by_process = [metric.derive(group) for _, group in rows.groupby("repeat")]
    values = np.array([value for value in by_process if value is not None])
    repeats = len(by_process)
    value: float | None = None
    interval: stats.Interval | None = None
    reason: str | None = None
    if len(values) < repeats:
        reason = _why_none(metric, rows)
        if reason is None:
            return None
    elif metric.quality is not None:
        per_query = rows.groupby("query")[metric.quality].mean().dropna().to_numpy(dtype=np.float64)
        value, interval = float(per_query.mean()), stats.bootstrap_interval(per_query)
    elif metric.spread == "share":
        value, interval = float(values.mean()), stats.t_interval(values)
        interval = interval and stats.Interval(max(0.0, interval.low), min(1.0, interval.high))
    elif metric.spread == "exact":
        value = metric.derive(rows)
        interval = None if value is None else stats.Interval(value, value)
    elif (values <= 0).any():  # a wait of nobody, or a difference that noise made negative: no logarithm
        value, interval = float(values.mean()), stats.t_interval(values)
    else:
        value, interval = stats.geometric_mean(values), stats.log_t_interval(values)
    if value is not None and interval is None:
        reason = f"{repeats} of the {stats.LEAST_PROCESSES} processes an interval needs"
    return Measured(
        name=metric.name,
        unit=metric.unit,
        better=metric.better,
        value=value,
        ci_low=interval and interval.low,
        ci_high=interval and interval.high,
        n=len(rows) if metric.quality is None else int(rows[metric.quality].count()),
        cut=cut,
        repeats=repeats,
        unsettled=unsettled,
        labels=labels,
        reason=reason,
    )


def _steady(rows: pd.DataFrame) -> tuple[pd.DataFrame, int, int]:
    """The rows after each process's warm-up, how many were left out, how many processes never settled."""
    starts = rows.groupby("repeat")["value"].apply(lambda values: stats.steady_from(values.to_numpy()))
    kept = rows[rows.groupby("repeat").cumcount() >= rows["repeat"].map(starts).fillna(0)]
    return kept, len(rows) - len(kept), int(starts.isna().sum())


def _why_none(metric: Metric, rows: pd.DataFrame) -> str | None:
    """Why a process gives no value; None where a series carries no such observation.

    As a warm pass has no quality.
    """
    fewest = int(rows.groupby("repeat").size().min())
    if metric.quantile is not None and fewest < stats.samples_needed(metric.quantile):
        return _too_few(metric.quantile, fewest)
    lost = int(_unanswered(rows).sum())
    return f"{lost:,} of {len(rows):,} requests {NO_ANSWER}" if lost else None


def _too_few(quantile: float, samples: int) -> str:
    """Why a percentile is not shown, by the `samples` of the process that has the fewest."""
    return f"{samples:,} of the {stats.samples_needed(quantile):,} samples a process this percentile needs"
