"""Part `search`: a built index, in a process that never loads the embedding model.

Timed, in this order: single searches, batches, searches among allowed ids. Quality is judged afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from bench import quality, trial
from bench.artifacts import Artifact
from bench.suites.base import Experiment
from bench.suites.judge import recalls_among
from bench.suites.memory import build
from bench.timing import time_each
from bench.trial import Measurement, Plan, Samples, Work
from bench.workload import truth
from bench.workload.dataset import VectorDataset
from brein import EngineConfig, index
from brein.index import Index, Neighbours
from brein.records import FloatArray

METRICS: tuple[str, ...] = (
    "memory.search",
    "memory.recall",
    "memory.filtered",
    "memory.index",
    "memory.peak",
)
_BATCH = 1_000  # queries in one call, where there are so many
_FILTERED_K = 10


class Searched(Protocol):
    """What single searches need of an index."""

    def search(self, queries: FloatArray, k: int) -> Neighbours:
        """See `brein.index.Index.search`."""


class Search(NamedTuple):
    """One timed search: the query's row, seconds since the first, seconds it took, ids found."""

    row: int
    start: float
    seconds: float
    ids: list[str]


def check(experiment: Experiment) -> None:
    """Refuse too few vectors for the index or for k."""
    experiment.check_size(experiment.vector_count(), "vectors", experiment.config.suite.memory.k)


def artifacts(experiment: Experiment) -> list[Artifact]:
    """What `plan` makes, known without making it."""
    if experiment.lacks_gpu():
        return []
    config, source, vectors = experiment.config.index, experiment.searched, experiment.vector_artifact()
    published = isinstance(source, VectorDataset) and source.truth_metric == config.metric
    built = build.wanted(experiment, config, experiment.vector_count())
    return [vectors, built, truth.wanted(vectors.key, config.metric, published)]


def plan(experiment: Experiment) -> Work:
    """Build the index, find the exact neighbours, plan the searches, or say that a GPU is missing."""
    if experiment.lacks_gpu():
        return Work(skipped=dict.fromkeys(METRICS, "needs a GPU"))
    settings, config = experiment.config.suite.memory, experiment.config.index
    vectors = experiment.vectors()
    folder = build.built(experiment, config, vectors.count)
    known, when = build.samples(folder)
    argument = {
        "engine": experiment.engine.model_dump_json(),
        "index": str(folder),
        "vectors": str(vectors.folder),
        "truth": str(truth.exact_distances(vectors, config.metric, experiment.store)),
        "query_ids": vectors.query_ids,
        "settings": settings.model_dump(mode="json"),
    }
    queries = len(vectors.query_ids)
    conditions = {
        "memory.search": f"{settings.searches:,} searches for {settings.k} neighbours over {queries:,} "
        f"queries a process, among {vectors.count:,} vectors, from a cold start",
        "memory.search.batch": f"{min(_BATCH, queries):,} queries for {settings.k} neighbours in one "
        f"call, for {settings.batch_seconds:g} s a process, after one call to warm up",
        "memory.filtered": f"{min(settings.filtered_searches, queries):,} searches for {_FILTERED_K} "
        "neighbours a process for each share, among ids drawn at random and given as a list, after one to "
        "warm up" + ("; on the CPU, as FAISS's GPU indexes do not filter" if experiment.wants_gpu else ""),
        "memory.build": when,
        "memory.index.bytes": "resident, of the index as searched; ids count the table of texts that FAISS's "
        "labels stand for",
        "memory.index.projected_bytes": f"from {vectors.count:,} vectors of {vectors.dimension} components",
    }
    trials = [Plan("memory", "search", "bench.suites.memory.search:search", argument)]
    return Work(trials, known, conditions)


def search(argument: dict[str, Any]) -> Measurement:
    """In a child: search the built index one by one, in batches and filtered; then judge and weigh."""
    settings = argument["settings"]
    made = index.load(EngineConfig.read(argument["engine"]).index, Path(argument["index"]) / "index")
    queries = np.load(Path(argument["vectors"]) / "queries.npy")
    random = np.random.default_rng(argument["seed"])
    order = random.permutation(len(queries))
    allowed = {
        share: np.sort(random.choice(len(made), max(1, round(share * len(made))), replace=False))
        for share in settings["filter_shares"]
    }
    yield
    one_by_one = singles(made, queries, order, settings)
    peak, kinds = Samples.of(trial.peak_memory(), "memory.peak"), trial.memory_by_kind()
    batches = _batches(made, queries[:_BATCH], settings["k"], settings["batch_seconds"])
    few = order[: settings["filtered_searches"]]
    filtered = {share: _filtered(made, queries, few, rows) for share, rows in allowed.items()}
    yield
    judge = Judge(argument, queries)
    return trial.report(
        judge.singles(made, one_by_one),
        peak,
        batches,
        *(judge.filtered(share, allowed[share], found) for share, found in filtered.items()),
        *_sizes(made),
        **kinds,
    )


