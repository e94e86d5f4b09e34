"""Metrics that tell parts, levels or shards apart, as small tables: a row for each set of labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench import matched
from bench.metrics import METRICS, NO_ANSWER, Measured
from bench.record import RunRecord
from bench.reports import answer, units

STAGES = "Stages of a query"
ABLATION = "The pipeline with one change"
BATCHING = "Queries embedded by several clients at once, in shared calls and alone"
BATCHING_GAIN = "What shared calls gain"
# By title, the metrics that make the columns. What stands here is listed nowhere else.
_TABLES = {
    "Index size per vector": {
        "memory.index.bytes_per_vector": "in memory",
        "memory.index.disk_bytes_per_vector": "on disk",
    },
    "Search among a share of the ids": {
        "memory.filtered.recall_at_10": "recall@10",
        "memory.filtered.latency.mean": "mean latency",
    },
    "Index in shards": {
        "memory.shards.latency.mean": "mean latency",
        "memory.shards.cost": "of one shard's",
    },
    "Cache, by the level that answers": {
        "memory.cache.answered": "requests answered",
        "memory.cache.hit_rate": "hits of look-ups",
        "memory.cache.latency.mean": "mean latency",
        "memory.cache.latency.p95": "p95",
    },
    "Searches between inserts and deletes": {
        "memory.mixed.latency.mean": "mean latency",
        "memory.mixed.latency.p95": "p95",
        "memory.mixed.recall_at_10": "recall@10",
    },
    "Inserts and deletes between searches": {
        "memory.mixed.write_rate": "vectors written",
    },
    "Runbook, its searches step by step": {
        "memory.streaming.latency.mean": "mean latency",
        "memory.streaming.latency.p95": "p95",
        "memory.streaming.recall_at_10": "recall@10",
        "memory.streaming.bytes_per_vector": "bytes per vector",
    },
    "Runbook, its writes step by step": {
        "memory.streaming.write_rate": "vectors written",
    },
    "Documents in SQLite shards": {
        "memory.storage.write_rate": "written",
        "memory.storage.read_rate": "read",
    },
    "Scalar codes, searched exactly": {
        "memory.coding.bytes_per_vector": "bytes per vector",
        "memory.coding.recall_at_10": "recall@10",
    },
    STAGES: {
        "query.stage.latency.mean": "mean",
        "query.stage.latency.p50": "p50",
        "query.stage.latency.p95": "p95",
    },
    "Queries by strategy": {"query.strategy": "of the queries"},
    ABLATION: {
        "query.ablation.ndcg_difference": "nDCG@10, difference",
        "query.ablation.cost": "latency, ratio",
    },
    BATCHING: {
        "query.batching.rate": "rate",
        "query.batching.latency.mean": "mean latency",
        "query.batching.latency.p95": "p95",
    },
    BATCHING_GAIN: {"query.batching.gain": "rate, ratio"},
    "Queries among a share of the documents": {
        "query.filtered.recall_at_10": "recall@10",
        "query.filtered.latency.mean": "mean latency",
    },
    "Agents, one question at a time": {
        "agents.hop_latency.mean": "hop, mean",
        "agents.hop_latency.p95": "hop, p95",
        "agents.service_time.mean": "work, mean",
        "agents.queue_wait.mean": "wait, mean",
    },
    "Agents, at most and within the objective": {
        "agents.capacity": "capacity",
        "agents.sustained_rate": "highest load in the objective",
        "agents.utilisation": "busiest agent there",
    },
    "Agents under load, from the intended start": {
        "agents.load.latency.mean": "mean latency",
        "agents.load.latency.p50": "p50",
        "agents.load.latency.p95": "p95",
        "agents.load.within_objective": "in the objective",
        "agents.load.throughput": "answered",
    },
    "Agents under load, what became of the questions": {
        "agents.load.rejection_rate": "rejected",
        "agents.load.refusal_time.p95": "rejected in, p95",
        "agents.load.timeout_rate": "timed out",
        "agents.load.failure_rate": "failed",
        "agents.load.degraded_rate": "answers degraded",
        "agents.load.busiest": "busiest agent",
    },
    "Agents under load, what coordinating them costs": {
        "agents.load.hop_latency.mean": "hop, mean",
        "agents.load.hop_latency.p95": "hop, p95",
        "agents.load.coordination_overhead": "overhead",
    },
    "Each agent under load": {
        "agents.load.utilisation": "utilisation",
        "agents.load.queue_wait.mean": "wait, mean",
        "agents.load.queue_wait.p95": "wait, p95",
    },
    "Memory of the service": {"system.resident_memory": "resident"},
    "Services side by side": {
        "system.processes.throughput": "searches",
        "system.processes.gain": "over the fewest's",
    },
    "Cached searches over HTTP, a bare server that echoes, and a balancer": {
        "system.http.throughput": "requests",
        "system.http.cpu": "CPU of a request",
    },
    "The service under load, from the intended start": {
        "load.offered": "offered",
        "load.latency.mean": "mean latency",
        "load.latency.p50": "p50",
        "load.latency.p95": "p95",
        "load.latency.p99": "p99",
        "load.throughput": "answered",
    },
    "The service under load, from when each request was sent": {
        "load.service_time.mean": "mean service time",
        "load.service_time.p50": "p50",
        "load.service_time.p95": "p95",
        "load.service_time.p99": "p99",
        "load.lateness.p99": "generator late by, p99",
    },
    "The service under load, what became of the requests": {
        "load.users": "users",
        "load.in_flight": "under way",
        "load.error_rate": "no answer",
        "load.rejection_rate": "rejected",
        "load.recall_at_10": "recall@10",
        "load.cache_hit_rate": "cache hits",
    },
    "The service under load, what it takes": {
        "load.cpu": "CPU of the service",
        "load.memory": "its memory",
        "load.generator_cpu": "CPU of the generator",
    },
    "The service at most": {"load.capacity": "capacity"},
    "Known answers: the largest error": {
        "lab.error.percentile": "of a percentile",
        "lab.error.throughput": "of a throughput",
        "lab.error.memory": "of memory",
        "lab.error.recall": "of recall",
    },
    "A trial beside its timed work": {"lab.cost.trial": "seconds"},
    "A sweep, and a process and a build for each group and repeat": {"lab.cost.wall": "wall time"},
}
_NOTES = {
    STAGES: "Of the queries that had the stage. Percentiles of stages do not add up to the query's.",
    ABLATION: "The pipeline with that one change beside the pipeline as it is, on the same queries: above 0 "
    f"answers are better, below 1{units.RATIO} they are faster. Intervals of the difference are paired over "
    "queries, those of the ratio over processes.",
    BATCHING_GAIN: "The rate in shared calls over that alone, of the same queries in one process: above "
    f"1{units.RATIO} sharing is faster.",
}
ALL = "all"  # the label of what has none: a total
# The peers suite's tables: a row for each participant, at these recalls its p50 and that over the engine's.
_PEERS = {
    "vectors": "Beside peers, vectors in, rows out: p50 at a recall@10 of so much, and over the engine's",
    "text": "Beside peers, text in, rows out: p50 at a recall@10 of so much, and over the engine's",
}
_AT = {f"{recall:g}": f"≥ {units.tick(recall, '')}" for recall in matched.RECALLS}
_MATCHED, _COST = "peers.matched.latency.p50", "peers.matched.cost"
_OF_BUILD = {"peers.build_time": "build", "peers.memory": "memory"}
_OF_PEERS = frozenset(name for name in METRICS if name.startswith("peers."))
SHOWN = frozenset(name for columns in _TABLES.values() for name in columns) | _OF_PEERS


@dataclass(frozen=True)
class Table:
    """Titles of the columns, and rows of a label and as many cells."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]
    note: str = ""  # how to read it


