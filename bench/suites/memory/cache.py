"""Part `cache`: the search cache under a Zipf stream of requests, level by level."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import trial
from bench.suites.base import Experiment
from bench.trial import Measurement, Plan, Samples, Work
from bench.workload import prose
from bench.workload.popularity import zipf_stream
from brein import EngineConfig, Hit
from brein.cache import CacheConfig, TieredCache, codec, open_caches

METRICS: tuple[str, ...] = ("memory.cache",)
_HITS, _WORDS = 10, 30  # of a value: ten hits with a text of 200 characters each


def plan(experiment: Experiment) -> Work:
    """Plan the stream, or say that there is no level to ask."""
    settings, engine = experiment.config.suite.memory, experiment.engine
    levels, left_out = _levels(engine.cache), experiment.caches_left_out
    if not levels:
        return Work(skipped={"memory.cache": f"every level is switched off{left_out}"})
    argument = {
        "engine": engine.model_dump_json(),
        "levels": levels,
        "settings": settings.model_dump(mode="json"),
        "exponent": experiment.config.suite.query.zipf_exponent,
        "scratch": str(experiment.store.scratch()),
    }
    restarts = "; at every part but the first one more level, the fastest first, begins empty again"
    conditions = {
        "memory.cache": f"{settings.cache_requests:,} Zipf requests for {settings.cache_keys:,} keys, one "
        f"client, values of {_HITS} hits"
        + (f"; in {len(levels)} parts{restarts}" if len(levels) > 1 else "")
        + left_out
    }
    return Work(
        [Plan("memory", "cache", "bench.suites.memory.cache:request", argument)], conditions=conditions
    )


def _levels(config: CacheConfig) -> list[str]:
    """The levels that may hold something, the fastest first."""
    sizes = {
        "l1": config.search.maxsize,
        "l2": config.l2.enabled and config.l2.maxsize,
        "l3": config.l3.enabled and config.l3.maxsize,
    }
    return [level for level, size in sizes.items() if size]


def request(argument: dict[str, Any]) -> Measurement:
    """In a child: ask the cache for a stream of keys, and compute what no level has.

    Slower levels are only asked for what the faster ones have lost, so the stream comes in as many parts as
    there are levels, and before each part one more of the faster levels is emptied, as a restart does.
    """
    settings, levels = argument["settings"], argument["levels"]
    keys, requests = settings["cache_keys"], settings["cache_requests"]
    values = _values(keys, argument["seed"])
    stream = zipf_stream(keys, requests, argument["exponent"], argument["seed"])
    with tempfile.TemporaryDirectory(dir=argument["scratch"]) as folder:
        caches = open_caches(EngineConfig.read(argument["engine"]).cache, Path(folder))
        try:
            yield
            timed = {level: Samples("memory.cache", level=level) for level in levels}
            begin = time.perf_counter()
            for number, part in enumerate(np.array_split(stream, len(levels))):
                for level in levels[:number]:
                    caches.search.levels[level].clear()
                _ask(caches.search, part.tolist(), values, timed, begin)
            stats = caches.search.stats()
        finally:
            caches.close()
    answered = [
        Samples.of(len(samples.rows) / requests, "memory.cache.answered", level=level)
        for level, samples in timed.items()
    ]
    hit_rates = [
        Samples.of(rate, "memory.cache.hit_rate", level=level)
        for level in levels
        if (rate := stats[level].hit_rate) is not None
    ]
    return trial.report(*timed.values(), *answered, *hit_rates)


def _ask(
    cache: TieredCache, keys: list[int], values: list[bytes], timed: dict[str, Samples], begin: float
) -> None:
    """Ask for each of `keys`, and add its time to the samples of the level that answers."""
    for key in keys:
        name, compute = f"query {key}", partial(values.__getitem__, key)
        start = time.perf_counter()
        _, level = cache.get_or_compute(name, compute)
        end = time.perf_counter()
        if level in timed:
            timed[level].add(end - start, start - begin)


def _values(count: int, seed: int) -> list[bytes]:
    """Search results in the form the engine caches them."""
    found = iter(prose.texts(count * _HITS, _WORDS, seed))
    return [
        codec.encode_hits([Hit(f"document {n}", 1 / (n + 1), next(found)) for n in range(_HITS)])
        for _ in range(count)
    ]
