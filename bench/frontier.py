"""The frontier of a sweep, and the cheapest configuration that meets an objective."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from bench.config import ObjectiveConfig
from bench.decide import baseline
from bench.metrics import METRICS, Measured
from bench.record import DatasetFacts, RunRecord
from brein.embedding import LEAVES_NO_MARK

_COLD = {"phase": "cold"}


@dataclass(frozen=True)
class Axis:
    """Which metric a configuration is judged by, and which of the metric's series."""

    title: str
    metric: str
    labels: Mapping[str, str] = field(default_factory=dict)


# By the suite that is judged: the first that has a value for recall or mean latency in any cell.
AXES: dict[str, dict[str, Axis]] = {
    "memory": {
        "recall": Axis("recall@10", "memory.recall_at_10"),
        "p50": Axis("p50 latency", "memory.search.latency.p50"),
        "p95": Axis("p95 latency", "memory.search.latency.p95"),
        "mean": Axis("mean latency", "memory.search.latency.mean"),
        "throughput": Axis("throughput in batches", "memory.search.batch_throughput"),
        "memory": Axis("bytes per vector", "memory.index.bytes_per_vector"),
        "disk": Axis("bytes per vector on disk", "memory.index.disk_bytes_per_vector"),
        "peak": Axis("peak memory", "memory.peak"),
        "build": Axis("build time", "memory.index.build_time"),
    },
    "query": {
        "recall": Axis("recall@10", "query.recall_at_10", _COLD),
        "ndcg": Axis("nDCG@10", "query.ndcg_at_10", _COLD),
        "mrr": Axis("MRR@10", "query.mrr_at_10", _COLD),
        "p50": Axis("p50 latency", "query.latency.p50", _COLD),
        "p95": Axis("p95 latency", "query.latency.p95", _COLD),
        "mean": Axis("mean latency", "query.latency.mean", _COLD),
        "throughput": Axis("throughput", "query.throughput", _COLD),
    },
}
# `latency` is p95, or the mean where no cell has the samples for p95.
FRONTIERS = (
    ("recall", "latency"),
    ("recall", "throughput"),
    ("recall", "memory"),
    ("recall", "latency", "memory"),
)
# What the cheapest configuration costs least of; the later break ties of the earlier.
COSTS = ("memory", "latency", "build")


class Failure(NamedTuple):
    """A cell that left no record: its command and why."""

    command: Sequence[str]
    reason: str


@dataclass(frozen=True)
class Point:
    """One cell of a sweep that left a record: what is its own, and what it measured on each axis."""

    cell: int  # its place among the records given, from 1
    own: tuple[str, ...]  # the overrides that not every cell has
    kind: str  # of its index
    valid: bool
    measured: Mapping[str, Measured]

    def value(self, axis: str) -> float | None:
        """What it measured on an axis; None where that is nothing, or no finite number."""
        found = self.measured.get(axis)
        return found.value if found and found.value is not None and math.isfinite(found.value) else None

    @property
    def is_judged(self) -> bool:
        """Whether it has a value on some axis: a cell that measured other things has none."""
        return any(self.value(axis) is not None for axis in self.measured)


class Doubt(NamedTuple):
    """A bound that is not proven to be met, and what would decide it."""

    axis: str
    remedy: str


@dataclass(frozen=True)
class Choice:
    """The cheapest configuration that meets an objective.

    `proven`: every interval of `point` is on the good side of its bound; `cheaper` may meet it too, and costs
    less. `not proven`: none is proven to meet it, and `point` is the cheapest that may. `none`: there is no
    `point`, as all fail, or as no valid cell measured what a bound is about. `doubts` say what is open.
    """

    verdict: Literal["proven", "not proven", "none"]
    point: Point | None
    doubts: tuple[Doubt, ...] = ()
    cheaper: Point | None = None


def judged(records: Sequence[RunRecord]) -> str | None:
    """The suite of `AXES` that a sweep is judged by; None where none of them searched."""
    for suite, axes in AXES.items():
        searched = (axes["recall"], axes["mean"])
        if any(_measured(record, axis) for record in records for axis in searched):
            return suite
    return None


def points(records: Sequence[RunRecord], failures: Sequence[Failure] = ()) -> list[Point]:
    """One point for each record, in their order; `failures` count in what all commands share."""
    axes = AXES.get(judged(records) or "", {})
    own = own_overrides([*(record.command for record in records), *(failed.command for failed in failures)])
    return [
        Point(
            cell=number,
            own=overrides,
            kind=str((record.experiment.get("index") or {}).get("kind", "")),
            valid=record.validity.valid,
            measured={key: found for key, axis in axes.items() if (found := _measured(record, axis))},
        )
        for number, (record, overrides) in enumerate(zip(records, own, strict=False), start=1)
    ]


