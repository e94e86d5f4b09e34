"""Part `cache`: the search cache under a stream of requests, level by level.

Its entries age by a virtual clock, on which the requests arrive evenly: hit rates depend on how long entries
live and on how soon they are asked for again, however fast this machine asks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import trial
from bench.suites.base import Experiment
from bench.timing import Timed, time_each
from bench.trial import Measurement, Plan, Samples, Work
from bench.workload import popularity, prose
from bench.workload.dataset import IntArray
from bench.workload.popularity import Stream
from brein import EngineConfig, Hit, Retrieval
from brein.cache import CacheConfig, TieredCache, codec, open_caches
from brein.records import Analysis, Complexity, Stage

METRICS: tuple[str, ...] = ("memory.cache",)
_HITS, _WORDS = 10, 30  # of a value: ten hits with a text of 200 characters each


def check(experiment: Experiment) -> None:
    """Refuse a trace that cannot be replayed."""
    _stream(experiment)


def plan(experiment: Experiment) -> Work:
    """Plan the stream, or say that there is no level to ask."""
    settings, engine = experiment.config.suite.memory, experiment.engine
    levels, left_out = _levels(engine.cache), experiment.caches_left_out
    if not levels:
        return Work(skipped={"memory.cache": f"every level is switched off{left_out}"})
    stream = _stream(experiment)
    argument = {
        "engine": engine.model_dump_json(),
        "levels": levels,
        "settings": settings.model_dump(mode="json"),
        "stream": stream.model_dump_json(),
        "scratch": str(experiment.store.scratch()),
    }
    restarts = "; at every part but the first one more level, the fastest first, begins empty again"
    conditions = {
        "memory.cache": f"{settings.cache_requests:,} requests for {settings.cache_keys:,} keys, "
        f"{stream.described}, one client, values of {_HITS} hits; one request every "
        f"{1 / settings.cache_rate:g} s of a virtual clock, by which entries age"
        + (f"; in {len(levels)} parts{restarts}" if len(levels) > 1 else "")
        + left_out
    }
    return Work(
        [Plan("memory", "cache", "bench.suites.memory.cache:request", argument)], conditions=conditions
    )


def _stream(experiment: Experiment) -> Stream:
    settings = experiment.config.suite.memory
    return popularity.for_keys(experiment.config.popularity, settings.cache_keys, settings.cache_requests)


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
    values = _values(settings["cache_keys"], argument["seed"])
    stream = Stream.read(argument["stream"]).drawn(argument["seed"])
    clock = _VirtualClock(settings["cache_rate"])
    with tempfile.TemporaryDirectory(dir=argument["scratch"]) as folder:
        caches = open_caches(EngineConfig.read(argument["engine"]).cache, Path(folder), clock)
        try:
            yield
            held = sum(level.entries for level in caches.search.stats().values())
            timed = _ask(caches.search, levels, stream, values, clock)
            stats = caches.search.stats()
        finally:
            caches.close()
    latencies = {level: Samples("memory.cache", level=level) for level in levels}
    for one in timed:
        if one.given in latencies:
            latencies[one.given].add(one.seconds, one.start)
    answered = [
        Samples.of(len(samples.rows) / len(stream), "memory.cache.answered", level=level)
        for level, samples in latencies.items()
    ]
    hit_rates = [
        Samples.of(rate, "memory.cache.hit_rate", level=level)
        for level in levels
        if (rate := stats[level].hit_rate) is not None
    ]
    doubts = {"memory.cache": f"caches held {held} entries at the start, not none"} if held else {}
    return trial.report(*latencies.values(), *answered, *hit_rates, doubts=doubts)


class _VirtualClock:
    """When the last request arrived, in seconds, where `rate` requests come in a second."""

    def __init__(self, rate: float) -> None:
        self.arrived = 0
        self._rate = rate

    def __call__(self) -> float:
        return self.arrived / self._rate


def _ask(
    cache: TieredCache, levels: list[str], stream: IntArray, values: list[bytes], clock: _VirtualClock
) -> list[Timed[str]]:
    """Ask for the keys of a stream, as they arrive; timed, with the level that answered."""

    def arriving() -> Iterator[tuple[str, Callable[[], bytes]]]:
        for number, part in enumerate(np.array_split(stream, len(levels))):
            for level in levels[:number]:
                cache.levels[level].clear()
            for key in part.tolist():
                clock.arrived += 1
                yield f"query {key}", partial(values.__getitem__, key)

    return time_each(lambda request: cache.get_or_compute(*request)[1], arriving())


def _values(count: int, seed: int) -> list[bytes]:
    """Search results in the form the engine caches them."""
    texts = iter(prose.texts(count * (_HITS + 1), _WORDS, seed))
    return [codec.encode_retrieval(_retrieval(texts)) for _ in range(count)]


def _retrieval(texts: Iterator[str]) -> Retrieval:
    query = next(texts)
    hits = tuple(Hit(f"document {n}", 1 / (n + 1), next(texts)) for n in range(_HITS))
    analysis = Analysis(query, query, Complexity(0.5, 0.5, 0.5, 0.5), "two_stage", 0.01)
    stages = tuple(Stage(name, 0.001, 100, 100) for name in ("lexical", "vectors", "fusion", "rerank"))
    return Retrieval(hits, analysis, "two_stage", stages)
