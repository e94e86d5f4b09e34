"""Suite `query`: text in, hits out, one client, through the whole engine.

Passes over one engine, each from empty caches: `cold` asks every query once, which is also where quality is
judged; the next, named after the kind of `popularity`, asks a stream of requests, as users do; the last ask
some queries among stated shares of the documents, chosen by a condition on their metadata.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench import process, quality, trial
from bench.artifacts import Artifact
from bench.machine import compute_threads, faiss
from bench.suites.base import Experiment
from bench.suites.judge import recalls_among
from bench.timing import Timed, time_each
from bench.trial import Measurement, Plan, Samples, Work
from bench.workload import embeddings, popularity
from bench.workload.dataset import IntArray, TextDataset
from bench.workload.embeddings import Vectors
from bench.workload.popularity import Stream
from brein import Document, Engine, EngineConfig, Hit, index, storage
from brein.storage import Where

_FILTERED_K = 10
_FIELD = "drawn"  # of every document's metadata: a number from 0 up, each given once, in a random order
_FIELDS = 1  # format of that metadata; a change makes every older artifact unreachable


def check(experiment: Experiment) -> None:
    """Refuse what cannot be measured, before anything is made.

    Raises:
        UsageError: the data set is no text, or has too few documents for the index or for k; a trace cannot
            be replayed.
    """
    dataset = experiment.text("query")
    experiment.check_size(len(dataset.documents), "documents", experiment.config.suite.query.k)
    _stream(experiment, dataset)


def artifacts(experiment: Experiment) -> list[Artifact]:
    """What `plan` makes, known without making it."""
    if experiment.lacks_gpu():
        return []
    dataset = experiment.text("query")
    return [
        embeddings.text_artifact(dataset, experiment.config.embedding),
        _engine_artifact(experiment, dataset),
    ]


def plan(experiment: Experiment) -> list[Work]:
    """Make what the trials need, and say what they are, or that a GPU is missing."""
    if experiment.lacks_gpu():
        return [Work(skipped={"query": "needs a GPU"})]
    dataset = experiment.text("query")
    settings = experiment.config.suite.query
    vectors = experiment.embedded(dataset)
    stream = _stream(experiment, dataset)
    argument = {
        "engine": experiment.engine.model_dump_json(),
        "folder": str(_ingested(experiment, dataset, vectors)),
        "vectors": str(vectors.folder),
        "documents": [document.id for document in dataset.documents],
        "queries": [[query.id, query.text] for query in dataset.queries],
        "judgements": {query.id: dict(dataset.judgements.get(query.id, {})) for query in dataset.queries},
        "stream": stream.model_dump_json(),
        "settings": settings.model_dump(mode="json"),
        "scratch": str(experiment.store.scratch()),
    }
    left_out = experiment.caches_left_out
    among = f"{len(dataset.documents):,} documents"
    kind = stream.popularity.kind
    conditions = {
        "query.search cold": f"{len(dataset.queries):,} queries, each once, among {among}{left_out}",
        f"query.search {kind}": f"{settings.requests:,} requests for {len(dataset.queries):,} queries, "
        f"{stream.described}, among {among}; caches empty at first{left_out}",
        "query.filtered": f"{min(settings.filtered_queries, len(dataset.queries)):,} queries for "
        f"{_FILTERED_K} hits a process for each share, among the documents whose number, drawn at random, is "
        "below a bound, caches empty, after one to warm up; recall is against exact search among these"
        + ("; on the CPU, as FAISS's GPU indexes do not filter" if experiment.wants_gpu else ""),
    }
    plan = Plan("query", f"cold and {kind}", "bench.suites.query:search", argument)
    return [Work([plan], conditions=conditions)]


def _stream(experiment: Experiment, dataset: TextDataset) -> Stream:
    ids = [query.id for query in dataset.queries]
    return popularity.for_queries(experiment.config.popularity, ids, experiment.config.suite.query.requests)


def _engine_artifact(experiment: Experiment, dataset: TextDataset) -> Artifact:
    config = experiment.config
    content = {
        "dataset": dataset.sha256,
        "vectors": embeddings.text_artifact(dataset, config.embedding).key,
        "index": config.index.build_parameters,
        "storage": config.storage.model_dump(mode="json"),
        "formats": [storage.FORMAT, index.FORMAT, _FIELDS],
        "faiss": faiss(),
        "numpy": np.__version__,
        "threads": compute_threads(config.trial.threads),
    }
    return Artifact("engines", content)


def _ingested(experiment: Experiment, dataset: TextDataset, vectors: Vectors) -> Path:
    """An engine's folder with the whole data set in it; trials open copies."""
    config = experiment.config

    def build(folder: Path) -> None:
        # Only what the key holds: neither caches nor a memory limit leave their mark on the documents.
        engine = EngineConfig(embedding=config.embedding, index=config.index, storage=config.storage)
        argument = {
            "engine": engine.model_dump_json(),
            "documents": [[document.id, document.text] for document in dataset.documents],
            "vectors": str(vectors.folder),
            "folder": str(folder),
        }
        process.call("bench.suites.query:ingest", argument, threads=compute_threads(config.trial.threads))

    return experiment.store.get_or_build(*_engine_artifact(experiment, dataset), build)