def own_overrides(commands: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Of each command, the overrides that not all of the commands have."""
    shared = set[str].intersection(*map(set, commands)) if commands else set[str]()
    return [tuple(override for override in command if override not in shared) for command in commands]


def differences(records: Sequence[RunRecord]) -> list[str]:
    """What the valid records do not share although only then they compare: `machine`, `data`, `embedding`.

    The query suite searches the data set, whatever embeds it, and is judged by what is relevant; the memory
    suite searches vectors, and is judged by the nearest of these.
    """
    suite = judged(records)
    valid = [record for record in records if record.validity.valid]
    data = [searched(record, suite) for record in valid]
    differ = {
        "machine": {record.machine.fingerprint for record in valid},
        "data": {one.sha256 for one in data},
        "embedding": {
            _embedding(record)
            for record, one in zip(valid, data, strict=True)
            if suite == "memory" and "documents" in one.counts
        },
    }
    return [name for name, kinds in differ.items() if len(kinds) > 1]


def searched(record: RunRecord, suite: str | None) -> DatasetFacts:
    """What the suite that is judged searched."""
    return record.dataset if suite == "query" else record.memory_vectors or record.dataset


def _embedding(record: RunRecord) -> str:
    """What a text's vector depends on."""
    config = record.experiment.get("embedding") or {}
    named = {key: value for key, value in config.items() if key not in LEAVES_NO_MARK}
    return json.dumps(named, sort_keys=True)


def resolve(points: Sequence[Point], axis: str) -> str:
    """The axis itself; for `latency`, p95, or the mean where no point has p95."""
    if axis != "latency":
        return axis
    return "p95" if any(point.value("p95") is not None for point in points) else "mean"


def frontiers(points: Sequence[Point]) -> dict[tuple[str, ...], list[Point]]:
    """The frontier of each combination in `FRONTIERS` of which some point has every axis."""
    found = {}
    for names in FRONTIERS:
        axes = tuple(resolve(points, name) for name in names)
        if best := pareto(points, axes):
            found[axes] = best
    return found


def pareto(points: Sequence[Point], axes: Sequence[str]) -> list[Point]:
    """The points that no other dominates, in the order given.

    One point dominates another when its values are at least as good on every axis and better on one, each in
    its metric's direction. Equal points do not dominate each other. Invalid points, and points without a
    value on every axis, are left out. Values are compared, not intervals, whether fit to be judged or not.
    """
    rows = {number: row for number, point in enumerate(points) if (row := _lower_is_better(point, axes))}
    table = np.array(list(rows.values()))
    return [
        points[number]
        for number, row in rows.items()
        if not np.any(np.all(table <= row, axis=1) & np.any(table < row, axis=1))
    ]


def cheapest(points: Sequence[Point], objective: ObjectiveConfig) -> Choice | None:
    """The cheapest valid point that meets the objective; None where the objective has no bound.

    Cheapest is the fewest bytes per vector in memory, then the lowest latency, then the shortest build. A
    bound is met where the whole interval is at least as good, failed where all of it is worse, else not
    proven; what is not fit to be judged proves nothing. Where no point is proven, those whose values meet
    every bound come before those whose do not.
    """
    limits = {axis: limit for axis, limit in objective if limit is not None}
    if not limits:
        return None
    valid = [point for point in points if point.valid]
    unknown = [axis for axis in limits if all(point.value(axis) is None for point in valid)]
    if valid and unknown:
        return Choice("none", None, tuple(Doubt(axis, "it was not measured") for axis in unknown))
    valid = [point for point in valid if point.is_judged]
    costs = {point.cell: _cost(points, point) for point in valid}
    doubts = {point.cell: _doubts(point, limits) for point in valid if not _fails(point, limits)}
    proven = [point for point in valid if doubts.get(point.cell) == ()]
    likely = [point for point in valid if doubts.get(point.cell) and _inside(point, limits)]
    others = [point for point in valid if doubts.get(point.cell) and not _inside(point, limits)]
    ranked = [min(group, key=lambda p: costs[p.cell]) for group in (proven, likely, others) if group]
    if not ranked:
        return Choice("none", None)
    best, *rest = ranked
    if not proven:
        return Choice("not proven", best, doubts[best.cell])
    if likely and costs[rest[0].cell] < costs[best.cell]:
        return Choice("proven", best, doubts[rest[0].cell], cheaper=rest[0])
    return Choice("proven", best)


def _measured(record: RunRecord, axis: Axis) -> Measured | None:
    wanted = (axis.metric, dict(axis.labels))
    return next((metric for metric in record.metrics if (metric.name, metric.labels) == wanted), None)


def _lower_is_better(point: Point, axes: Sequence[str]) -> list[float] | None:
    """The point's values with their signs turned where higher is better."""
    values = [point.value(axis) for axis in axes]
    if not point.valid or None in values:
        return None
    return [
        -value if point.measured[axis].better == "higher" else value
        for axis, value in zip(axes, values, strict=True)
        if value is not None
    ]


def _word(point: Point, axis: str, limit: float) -> baseline.Word:
    measured = point.measured.get(axis)
    if measured is None or measured.reasons or measured.ci_low is None or measured.ci_high is None:
        return "not proven"
    return baseline.compare(limit, measured.ci_low, measured.ci_high, measured.better)[0]


def _fails(point: Point, limits: Mapping[str, float]) -> bool:
    return any(_word(point, axis, limit) == "miss" for axis, limit in limits.items())


def _doubts(point: Point, limits: Mapping[str, float]) -> tuple[Doubt, ...]:
    return tuple(
        _doubt(axis, point.measured.get(axis))
        for axis, limit in limits.items()
        if _word(point, axis, limit) != "pass"
    )


def _inside(point: Point, limits: Mapping[str, float]) -> bool:
    """Whether every value, whatever its interval, is on the good side of its bound."""
    for axis, limit in limits.items():
        value = point.value(axis)
        if value is None or baseline.compare(limit, value, value, point.measured[axis].better)[0] != "pass":
            return False
    return True


def _doubt(axis: str, measured: Measured | None) -> Doubt:
    if measured is None:
        return Doubt(axis, "it was not measured")
    if measured.reasons or measured.reason:
        return Doubt(axis, "; ".join(measured.reasons) or str(measured.reason))
    known = METRICS.get(measured.name)
    unit = "queries" if known and known.quality else "repeats"
    return Doubt(axis, f"more {unit} would narrow its interval")


def _cost(points: Sequence[Point], point: Point) -> tuple[float, ...]:
    values = (point.value(resolve(points, name)) for name in COSTS)
    return tuple(math.inf if value is None else value for value in values)
