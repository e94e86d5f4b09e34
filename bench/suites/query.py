"""Suite `query`: text in, hits out, one client, through the whole engine.

Two passes over one engine: `cold` asks every query once with empty caches, which is also where quality is
judged; `zipf` then clears the caches and asks a skewed stream, as users do.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from bench import process, quality, trial
from bench.machine import compute_threads, faiss
from bench.suites.base import Experiment
from bench.trial import Measurement, Plan, Samples, Work
from bench.workload.dataset import TextDataset
from bench.workload.embeddings import Vectors
from bench.workload.popularity import zipf_stream
from brein import Document, Engine, EngineConfig, Hit, index, storage


def check(experiment: Experiment) -> None:
    """Refuse what cannot be measured, before anything is made.

    Raises:
        UsageError: the data set is no text, or has too few documents for the index or for k.
    """
    documents = experiment.text("query").documents
    experiment.check_size(len(documents), "documents", experiment.config.suite.query.k)


def plan(experiment: Experiment) -> list[Work]:
    """Make what the trials need, and say what they are, or that a GPU is missing."""
    if experiment.lacks_gpu():
        return [Work(skipped={"query": "needs a GPU"})]
    dataset = experiment.text("query")
    settings = experiment.config.suite.query
    vectors = experiment.embedded(dataset)
    argument = {
        "engine": experiment.engine.model_dump_json(),
        "folder": str(_ingested(experiment, dataset, vectors)),
        "queries": [[query.id, query.text] for query in dataset.queries],
        "judgements": {query.id: dict(dataset.judgements.get(query.id, {})) for query in dataset.queries},
        "settings": settings.model_dump(mode="json"),
        "scratch": str(experiment.store.scratch()),
    }
    left_out = experiment.caches_left_out
    among = f"{len(dataset.documents):,} documents"
    conditions = {
        "query.search cold": f"{len(dataset.queries):,} queries, each once, among {among}{left_out}",
        "query.search zipf": f"{settings.requests:,} requests for {len(dataset.queries):,} queries of Zipf "
        f"exponent {settings.zipf_exponent:g}, among {among}; caches empty at first{left_out}",
    }
    plan = Plan("query", "cold and zipf", "bench.suites.query:search", argument)
    return [Work([plan], conditions=conditions)]


def _ingested(experiment: Experiment, dataset: TextDataset, vectors: Vectors) -> Path:
    """An engine's folder with the whole data set in it; trials open copies."""
    config = experiment.config
    content = {
        "dataset": dataset.sha256,
        "vectors": vectors.key,
        "index": config.index.build_parameters,
        "storage": config.storage.model_dump(mode="json"),
        "formats": [storage.FORMAT, index.FORMAT],
        "faiss": faiss(),
    }

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

    return experiment.store.get_or_build("engines", content, build)


def ingest(argument: dict[str, Any]) -> dict[str, Any]:
    """In a child: fill an engine with documents embedded before."""
    config = EngineConfig.read(argument["engine"]).model_copy(update={"path": Path(argument["folder"])})
    vectors = np.load(Path(argument["vectors"]) / "vectors.npy")
    with Engine.open(config) as engine:
        engine.ingest([Document(*fields) for fields in argument["documents"]], vectors)
    return {}


def search(argument: dict[str, Any]) -> Measurement:
    """In a child: ask the cold pass, then the Zipf stream."""
    settings, queries = argument["settings"], argument["queries"]
    order = np.random.default_rng(argument["seed"]).permutation(len(queries))
    stream = zipf_stream(len(queries), settings["requests"], settings["zipf_exponent"], argument["seed"])
    with tempfile.TemporaryDirectory(dir=argument["scratch"]) as folder:
        copy = Path(folder) / "engine"
        shutil.copytree(argument["folder"], copy)
        config = EngineConfig.read(argument["engine"]).model_copy(update={"path": copy})
        with Engine.open(config) as engine:
            engine.warm_up()
            yield
            cold, hits = _ask(engine, queries, order, "cold", settings["k"])
            zipf, _ = _ask(engine, queries, stream, "zipf", settings["k"])
            kinds = trial.memory_by_kind()
    for row in cold.rows:
        relevant = argument["judgements"][row["query"]]
        if relevant:
            found = [hit.id for hit in hits[row["query"]]]
            row["ndcg_at_10"] = quality.ndcg(found, relevant, 10)
            row["recall_at_10"] = quality.recall(found, relevant, 10)
    return trial.report(cold, zipf, peak_memory=trial.peak_memory(), **kinds)


def _ask(
    engine: Engine, queries: list[list[str]], rows: Iterable[int], phase: str, k: int
) -> tuple[Samples, dict[str, list[Hit]]]:
    """Ask one pass with caches empty at its start; time each search, and see whether the cache answered."""
    engine.clear_caches()
    samples, hits = Samples("query.search", phase=phase), {}
    asked = set()
    answered = _answered(engine)
    begin = time.perf_counter()
    for row in rows:
        id_, text = queries[row]
        if phase == "cold" and text in asked:
            engine.clear_caches()  # two queries may have one text
        asked.add(text)
        start = time.perf_counter()
        hits[id_] = engine.search(text, k)
        end = time.perf_counter()
        before, answered = answered, _answered(engine)
        hit = answered > before if phase == "zipf" else None
        samples.add(end - start, start - begin, query=id_, cache_hit=hit)
    return samples, hits


def _answered(engine: Engine) -> int:
    """How many searches a level of the search cache has answered."""
    return sum(level.hits for level in engine.cache_stats()["search"].values())
