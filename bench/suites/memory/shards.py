"""Part `shards`: what asking several shards costs one search, beside one shard of the same vectors."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from bench import trial
from bench.artifacts import Artifact
from bench.suites.base import Experiment
from bench.suites.memory import build
from bench.trial import Measurement, Plan, Samples, Work
from brein import EngineConfig, index
from brein.index import IndexConfig

METRICS: tuple[str, ...] = ("memory.shards",)


def artifacts(experiment: Experiment) -> list[Artifact]:
    """What `plan` makes, known without making it."""
    rows = _rows(experiment)
    if experiment.lacks_gpu() or rows < experiment.config.index.training_minimum[0]:
        return []
    built = [build.wanted(experiment, config, rows) for config in _configs(experiment).values()]
    return [experiment.vector_artifact(), *built]


def plan(experiment: Experiment) -> Work:
    """Build the configured index in each number of shards, or say why that cannot be."""
    if experiment.lacks_gpu():
        return Work(skipped={"memory.shards": "needs a GPU"})
    settings, config = experiment.config.suite.memory, experiment.config.index
    rows = _rows(experiment)
    minimum, setting = config.training_minimum
    if rows < minimum:
        return Work(
            skipped={
                "memory.shards": f"{config.kind} needs at least {setting} = {minimum} vectors to train, "
                f"{rows:,} were taken (suite.memory.shard_vectors)"
            }
        )
    vectors = experiment.vectors()
    argument = {
        "indexes": [
            [n, str(build.built(experiment, changed, rows)), EngineConfig(index=changed).model_dump_json()]
            for n, changed in _configs(experiment).items()
        ],
        "vectors": str(vectors.folder),
        "settings": settings.model_dump(mode="json"),
    }
    conditions = {
        "memory.shards": f"{settings.shard_searches:,} searches for {settings.k} neighbours a process for "
        f"each number of shards, in turn, among {rows:,} vectors, from a cold start"
    }
    return Work(
        [Plan("memory", "shards", "bench.suites.memory.shards:search", argument)], conditions=conditions
    )


def _rows(experiment: Experiment) -> int:
    return min(experiment.config.suite.memory.shard_vectors, experiment.vector_count())


def _configs(experiment: Experiment) -> dict[int, IndexConfig]:
    config = experiment.config.index
    return {n: config.model_copy(update={"shards": n}) for n in experiment.config.suite.memory.shard_counts}


def search(argument: dict[str, Any]) -> Measurement:
    """In a child: search one query in every number of shards, then the next, in an order that rotates."""
    settings = argument["settings"]
    queries = np.load(Path(argument["vectors"]) / "queries.npy")
    made = {
        shards: index.load(EngineConfig.read(engine).index, Path(folder) / "index")
        for shards, folder, engine in argument["indexes"]
    }
    order = np.random.default_rng(argument["seed"]).permutation(len(queries))
    yield
    samples = {shards: Samples("memory.shards", shards=str(shards)) for shards in made}
    begin = time.perf_counter()
    for turn in range(settings["shard_searches"]):
        query = queries[order[turn % len(queries)]][None]
        seconds = {}
        for shards in np.roll(list(made), turn).tolist():
            start = time.perf_counter()
            made[shards].search(query, settings["k"])
            seconds[shards] = time.perf_counter() - start
        for shards, taken in seconds.items():
            one = seconds.get(1) if shards != 1 else None
            samples[shards].add(taken, start - begin, reference=one)
    return trial.report(*samples.values())
