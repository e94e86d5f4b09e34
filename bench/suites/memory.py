"""Suite `memory`: the index alone, vector in and ids out, and the ingestion of documents.

Its trials: `search` loads a built index in a process that never loads the embedding model; `ingest` embeds,
indexes and stores a fixed set of documents afresh. The build itself is timed once, when it happens.
"""

from __future__ import annotations

import json
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bench import process, quality, trial
from bench.machine import compute_threads, describe, versions
from bench.suites.base import Experiment
from bench.trial import Measurement, Plan, Samples
from bench.workload import truth
from bench.workload.dataset import TextDataset
from bench.workload.embeddings import Vectors
from brein import Document, Engine, EngineConfig, embedding, index


def check(experiment: Experiment) -> None:
    """Refuse what cannot be measured, before anything is made.

    Raises:
        UsageError: there are too few vectors or documents for the index or for k.
    """
    settings = experiment.config.suite.memory
    experiment.check_size(experiment.vector_count(), "vectors", settings.k)
    if isinstance(experiment.dataset, TextDataset):
        documents = min(settings.ingest_documents, len(experiment.dataset.documents))
        experiment.check_size(documents, "documents to ingest (suite.memory.ingest_documents)", 1)


def plan(experiment: Experiment) -> list[Plan]:
    """Make what the trials need, and say what they are."""
    settings = experiment.config.suite.memory
    vectors = experiment.vectors()
    built = _built_index(experiment, vectors)
    search = {
        "engine": experiment.config.engine.model_dump_json(),
        "dimension": vectors.dimension,
        "index": str(built),
        "vectors": str(vectors.folder),
        "truth": str(truth.exact_distances(vectors, experiment.config.index.metric, experiment.store)),
        "query_ids": vectors.query_ids,
        "settings": settings.model_dump(mode="json"),
    }
    known, built_when = _build_samples(built)
    conditions = {
        "memory.search": f"{settings.searches:,} searches over {len(vectors.query_ids):,} queries a process",
        "memory.build": built_when,
        "memory.index.projected_bytes": f"from {vectors.count:,} vectors of {vectors.dimension} components",
    }
    plans = [Plan("memory", "search", "bench.suites.memory:search", search, conditions, known)]
    if isinstance(experiment.dataset, TextDataset):
        plans.append(_ingest_plan(experiment, experiment.dataset))
    return plans


# --- building --------------------------------------------------------------------------------------


def _built_index(experiment: Experiment, vectors: Vectors) -> Path:
    """The folder of the built index."""
    config = experiment.config
    content = {
        "vectors": vectors.key,
        "index": config.index.build_parameters,
        "format": index.FORMAT,
        "faiss": versions()["faiss-cpu"],
        "threads": compute_threads(config.trial.threads),
    }

    def build(folder: Path) -> None:
        argument = {
            "engine": config.engine.model_dump_json(),
            "vectors": str(vectors.folder),
            "folder": str(folder),
        }
        threads = compute_threads(config.trial.threads)
        process.call("bench.suites.memory:build", argument, threads=threads)

    return experiment.store.get_or_build("indexes", content, build)


def build(argument: dict[str, Any]) -> dict[str, Any]:
    """In a child: build and save the index, and say what that took.

    `fixed_bytes` is what the trained index holds before the first vector: centroids and codebooks.
    """
    folder = Path(argument["folder"])
    vectors = np.load(Path(argument["vectors"]) / "vectors.npy")
    made = index.create(EngineConfig.read(argument["engine"]).index, vectors.shape[1])
    start = time.perf_counter()
    made.train(vectors)
    trained = time.perf_counter()
    fixed = _held(made)
    ids = [str(row) for row in range(len(vectors))]
    resumed = time.perf_counter()
    made.add(ids, vectors)
    end = time.perf_counter()
    index.save(made, folder / "index")
    facts = {
        "seconds": end - resumed + trained - start,
        "bytes": _held(made),
        "fixed_bytes": fixed,
        "vectors": len(vectors),
        "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe().fingerprint,
    }
    (folder / "build.json").write_text(json.dumps(facts))
    return {}


def _held(made: index.Index) -> int:
    return sum(made.footprint().resident.values())


