"""What a sweep's report says, whatever it is written in: the answer in a sentence, the rows, the commands."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench import frontier
from bench.config import ObjectiveConfig
from bench.frontier import AXES, Axis, Choice, Failure, Point
from bench.metrics import METRICS
from bench.record import RunRecord
from bench.reports import answer, units

_MOST_LINES = 5  # on cells that are not valid; the others are counted


@dataclass(frozen=True)
class Sweep:
    """The cells of a sweep, and what they say together."""

    records: Sequence[RunRecord]
    failures: Sequence[Failure]
    objective: ObjectiveConfig
    points: list[Point]
    compared: list[Point]  # those of them that are, or failed to be
    apart: list[Point]  # the valid cells that measured other things than the axes
    axes: dict[str, Axis]  # those on which some cell has a value
    differences: list[str]  # why the cells do not compare; there is then neither frontier nor choice
    frontiers: dict[tuple[str, ...], list[Point]]
    choice: Choice | None

    def record(self, point: Point) -> RunRecord:
        """The record a point was made of."""
        return self.records[point.cell - 1]


def over(records: Sequence[RunRecord], objective: ObjectiveConfig, failures: Sequence[Failure]) -> Sweep:
    """Put at least one record together, with the cells that left none."""
    points = frontier.points(records, failures)
    axes = AXES.get(frontier.judged(records) or "", {})
    differences = frontier.differences(records)
    is_judged = any(point.is_judged for point in points)
    apart = [point for point in points if is_judged and point.valid and not point.is_judged]
    return Sweep(
        records=records,
        failures=failures,
        objective=objective,
        points=points,
        compared=[point for point in points if point not in apart],
        apart=apart,
        axes={key: axis for key, axis in axes.items() if any(p.value(key) is not None for p in points)},
        differences=differences,
        frontiers={} if differences else frontier.frontiers(points),
        choice=None if differences else frontier.cheapest(points, objective),
    )


def name(sweep: Sweep) -> str:
    """The sweep's name: its cells' own, where they share it."""
    names = {str(record.experiment.get("name") or record.run_id) for record in sweep.records}
    return names.pop() if len(names) == 1 else "sweep"


def headline(sweep: Sweep) -> str:
    """Say in one sentence what the sweep found."""
    if sweep.differences:
        both = " and ".join(sweep.differences)
        return f"{_cells(sweep)} measured, not comparable: they differ in {both}."
    if not any(point.valid for point in sweep.points):
        return f"{_cells(sweep)} measured, none of them valid: nothing can be concluded."
    if sweep.choice:
        return _chosen(sweep, sweep.choice)
    if not sweep.frontiers:
        return _without_frontier(sweep)
    axes, best = list(sweep.frontiers.items())[-1]
    valid = sum(point.valid for point in sweep.compared)
    verb = "is" if len(best) == 1 else "are"
    of = answer.count(valid, "configuration")
    return f"{len(best)} of {of} {verb} on the frontier of {_list(sweep, axes)}."


def _without_frontier(sweep: Sweep) -> str:
    suites = dict.fromkeys(metric.name.partition(".")[0] for r in sweep.records for metric in r.metrics)
    if not suites or suites.keys() & AXES.keys():
        return f"{_cells(sweep)} measured; recall was not, so there is no frontier."
    named = f"the suite{'s' * (len(suites) > 1)} {' and '.join(suites)}"
    return f"{_cells(sweep)} compared side by side, by the figures of {named}; without recall, no frontier."


def _chosen(sweep: Sweep, choice: Choice) -> str:
    wanted = bounds(sweep.objective)
    if choice.point is None and choice.doubts:
        unknown = " and ".join(_title(doubt.axis) for doubt in choice.doubts)
        return f"Whether a configuration has {wanted} is not known: {unknown} was not measured."
    if choice.point is None:
        return f"No configuration has {wanted}."
    found = f"{configuration(sweep, choice.point)} ({described(sweep, choice.point)})"
    if choice.verdict == "proven":
        return f"Cheapest configuration with {wanted}: {found}."
    return f"No configuration is proven to have {wanted}; the cheapest that may: {found}."


def standing(sweep: Sweep) -> list[str]:
    """What else to know of the answer: what is open, left out, invalid, failed."""
    said = []
    if sweep.choice and sweep.choice.cheaper:
        doubts = "; ".join(f"{_title(doubt.axis)}: {doubt.remedy}" for doubt in sweep.choice.doubts)
        cheaper = sweep.choice.cheaper
        what = f"{configuration(sweep, cheaper)} ({described(sweep, cheaper)})"
        said.append(f"Cheaper, but not proven: {what}. {doubts}.")
    elif sweep.choice and sweep.choice.point:
        said += [f"Not proven: {_title(doubt.axis)}; {doubt.remedy}." for doubt in sweep.choice.doubts]
    if sweep.choice and sweep.choice.point is None:
        said += [
            f"Best {_title(axis)}: {best}."
            for axis in _limits(sweep.objective)
            if (best := _best(sweep, axis))
        ]
    invalid = [point for point in sweep.points if not point.valid]
    for point in invalid[:_MOST_LINES]:
        reasons = "; ".join(sweep.record(point).validity.reasons)
        said.append(f"Not valid, and left out: {configuration(sweep, point)}: {reasons}")
    if len(invalid) > _MOST_LINES:
        said.append(f"Not valid, and left out: {answer.count(len(invalid) - _MOST_LINES, 'more cell')}.")
    said += _unfit(sweep)
    said += [f"Compared with none, its tables stand apart: {configuration(sweep, p)}" for p in sweep.apart]
    said += [f"Failed: {shown(own) or 'the cell'}: {why}" for own, why in failed(sweep)]
    return [answer.printable(line) for line in said]


def _unfit(sweep: Sweep) -> Iterator[str]:
    """In how many valid cells recall, latency or size is not fit to be judged, and why in the first."""
    for axis in ("recall", frontier.resolve(sweep.points, "latency"), "memory"):
        measured = [point.measured[axis] for point in sweep.points if point.valid and axis in point.measured]
        reasons = ["; ".join(metric.reasons) for metric in measured if metric.reasons]
        if reasons:
            where = f"{len(reasons)} of {answer.count(len(measured), 'cell')}"
            first = "the first: " if len(set(reasons)) > 1 else ""
            yield f"Not fit to be judged: {_title(axis)} in {where}; {first}{reasons[0]}."


def failed(sweep: Sweep) -> list[tuple[tuple[str, ...], str]]:
    """The own overrides of each cell that left no record, and why."""
    commands = [*(record.command for record in sweep.records), *(f.command for f in sweep.failures)]
    own = frontier.own_overrides(commands)[len(sweep.records) :]
    return [(overrides, failure.reason) for overrides, failure in zip(own, sweep.failures, strict=True)]


def ordered(sweep: Sweep) -> list[Point]:
    """The compared points: those on a frontier first, then by recall, the highest first, then by latency."""

    def place(point: Point) -> tuple[bool, bool, float, float, int]:
        recall, mean = point.value("recall"), point.value("mean")
        return (
            not point.valid,
            not marks(sweep, point),
            -recall if recall is not None else math.inf,
            mean if mean is not None else math.inf,
            point.cell,
        )

    return sorted(sweep.compared, key=place)


def winners(sweep: Sweep) -> list[Point]:
    """The cheapest point, where there is one, then the others on the widest frontier, by recall."""
    chosen = [sweep.choice.point] if sweep.choice and sweep.choice.point else []
    best = list(sweep.frontiers.values())[-1] if sweep.frontiers else []
    return chosen + [point for point in ordered(sweep) if point in best and point not in chosen]


def main_axes(sweep: Sweep) -> list[str]:
    """The axes of a table that has no room for all: no memory but the index's, or p50 where there is none."""
    latency = frontier.resolve(sweep.points, "latency")
    latencies = [latency] if "memory" in sweep.axes else list(dict.fromkeys(("p50", latency)))
    wanted = ("recall", "ndcg", *latencies, "memory", "disk", "build")
    return [axis for axis in wanted if axis in sweep.axes]