def ingest(argument: dict[str, Any]) -> dict[str, Any]:
    """In a child: fill an engine with documents embedded before."""
    config = EngineConfig.read(argument["engine"]).model_copy(update={"path": Path(argument["folder"])})
    vectors = np.load(Path(argument["vectors"]) / "vectors.npy")
    numbers = _numbers(len(argument["documents"])).tolist()
    documents = [
        Document(id_, text, {_FIELD: number})
        for (id_, text), number in zip(argument["documents"], numbers, strict=True)
    ]
    with Engine.open(config) as engine:
        engine.ingest(documents, vectors)
    return {}


def _numbers(documents: int) -> IntArray:
    """The number in each document's metadata, int64 (documents,): those below n choose n at random."""
    return np.random.default_rng(0).permutation(documents)


def search(argument: dict[str, Any]) -> Measurement:
    """In a child: ask the cold pass, then the stream, then among shares of the documents."""
    settings, queries = argument["settings"], argument["queries"]
    order = np.random.default_rng(argument["seed"]).permutation(len(queries))
    stream = Stream.read(argument["stream"])
    requests = stream.drawn(argument["seed"])
    with tempfile.TemporaryDirectory(dir=argument["scratch"]) as folder:
        copy = Path(folder) / "engine"
        shutil.copytree(argument["folder"], copy)
        config = EngineConfig.read(argument["engine"]).model_copy(update={"path": copy})
        with Engine.open(config) as engine:
            engine.warm_up()
            yield
            known = _answered(engine)
            cold = _ask_once(engine, [queries[row][1] for row in order], settings["k"])
            known = _answered(engine) - known
            popular = _ask_stream(engine, queries, requests, stream.popularity.kind, settings["k"])
            peak, kinds = trial.peak_memory(), trial.memory_by_kind()
            few = _Filtered(argument, order[: settings["filtered_queries"]])
            asked = {share: few.asked(engine, share) for share in settings["filter_shares"]}
    yield
    return trial.report(
        _cold(cold, [queries[row][0] for row in order], argument["judgements"]),
        popular,
        *(few.judged(timed, share, config.index.metric) for share, timed in asked.items()),
        doubts=_doubts(known, popular, stream.popularity.kind, dict(queries)),
        peak_memory=peak,
        **kinds,
    )


def _ask_once(engine: Engine, texts: list[str], k: int, where: Where | None = None) -> list[Timed[list[Hit]]]:
    """Ask each text while no cache knows it."""
    engine.clear_caches()
    known = set()

    def unknown() -> Iterator[str]:
        for text in texts:
            if text in known:
                engine.clear_caches()  # two queries may have one text
            known.add(text)
            yield text

    return time_each(lambda text: engine.search(text, k, where), unknown())


