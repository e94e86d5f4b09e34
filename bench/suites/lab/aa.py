"""Part `aa`: one cell measured twice, and its two sides compared.

A comparison is `suite.lab.pairs` pairs of fresh processes in one sitting, in the order A B B A, so that drift
of the machine meets both sides alike. The processes of a pair ask the same queries in the same order. The p50
of each process is compared: the interval is of the median of the logarithms' differences within the pairs. It
asks for no distribution: where a machine has two speeds, a few p50s lie between them, and jump.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench import metrics, stats, trial
from bench.artifacts import Artifact
from bench.config import TrialConfig
from bench.errors import MeasurementError
from bench.suites.base import Experiment
from bench.suites.memory import search
from bench.trial import Cell, Ended, Kept, Measurement, Plan, Samples, Task, Work

METRICS: tuple[str, ...] = ("lab.aa",)
_COMPARED = "memory.search.latency.p50"


def artifacts(experiment: Experiment) -> list[Artifact]:
    """What `plan` makes, known without making it."""
    return search.artifacts(experiment)


def plan(experiment: Experiment) -> Work:
    """Build the index, find the exact neighbours, plan the comparisons, or say that a GPU is missing."""
    if experiment.lacks_gpu():
        return Work(skipped=dict.fromkeys(METRICS, "needs a GPU"))
    settings = experiment.config.suite.lab
    (searches,) = search.plan(single_searches(experiment, settings.searches)).plans
    argument = {
        "target": searches.target,
        "argument": dict(searches.argument),
        "pairs": settings.pairs,
        "comparisons": settings.comparisons,
        "trial": experiment.config.trial.model_dump(mode="json"),
    }
    condition = (
        f"p50 of {settings.searches:,} single searches of {experiment.config.index.kind} over "
        f"{settings.data.vectors:,} vectors a process, {settings.pairs} pairs of processes a comparison"
    )
    return Work(
        [Plan("lab", "aa", "bench.suites.lab.aa:compare", argument)],
        conditions={f"lab.aa.{series}": condition for series in ("contains_zero", "half_width")},
    )


def single_searches(experiment: Experiment, searches: int) -> Experiment:
    """The same experiment with so many single searches in a trial, and hardly anything beside them."""
    config = experiment.config
    update = {"searches": searches, "batch_seconds": 0.01, "filter_shares": ()}
    suite = config.suite.model_copy(update={"memory": config.suite.memory.model_copy(update=update)})
    return replace(experiment, config=config.model_copy(update={"suite": suite}))


def compare(argument: dict[str, Any]) -> Measurement:
    """In a child, as the parent of the processes compared: one sample for each comparison."""
    yield
    processes = {side: Samples("lab.aa.process", side=side) for side in "ab"}
    contains, half_width = Samples("lab.aa.contains_zero"), Samples("lab.aa.half_width")
    begin = time.perf_counter()
    for number in range(argument["comparisons"]):
        start = time.perf_counter() - begin
        sides: dict[str, list[float]] = {"a": [], "b": []}
        for side, ended in _processes(argument, number):
            sides[side].append(_compared(ended))
            processes[side].add(sides[side][-1], time.perf_counter() - begin)
        low, high = difference(sides["a"], sides["b"])
        contains.add(float(low <= 0 <= high), start)
        half_width.add(float(np.expm1((high - low) / 2)), start)
    return trial.report(contains, half_width, *processes.values())


def difference(first: Sequence[float], second: Sequence[float]) -> stats.Interval:
    """95% interval of the median logarithm of `second` over `first`, paired; both positive.

    Raises:
        ValueError: fewer pairs than an interval needs.
    """
    interval = stats.median_interval(np.log(second) - np.log(first))
    if interval is None:
        raise ValueError(f"{len(first)} pairs carry no interval")
    return interval


def order(pairs: int) -> str:
    """Which side each process is of: a b b a a b b a …"""
    return "".join("ab" if pair % 2 == 0 else "ba" for pair in range(pairs))


def _processes(argument: Mapping[str, Any], number: int) -> Iterator[tuple[str, Ended]]:
    """Run the processes of one comparison, A B B A …; each with its side."""
    seed = (argument["seed"] + number) % 2**32
    config = TrialConfig.model_validate(argument["trial"]).model_copy(update={"seed": seed})
    measured = Plan("memory", "search", argument["target"], argument["argument"])
    sides = {side: Cell(side, [Work([measured])], config, Kept(Path(), {})) for side in "ab"}
    tasks = [Task(sides[side], measured, turn // 2) for turn, side in enumerate(order(argument["pairs"]))]
    for together in trial.here(tasks):
        yield from ((task.cell.name, ended) for task, ended in together)


def _compared(ended: Ended) -> float:
    """The p50 of one process.

    Raises:
        MeasurementError: the process failed, or gave too few samples.
    """
    if ended.trial.reason:
        raise MeasurementError(ended.trial.reason)
    rows = [{"suite": "memory", "repeat": 0, **row} for row in ended.rows if row["series"] == "memory.search"]
    for metric in metrics.derive(trial.frame(rows)):
        if metric.name == _COMPARED and metric.value is not None:
            return metric.value
    raise MeasurementError(f"{len(rows)} searches carry no p50; raise suite.lab.searches")