def marks(sweep: Sweep, point: Point) -> list[str]:
    """The frontiers a point is on, each named by the axes beside recall: `p95`, `memory`, `p95 & memory`."""
    return [" & ".join(axes[1:]) for axes, best in sweep.frontiers.items() if point in best]


def configuration(sweep: Sweep, point: Point) -> str:
    """A cell's own overrides, or its run where it has none."""
    return shown(own(sweep, point)) or answer.printable(sweep.record(point).run_id)


def own(sweep: Sweep, point: Point) -> list[str]:
    """The overrides that tell a cell from those it is compared with."""
    shared = set[str]()
    if len(sweep.compared) > 1 and point not in sweep.apart:
        shared = set.intersection(*(set(other.own) for other in sweep.compared))
    return [override for override in point.own if override not in shared]


def in_words(sweep: Sweep, point: Point) -> str:
    """A cell's own overrides without the groups' names: `hnsw efSearch 64`."""
    words = []
    for override in own(sweep, point):
        key, _, value = override.partition("=")
        words.append(f"{key.rpartition('.')[2]} {value}" if "." in key else value)
    return answer.printable(" ".join(words)) or f"cell {point.cell}"


def shown(overrides: Sequence[str]) -> str:
    """Overrides in a line."""
    return answer.printable(" ".join(overrides))