def singles(
    made: Searched, queries: FloatArray, order: npt.NDArray[np.int64], settings: dict[str, Any]
) -> list[Search]:
    """Search the queries one by one in the given order, again from its start where it ends."""
    rows = [int(order[turn % len(queries)]) for turn in range(settings["searches"])]
    return _one_by_one(queries, rows, lambda query: made.search(query, settings["k"]).ids[0])


def _one_by_one(
    queries: FloatArray, rows: list[int], search: Callable[[FloatArray], list[str]]
) -> list[Search]:
    timed = time_each(search, (queries[row][None] for row in rows), repeatable=True)
    return [Search(row, *one) for row, one in zip(rows, timed, strict=True)]


def _batches(made: Index, queries: FloatArray, k: int, least: float) -> Samples:
    """Search all `queries` in one call, again and again for `least` seconds."""
    samples = Samples("memory.search.batch")
    made.search(queries, k)
    begin = end = time.perf_counter()
    while end - begin < least:
        start = time.perf_counter()
        made.search(queries, k)
        end = time.perf_counter()
        samples.add(end - start, start - begin, items=len(queries))
    return samples


def _filtered(
    made: Index, queries: FloatArray, rows: npt.NDArray[np.int64], allowed: npt.NDArray[np.int64]
) -> list[Search]:
    """Search each of the queries in `rows` once, among the ids of the vectors `allowed`."""
    among = [str(row) for row in allowed]
    made.search(queries[rows[0]][None], _FILTERED_K, among)
    return _one_by_one(queries, rows.tolist(), lambda query: made.search(query, _FILTERED_K, among).ids[0])


def _sizes(made: Index) -> list[Samples]:
    """Bytes per vector, and for a million of them: centroids and codebooks do not grow with their number."""
    resident, on_disk = made.footprint()
    vectors, total, fixed = len(made), sum(resident.values()), resident.get("centroids", 0)
    sizes = [
        Samples.of(size / vectors, series, part=part)
        for series, parts in (("memory.index.bytes", resident), ("memory.index.disk_bytes", on_disk))
        for part, size in parts.items()
    ]
    if on_disk:
        sizes.append(Samples.of(sum(on_disk.values()) / vectors, "memory.index.disk_bytes"))
    return [
        *sizes,
        Samples.of(total / vectors, "memory.index.bytes"),
        Samples.of(fixed + 1e6 * (total - fixed) / vectors, "memory.index.projected_bytes"),
    ]


class Judge:
    """Compares what was found with the exact neighbours."""

    def __init__(self, argument: dict[str, Any], queries: FloatArray) -> None:
        self._metric = EngineConfig.read(argument["engine"]).index.metric
        self._vectors = np.load(Path(argument["vectors"]) / "vectors.npy", mmap_mode="r")
        self._queries = queries
        self._query_ids = argument["query_ids"]
        self._nearest = np.load(argument["truth"])

    def singles(self, made: Searched, timed: list[Search]) -> Samples:
        """The timed searches as samples, each query's first one with its recall.

        Recall at 100 is that of one more search, in a batch, because the timed ones ask for fewer.
        """
        rows = list(dict.fromkeys(search.row for search in timed))
        deep = dict(zip(rows, made.search(self._queries[rows], truth.DEPTH).ids, strict=True))
        samples = Samples("memory.search")
        for search in timed:
            recalls: dict[str, Any] = {}
            if (more := deep.pop(search.row, None)) is not None:
                exact = self._nearest[search.row]
                recalls = self._recalls(search.row, search.ids, exact, 1, 10)
                recalls |= self._recalls(search.row, more, exact, truth.DEPTH)
            samples.add(search.seconds, search.start, query=self._query_ids[search.row], **recalls)
        return samples

    def filtered(self, share: float, allowed: npt.NDArray[np.int64], timed: list[Search]) -> Samples:
        """The timed filtered searches as samples, each with its recall among the allowed."""
        queries = self._queries[[search.row for search in timed]]
        found = [[int(id_) for id_ in search.ids] for search in timed]
        recalls = recalls_among(self._vectors, allowed, queries, found, k=_FILTERED_K, metric=self._metric)
        samples = Samples("memory.filtered", share=f"{share:g}")
        for search, recall in zip(timed, recalls, strict=True):
            samples.add(search.seconds, search.start, query=self._query_ids[search.row], recall_at_10=recall)
        return samples

    def _recalls(self, row: int, ids: list[str], exact: npt.NDArray[Any], *ks: int) -> dict[str, Any]:
        found = [int(id_) for id_ in ids]
        away = truth.distances(self._vectors[found], self._queries[row], self._metric).tolist()
        return {f"recall_at_{k}": quality.neighbour_recall(found, away, exact.tolist(), k) for k in ks}