def _build_samples(folder: Path) -> tuple[list[Samples], str]:
    """What the build took and made, and when that was. Another machine's build time is left out."""
    facts = json.loads((folder / "build.json").read_text())
    per_vector = (facts["bytes"] - facts["fixed_bytes"]) / facts["vectors"]
    values = {
        "memory.index.bytes": facts["bytes"] / facts["vectors"],
        "memory.index.projected_bytes": facts["fixed_bytes"] + 1e6 * per_vector,
    }
    when = f"built once, {facts['ended_at']}"
    if facts["machine"] == describe().fingerprint:
        values["memory.build"] = facts["seconds"]
    else:
        when += " on another machine: its time is not shown"
    return [_one_sample(series, value) for series, value in values.items()], when


def _one_sample(series: str, value: float) -> Samples:
    samples = Samples(series)
    samples.add(value)
    return samples


# --- searching -------------------------------------------------------------------------------------


def search(argument: dict[str, Any]) -> Measurement:
    """In a child: time single-query searches of the built index."""
    settings = argument["settings"]
    folder = Path(argument["index"])
    made = index.load(EngineConfig.read(argument["engine"]).index, folder / "index")
    queries = np.load(Path(argument["vectors"]) / "queries.npy")
    order = np.random.default_rng(argument["seed"]).permutation(len(queries))
    yield
    for row in range(settings["warmup"]):
        made.search(queries[row % len(queries)][None], settings["k"])
    timed = []
    begin = time.perf_counter()
    for turn in range(settings["searches"]):
        row = int(order[turn % len(queries)])
        query = queries[row][None]
        start = time.perf_counter()
        found = made.search(query, settings["k"])
        end = time.perf_counter()
        timed.append((row, start - begin, end - start, found.ids[0]))
    peak = _one_sample("memory.peak", trial.peak_memory())
    kinds = trial.memory_by_kind()
    return trial.report(_judged(argument, timed), peak, **kinds)


def _judged(argument: dict[str, Any], timed: list[tuple[int, float, float, list[str]]]) -> Samples:
    """The timed searches as samples, each query's first one with its recall."""
    source, metric = Path(argument["vectors"]), EngineConfig.read(argument["engine"]).index.metric
    vectors = np.load(source / "vectors.npy", mmap_mode="r")
    queries = np.load(source / "queries.npy")
    nearest = np.load(argument["truth"])
    samples = Samples("memory.search")
    judged = set()
    for row, start, seconds, ids in timed:
        recall = None
        if row not in judged:
            judged.add(row)
            found = [int(id_) for id_ in ids]
            away = truth.distances(vectors[found], queries[row], metric).tolist()
            recall = quality.neighbour_recall(found, away, nearest[row].tolist(), 10)
        samples.add(seconds, start, query=argument["query_ids"][row], recall_at_10=recall)
    return samples


# --- ingesting -------------------------------------------------------------------------------------


def _ingest_plan(experiment: Experiment, dataset: TextDataset) -> Plan:
    wanted = experiment.config.suite.memory.ingest_documents
    documents = dataset.documents[:wanted]
    spans = embedding.tokenizer(experiment.config.embedding)([document.text for document in documents])
    most = getattr(experiment.config.embedding, "max_tokens", None) or max(map(len, spans))
    lengths = [min(len(tokens), most) for tokens in spans]
    argument = {
        "engine": experiment.config.engine.model_dump_json(),
        "documents": [[document.id, document.text] for document in documents],
        "scratch": str(experiment.store.scratch()),
    }
    conditions = {
        "memory.ingest": f"{len(lengths):,} documents of {np.mean(lengths):.0f} tokens on average, "
        f"{np.median(lengths):.0f} in the middle, {max(lengths)} at most"
    }
    return Plan("memory", "ingest", "bench.suites.memory:ingest", argument, conditions)


def ingest(argument: dict[str, Any]) -> Measurement:
    """In a child: time the ingestion of fixed documents into a new engine on disk, model already loaded."""
    documents = [Document(*fields) for fields in argument["documents"]]
    with tempfile.TemporaryDirectory(dir=argument["scratch"]) as folder:
        config = EngineConfig.read(argument["engine"]).model_copy(update={"path": Path(folder) / "engine"})
        with Engine.open(config) as engine:
            engine.warm_up()
            yield
            start = time.perf_counter()
            engine.ingest(documents)
            seconds = time.perf_counter() - start
    samples = Samples("memory.ingest")
    samples.add(seconds, items=len(documents))
    return trial.report(samples)