def value(point: Point, axis: str) -> str:
    """What a point measured on an axis, with its interval; empty where it was not."""
    found = point.measured.get(axis)
    if found is None or found.value is None:
        return ""
    counted = found.ci_low == found.ci_high
    return units.show(found.value, found.unit) if counted else answer.value(found)


def in_short(point: Point, axis: str) -> str:
    """The same without the interval."""
    found = point.measured.get(axis)
    return "" if found is None or found.value is None else units.show(found.value, found.unit)


def interval(point: Point, axis: str) -> str:
    """The interval alone; empty where there is none, or what was counted is its own."""
    return value(point, axis).removeprefix(in_short(point, axis)).strip()


def described(sweep: Sweep, point: Point) -> str:
    """A point's recall, latency and size in a line."""
    latency = frontier.resolve(sweep.points, "latency")
    parts = [
        f"{_title(axis)} {in_short(point, axis)}" for axis in ("recall", latency) if in_short(point, axis)
    ]
    size = in_short(point, "memory")
    return ", ".join([*parts, f"{size} per vector"] if size else parts)


def bounds(objective: ObjectiveConfig) -> str:
    """An objective in words: `recall@10 ≥ 95% and p95 latency ≤ 5 ms`."""
    return " and ".join(f"{_title(axis)} {bound}" for axis, bound in _limits(objective).items())


def _limits(objective: ObjectiveConfig) -> dict[str, str]:
    limits = {}
    for axis, limit in objective:
        if limit is not None:
            metric = METRICS[AXES["memory"][axis].metric]
            sign = "≥" if metric.better == "higher" else "≤"
            limits[axis] = f"{sign} {units.tick(limit, metric.unit)}"
    return limits


def _best(sweep: Sweep, axis: str) -> str:
    known = [point for point in sweep.points if point.valid and point.value(axis) is not None]
    if not known:
        return ""
    best = frontier.pareto(known, [axis])[0]
    return f"{value(best, axis)}, {configuration(sweep, best)}"


def measured_how(sweep: Sweep) -> list[tuple[str, str]]:
    """How the cells were measured: data, machine, repeats, seeds, time."""
    first = sweep.records[0]
    trials = [record.experiment.get("trial") or {} for record in sweep.records]
    searched = frontier.searched(first, frontier.judged(sweep.records))
    facts = {
        "Cells": _cells(sweep),
        "Data": _shared(f"{searched.name}: {answer.plain(searched.counts)}", "data" not in sweep.differences),
        "Machine": _shared(
            f"{first.machine.cpu}, {first.machine.cores} cores, {units.show(first.machine.memory, 'B')}",
            "machine" not in sweep.differences,
        ),
        "Processes a cell": _each(trial.get("repeats") for trial in trials),
        "Seed": _each(trial.get("seed") for trial in trials),
        "Began": min(record.started_at for record in sweep.records),
        "Time measuring": units.show(sum(trial.wall for r in sweep.records for trial in r.trials), "s"),
        "Commit of the lab": " / ".join(dict.fromkeys(answer.commit(record) for record in sweep.records)),
        "Shared by all cells": shown(_shared_overrides(sweep)) or "no override",
    }
    return [(term, answer.printable(said)) for term, said in facts.items()]


def _shared_overrides(sweep: Sweep) -> list[str]:
    own = sweep.points[0].own
    return [override for override in sweep.records[0].command if override not in own]


def _shared(text: str, is_shared: bool) -> str:
    return text if is_shared else f"{text}; not the same in all cells"


def _each(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(answer.plain(value) for value in values))


def _cells(sweep: Sweep) -> str:
    return answer.count(len(sweep.records), "cell")


def _list(sweep: Sweep, axes: Sequence[str]) -> str:
    titles = [sweep.axes[axis].title for axis in axes]
    return titles[0] if len(titles) == 1 else f"{', '.join(titles[:-1])} and {titles[-1]}"


def _title(axis: str) -> str:
    return (AXES["query"] | AXES["memory"])[axis].title
