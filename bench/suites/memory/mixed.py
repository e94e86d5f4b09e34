"""Part `mixed`: searches between inserts and deletes of single vectors, one client, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from bench import trial
from bench.artifacts import Artifact
from bench.suites.base import Experiment
from bench.suites.judge import recalls_at_the_time
from bench.suites.memory import build
from bench.timing import Timed, time_each
from bench.trial import Measurement, Plan, Samples, Work
from bench.workload.truth import Mask
from brein import EngineConfig, index
from brein.index import Index
from brein.records import FloatArray

METRICS: tuple[str, ...] = ("memory.mixed",)
_WARM_UP = 100  # queries of the search that comes first, untimed
_TOGETHER = 200  # searches judged at once, each with its own flags of what was there


class Operation(NamedTuple):
    """What is done to the vector of this row, or with the query of this row."""

    kind: Literal["search", "insert", "delete"]
    row: int


def artifacts(experiment: Experiment) -> list[Artifact]:
    """What `plan` makes, known without making it."""
    if _obstacle(experiment):
        return []
    built = build.wanted(experiment, experiment.config.index, _rows(experiment) // 2)
    return [experiment.vector_artifact(), built]


def plan(experiment: Experiment) -> Work:
    """Build the index of the first half of the vectors, or say why that cannot be."""
    if obstacle := _obstacle(experiment):
        return Work(skipped={"memory.mixed": obstacle})
    settings, config = experiment.config.suite.memory, experiment.config.index
    rows, (inserts, deletes) = _rows(experiment), _changes(experiment)
    searches = settings.mixed_operations - inserts - deletes
    vectors = experiment.vectors()
    argument = {
        "engine": experiment.engine.model_dump_json(),
        "index": str(build.built(experiment, config, rows // 2)),
        "vectors": str(vectors.folder),
        "rows": rows,
        "searches": searches,
        "inserts": inserts,
        "deletes": deletes,
        "query_ids": vectors.query_ids,
        "settings": settings.model_dump(mode="json"),
    }
    conditions = {
        "memory.mixed": f"{searches:,} searches for {settings.k} neighbours, {inserts:,} inserts and "
        f"{deletes:,} deletes of single vectors, in random order, one client, in an index of {rows // 2:,} "
        f"vectors at first, after one search of {_WARM_UP} queries to warm up; recall is against exact "
        "search of what is there at the time"
    }
    return Work([Plan("memory", "mixed", "bench.suites.memory.mixed:mix", argument)], conditions=conditions)


def _rows(experiment: Experiment) -> int:
    return min(experiment.config.suite.memory.mixed_vectors, experiment.vector_count())


def _changes(experiment: Experiment) -> tuple[int, int]:
    """How many vectors are inserted and deleted."""
    settings = experiment.config.suite.memory
    return (
        round(settings.mixed_inserts * settings.mixed_operations),
        round(settings.mixed_deletes * settings.mixed_operations),
    )


def _obstacle(experiment: Experiment) -> str | None:
    """Why the part cannot be measured; None where it can."""
    if experiment.lacks_gpu():
        return "needs a GPU"
    settings, config = experiment.config.suite.memory, experiment.config.index
    half, (inserts, deletes) = _rows(experiment) // 2, _changes(experiment)
    minimum, setting = config.training_minimum
    for least, why in (
        (minimum, f"{config.kind} needs at least {setting} = {minimum} to train"),
        (inserts, f"{inserts:,} are to be inserted (suite.memory.mixed_inserts)"),
        (deletes + settings.k, f"{deletes:,} are to be deleted (suite.memory.mixed_deletes) and k left over"),
    ):
        if half < least:
            return f"{why}, half of the vectors taken are {half:,}"
    return None


def operations(
    searches: int, inserts: int, deletes: int, *, rows: int, queries: int, seed: int
) -> list[Operation]:
    """So many operations in random order, the same for the same seed.

    The first half of `rows` is there at first. A search is for any of `queries`; an insert is of any row that
    is not there, whether it never was or was deleted; a delete is of any that is.
    """
    random = np.random.default_rng(seed)
    kinds = random.permutation(["search"] * searches + ["insert"] * inserts + ["delete"] * deletes)
    there, absent = list(range(rows // 2)), list(range(rows // 2, rows))

    def moved(source: list[int], target: list[int]) -> int:
        place = int(random.integers(len(source)))
        source[place], source[-1] = source[-1], source[place]
        target.append(source.pop())
        return target[-1]

    made = []
    for kind in kinds.tolist():
        if kind == "search":
            row = int(random.integers(queries))
        else:
            row = moved(absent, there) if kind == "insert" else moved(there, absent)
        made.append(Operation(kind, row))
    return made


def mix(argument: dict[str, Any]) -> Measurement:
    """In a child: do one operation after another, then judge every search by what was there at the time."""
    settings, source = argument["settings"], Path(argument["vectors"])
    config = EngineConfig.read(argument["engine"]).index
    made = index.load(config, Path(argument["index"]) / "index")
    vectors = np.array(np.load(source / "vectors.npy", mmap_mode="r")[: argument["rows"]])
    queries = np.load(source / "queries.npy")
    counts = argument["searches"], argument["inserts"], argument["deletes"]
    todo = operations(*counts, rows=len(vectors), queries=len(queries), seed=argument["seed"])
    yield
    made.search(queries[:_WARM_UP], settings["k"])
    done = _do(made, todo, vectors, queries, settings["k"])
    yield
    writes = {kind: Samples("memory.mixed.write", operation=kind) for kind in ("insert", "delete")}
    stages = [
        Samples("memory.mixed.search", stage=str(stage + 1)) for stage in range(settings["mixed_stages"])
    ]
    recalls = _recalls(todo, done, vectors, queries, config.metric)
    for place, (operation, one) in enumerate(zip(todo, done, strict=True)):
        if operation.kind == "search":
            query, recall = argument["query_ids"][operation.row], recalls[place]
            stage = stages[place * len(stages) // len(todo)]
            stage.add(one.seconds, one.start, query=query, recall_at_10=recall)
        else:
            writes[operation.kind].add(one.seconds, one.start)
    return trial.report(*stages, *writes.values())


def _do(
    made: Index, todo: Sequence[Operation], vectors: FloatArray, queries: FloatArray, k: int
) -> list[Timed[list[str]]]:
    """Do all operations; each gives the ids it found, a write none."""

    def do(task: tuple[str, list[str], FloatArray]) -> list[str]:
        kind, ids, rows = task
        if kind == "search":
            return made.search(rows, k).ids[0]
        if kind == "insert":
            made.add(ids, rows)
        else:
            made.remove(ids)
        return []

    tasks = ((kind, [str(row)], (queries if kind == "search" else vectors)[row][None]) for kind, row in todo)
    return time_each(do, tasks)


def _recalls(
    todo: Sequence[Operation],
    done: Sequence[Timed[list[str]]],
    vectors: FloatArray,
    queries: FloatArray,
    metric: str,
) -> dict[int, float]:
    """Recall at 10 of each search, by its place in the stream, against exact search of what was there."""
    searches = _searches(todo, len(vectors))
    recalls: dict[int, float] = {}
    while together := list(islice(searches, _TOGETHER)):
        places = [place for place, _ in together]
        there = np.array([rows for _, rows in together])
        asked = queries[[todo[place].row for place in places]]
        found = [[int(id_) for id_ in done[place].given] for place in places]
        judged = recalls_at_the_time(vectors, there, asked, found, k=10, metric=metric)
        recalls.update(zip(places, judged, strict=True))
    return recalls


def _searches(todo: Sequence[Operation], rows: int) -> Iterator[tuple[int, Mask]]:
    """The place of each search in the stream, and which of the rows were there then: bool (rows,)."""
    there = np.arange(rows) < rows // 2
    for place, (kind, row) in enumerate(todo):
        if kind == "search":
            yield place, there.copy()
        else:
            there[row] = kind == "insert"