def _cold(
    timed: list[Timed[list[Hit]]], ids: list[str], judgements: Mapping[str, Mapping[str, int]]
) -> Samples:
    """The cold pass as samples, with its quality where there are judgements."""
    samples = Samples("query.search", phase="cold")
    for id_, one in zip(ids, timed, strict=True):
        judged: dict[str, Any] = {}
        if relevant := judgements[id_]:
            found = [hit.id for hit in one.given]
            judged["ndcg_at_10"] = quality.ndcg(found, relevant, 10)
            judged["mrr_at_10"] = quality.reciprocal_rank(found, relevant, 10)
            judged["recall_at_10"] = quality.recall(found, relevant, 10)
        samples.add(one.seconds, one.start, query=id_, **judged)
    return samples


def _ask_stream(engine: Engine, queries: list[list[str]], rows: IntArray, kind: str, k: int) -> Samples:
    """Ask a stream of requests, caches empty at its start, and see which of them the cache answered."""
    engine.clear_caches()
    answered = []

    def texts() -> Iterator[str]:
        for row in rows.tolist():
            answered.append(_answered(engine))
            yield queries[row][1]

    timed = time_each(lambda text: engine.search(text, k), texts())
    answered.append(_answered(engine))
    samples = Samples("query.search", phase=kind)
    for row, one, hits in zip(rows.tolist(), timed, np.diff(answered).tolist(), strict=True):
        samples.add(one.seconds, one.start, query=queries[row][0], cache_hit=hits > 0)
    return samples


def _doubts(known: int, popular: Samples, kind: str, texts: Mapping[str, str]) -> dict[str, str]:
    """What was answered from caches that should have been empty: of the cold pass, and of the stream."""
    asked = set()
    impossible = 0
    for row in popular.rows:
        text = texts[row["query"]]
        impossible += row["cache_hit"] and text not in asked
        asked.add(text)
    found = {"query.search cold": known, f"query.search {kind}": impossible}
    return {
        series: f"a cache answered {count} queries it should not have known"
        for series, count in found.items()
        if count
    }


def _answered(engine: Engine) -> int:
    """How many searches a level of the search cache has answered."""
    return sum(level.hits for level in engine.cache_stats()["search"].values())


class _Filtered:
    """Queries among shares of the documents: those whose number is below a bound."""

    def __init__(self, argument: Mapping[str, Any], rows: IntArray) -> None:
        self._rows = rows
        self._ids, self._texts = zip(*(argument["queries"][row] for row in rows.tolist()), strict=True)
        self._documents = argument["documents"]
        self._vectors = Path(argument["vectors"])
        self._numbers = _numbers(len(self._documents))

    def _bound(self, share: float) -> int:
        return max(1, round(share * len(self._documents)))

    def asked(self, engine: Engine, share: float) -> list[Timed[list[Hit]]]:
        """Ask among this share, after one query to warm up."""
        where = {_FIELD: {"lt": self._bound(share)}}
        engine.search("warm up", _FILTERED_K, where)
        return _ask_once(engine, list(self._texts), _FILTERED_K, where)

    def judged(self, timed: list[Timed[list[Hit]]], share: float, metric: str) -> Samples:
        """These queries as samples, with their recall against exact search among the same documents.

        Not against the judgements: of a small share of the documents, hardly any is judged.
        """
        row_of = {id_: row for row, id_ in enumerate(self._documents)}
        recalls = recalls_among(
            np.load(self._vectors / "vectors.npy", mmap_mode="r"),
            np.flatnonzero(self._numbers < self._bound(share)),
            np.load(self._vectors / "queries.npy")[self._rows],
            [[row_of[hit.id] for hit in one.given] for one in timed],
            k=_FILTERED_K,
            metric=metric,
        )
        samples = Samples("query.filtered", share=f"{share:g}")
        for id_, one, recall in zip(self._ids, timed, recalls, strict=True):
            samples.add(one.seconds, one.start, query=id_, recall_at_10=recall)
        return samples
