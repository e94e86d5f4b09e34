"""Part `streaming`: a runbook followed step by step, as big-ann-benchmarks' streaming track does.

Vectors are inserted and deleted in stretches; each search step asks the same queries of what is there then.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench import trial
from bench.artifacts import Artifact
from bench.suites.base import Experiment
from bench.suites.judge import recalls_among
from bench.timing import Timed, time_each
from bench.trial import Measurement, Plan, Samples, Work
from bench.workload import runbook
from bench.workload.dataset import IntArray
from bench.workload.runbook import Step
from brein import EngineConfig, index
from brein.index import Index
from brein.records import FloatArray

METRICS: tuple[str, ...] = ("memory.streaming",)


def check(experiment: Experiment) -> None:
    """Refuse a runbook that does what cannot be done."""
    _steps(experiment)


def artifacts(experiment: Experiment) -> list[Artifact]:
    """What `plan` makes, known without making it."""
    return [] if experiment.lacks_gpu() else [experiment.vector_artifact()]


def plan(experiment: Experiment) -> Work:
    """Plan the steps, or say why they cannot be followed."""
    if experiment.lacks_gpu():
        return Work(skipped={"memory.streaming": "needs a GPU"})
    settings, config = experiment.config.suite.memory, experiment.config
    steps = _steps(experiment)
    minimum, setting = config.index.training_minimum
    first = steps[0].end - steps[0].start
    if first < minimum:
        reason = f"needs at least {setting} = {minimum} vectors to train; step 1 inserts {first:,}"
        return Work(skipped={"memory.streaming": f"{config.index.kind} {reason}"})
    vectors = experiment.vectors()
    rows = _rows(experiment)
    argument = {
        "engine": experiment.engine.model_dump_json(),
        "vectors": str(vectors.folder),
        "query_ids": vectors.query_ids,
        "rows": rows,
        "steps": steps,
        "settings": settings.model_dump(mode="json"),
    }
    conditions = {
        "memory.streaming": f"runbook {config.runbook.name}, {len(steps)} steps over {rows:,} vectors in the "
        f"data's order; an insert or a delete is one call; {settings.streaming_searches:,} searches for "
        f"{settings.k} neighbours in a search step, the same ones in each, timed from the first; recall is "
        "against exact search of what is there"
    }
    return Work(
        [Plan("memory", "streaming", "bench.suites.memory.streaming:follow", argument)], conditions=conditions
    )


def _rows(experiment: Experiment) -> int:
    return min(experiment.config.suite.memory.streaming_vectors, experiment.vector_count())


def _steps(experiment: Experiment) -> list[Step]:
    return runbook.steps(experiment.config.runbook, _rows(experiment))


class _Searched(NamedTuple):
    """One search step: the rows that were there, ascending, the searches, and the index's bytes in memory."""

    there: IntArray
    searches: list[Timed[list[str]]]
    size: int


def follow(argument: dict[str, Any]) -> Measurement:
    """In a child: follow the steps on an index that begins empty, then judge what was found in each."""
    settings, source = argument["settings"], Path(argument["vectors"])
    config = EngineConfig.read(argument["engine"]).index
    vectors = np.array(np.load(source / "vectors.npy", mmap_mode="r")[: argument["rows"]])
    queries = np.load(source / "queries.npy")
    order = np.random.default_rng(argument["seed"]).permutation(len(queries))
    asked = np.resize(order, settings["streaming_searches"])
    made = index.create(config, vectors.shape[1])
    there = np.zeros(len(vectors), dtype=bool)
    yield
    searched: dict[int, _Searched] = {}
    writes = []
    for number, step in enumerate((Step(*fields) for fields in argument["steps"]), 1):
        if step.operation == "search":
            searched[number] = _search(made, there, queries[asked], settings["k"])
        else:
            writes.append(_write(made, number, step, vectors))
            there[step.start : step.end] = step.operation == "insert"
    yield
    ids = [argument["query_ids"][row] for row in asked.tolist()]
    judged = [
        samples
        for number, step in searched.items()
        for samples in _judged(number, step, vectors, queries[asked], ids=ids, metric=config.metric)
    ]
    return trial.report(*writes, *judged)


def _write(made: Index, number: int, step: Step, vectors: FloatArray) -> Samples:
    rows = range(step.start, step.end)
    ids, inserted = [str(row) for row in rows], vectors[step.start : step.end]
    (timed,) = time_each(
        lambda ids: made.add(ids, inserted) if step.operation == "insert" else made.remove(ids), [ids]
    )
    samples = Samples("memory.streaming.write", step=str(number), operation=step.operation)
    samples.add(timed.seconds, items=len(rows))
    return samples


def _search(made: Index, there: IntArray, queries: FloatArray, k: int) -> _Searched:
    timed = time_each(lambda query: made.search(query[None], k).ids[0], queries, repeatable=True)
    return _Searched(np.flatnonzero(there), timed, sum(made.footprint().resident.values()))


def _judged(
    number: int, step: _Searched, vectors: FloatArray, queries: FloatArray, *, ids: list[str], metric: str
) -> list[Samples]:
    found = [[int(id_) for id_ in one.given] for one in step.searches]
    recalls = recalls_among(vectors, step.there, queries, found, k=10, metric=metric)
    samples = Samples("memory.streaming.search", step=str(number))
    for id_, one, recall in zip(ids, step.searches, recalls, strict=True):
        samples.add(one.seconds, one.start, query=id_, recall_at_10=recall)
    size = step.size / len(step.there)
    return [samples, Samples.of(size, "memory.streaming.bytes", step=str(number))]