def tables(record: RunRecord) -> list[Table]:
    """Every table that the record has something for, without the columns it has nothing for."""
    made = [_table(title, columns, record) for title, columns in _TABLES.items()]
    made += [_peers(title, task, record) for task, title in _PEERS.items()]
    return [table for table in made if table.rows]


def _peers(title: str, task: str, record: RunRecord) -> Table:
    """The engine's indexes first, then the peers; of either the fastest at a recall of 95% first."""
    cells: dict[str, dict[str, str]] = {}
    ranks: dict[str, tuple[bool, float]] = {}
    for metric in record.metrics:
        if metric.labels.get("task") != task or metric.value is None:
            continue
        name = answer.printable(metric.labels.get("engine") or metric.labels.get("peer", ""))
        row, rank = cells.setdefault(name, {}), ("engine" not in metric.labels, math.inf)
        ranks.setdefault(name, rank)
        if metric.name == _MATCHED:
            row[_at(metric)] = units.show(metric.value, metric.unit)
            if metric.labels["recall"] == "0.95":
                ranks[name] = (rank[0], metric.value)
        elif metric.name == _COST:
            row[_at(metric)] += f", {_ratio(metric)}"
        elif metric.name in _OF_BUILD:
            row[_OF_BUILD[metric.name]] = units.show(metric.value, metric.unit)
    columns = [*_AT.values(), *_OF_BUILD.values()]
    columns = [column for column in columns if any(column in row for row in cells.values())]
    rows = [
        (name, [cells[name].get(column, "not reached") for column in columns])
        for name in sorted(ranks, key=lambda name: ranks[name])
    ]
    return Table(title, columns, rows)


def _ratio(metric: Measured) -> str:
    counted = metric.ci_low == metric.ci_high  # as of the engine's fastest index, over itself
    ends = (None, None) if counted else (metric.ci_low, metric.ci_high)
    return units.show(metric.value, units.RATIO, *ends)


def _at(metric: Measured) -> str:
    return _AT[metric.labels["recall"]]


def _table(title: str, names: dict[str, str], record: RunRecord) -> Table:
    cells: dict[str, dict[str, str]] = {}
    for metric in sorted(record.metrics, key=_clients):
        if metric.name in names:
            cells.setdefault(_label(metric), {})[metric.name] = cell(metric)
    there = [name for name in names if any(name in row for row in cells.values())]
    totals_last = sorted(cells.items(), key=lambda item: item[0] == ALL)
    rows = [(label, [row.get(name, "") for name in there]) for label, row in totals_last]
    return Table(title, [names[name] for name in there], rows, _NOTES.get(title, ""))


def _clients(metric: Measured) -> tuple[int, str]:
    """What sorts by the number of clients or processes where there is one: the shorter number is smaller."""
    number = metric.labels.get("clients", "") or metric.labels.get("processes", "")
    return len(number), number


def _label(metric: Measured) -> str:
    return answer.printable(answer.described(metric.labels)) or ALL


def cell(metric: Measured) -> str:
    """What was measured, with its interval where that says something, or why there is no figure."""
    if metric.value is None:
        return "not all answered" if NO_ANSWER in (metric.reason or "") else "too few samples"
    counted = metric.ci_low == metric.ci_high  # an interval of no width says nothing
    return units.show(metric.value, answer.unit(metric)) if counted else answer.value(metric)
