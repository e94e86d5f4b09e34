"""Part `coding`: what the bits of a scalar code keep, of vectors and of their residuals.

No index takes part: exact search compares the queries with every vector as its code decodes it, so what is
lost is lost by the code alone. Nothing is timed, and it is done once.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from bench import process, quality
from bench.artifacts import Artifact
from bench.machine import faiss, usable_cores
from bench.suites.base import Experiment
from bench.trial import Samples, Work
from bench.workload import truth
from brein.index import VectorQuantizer, normalised
from brein.index.scalar import QType, qtype_of
from brein.records import FloatArray

METRICS: tuple[str, ...] = ("memory.coding",)
FORMAT = 2  # of `codings.json` and of how it comes about; a change makes every older artifact unreachable
CLUSTERS = 256  # whose number takes one byte
_QTYPES: tuple[QType, ...] = ("QT_4bit", "QT_6bit", "QT_8bit")
_K = 10


def artifacts(experiment: Experiment) -> list[Artifact]:
    """What `plan` makes, known without making it."""
    rows = _rows(experiment)
    return [] if rows < CLUSTERS else [experiment.vector_artifact(), _wanted(experiment, rows)]


def plan(experiment: Experiment) -> Work:
    """Code, decode and search, or find it done."""
    rows = _rows(experiment)
    if rows < CLUSTERS:
        reason = f"needs {CLUSTERS} vectors to find as many clusters, got {rows}"
        return Work(skipped={"memory.coding": reason})
    vectors, wanted = experiment.vectors(), _wanted(experiment, rows)

    def build(folder: Path) -> None:
        argument = {**wanted.content, "source": str(vectors.folder), "folder": str(folder)}
        process.call("bench.suites.memory.coding:compute", argument, threads=usable_cores())

    folder = experiment.store.get_or_build(*wanted, build)
    made = json.loads((folder / "codings.json").read_text())
    asked = min(wanted.content["queries"], len(vectors.query_ids))
    centroids = 4 * CLUSTERS * vectors.dimension
    conditions = {
        "memory.coding": f"{rows:,} vectors, {asked:,} queries; residuals from {CLUSTERS} centroids, whose "
        f"{centroids:,} bytes are not counted, their numbers are"
    }
    return Work(known=[_samples(coding, vectors.query_ids) for coding in made], conditions=conditions)


def _rows(experiment: Experiment) -> int:
    return min(experiment.config.suite.memory.coding_vectors, experiment.vector_count())


def _wanted(experiment: Experiment, rows: int) -> Artifact:
    content = {
        "vectors": experiment.vector_artifact().key,
        "rows": rows,
        "queries": experiment.config.suite.memory.coding_queries,
        "metric": experiment.config.index.metric,
        "format": FORMAT,
        "faiss": faiss(),
        "numpy": np.__version__,
    }
    return Artifact("codings", content)


def _samples(coding: dict[str, Any], query_ids: tuple[str, ...]) -> Samples:
    samples = Samples("memory.coding", qtype=coding["qtype"], of=coding["of"])
    for query, recall in zip(query_ids, coding["recalls"], strict=False):
        samples.add(coding["bytes"], query=query, recall_at_10=recall)
    return samples


def compute(argument: dict[str, Any]) -> dict[str, Any]:
    """In a child: write each coding's bytes per vector and recall@10 of every query to `codings.json`."""
    source, metric = Path(argument["source"]), argument["metric"]
    vectors = np.array(np.load(source / "vectors.npy", mmap_mode="r")[: argument["rows"]])
    queries = np.load(source / "queries.npy")[: argument["queries"]]
    if metric == "cosine":
        vectors, queries, metric = normalised(vectors), normalised(queries), "inner_product"
    exact = _found(vectors, vectors, queries, metric)
    made = []
    for qtype, of in product(_QTYPES, ("vectors", "residuals")):
        decoded, size = _coded(vectors, qtype, of == "residuals")
        found = _found(decoded, vectors, queries, metric)
        recalls = [
            quality.neighbour_recall(rows, away, best, _K)
            for (rows, away), (_, best) in zip(found, exact, strict=True)
        ]
        made.append({"qtype": qtype, "of": of, "bytes": size, "recalls": recalls})
    (Path(argument["folder"]) / "codings.json").write_text(json.dumps(made))
    return {}


def _coded(vectors: FloatArray, qtype: QType, residuals: bool) -> tuple[FloatArray, int]:
    """The vectors as their codes decode them, float32 (n, d), and the bytes of one code."""
    import faiss

    codec = faiss.IndexScalarQuantizer(vectors.shape[1], qtype_of(qtype))
    if not residuals:
        codec.train(vectors)
        decoded: FloatArray = codec.sa_decode(codec.sa_encode(vectors))
        return decoded, int(codec.code_size)
    quantizer = VectorQuantizer(CLUSTERS, vectors.shape[1])
    quantizer.fit(vectors)
    clusters, left = quantizer.quantize_batch(vectors)
    left = left.astype(np.float32)
    codec.train(left)
    decoded = quantizer.reconstruct_batch(clusters, codec.sa_decode(codec.sa_encode(left)))
    return decoded, int(codec.code_size) + 1


def _found(
    searched: FloatArray, vectors: FloatArray, queries: FloatArray, metric: str
) -> list[tuple[list[int], list[float]]]:
    """The rows nearest to each query among `searched`, with the distances of the `vectors` they stand for."""
    rows = truth.exact_search(searched, queries, _K, metric)
    return [
        (near.tolist(), truth.distances(vectors[near], query, metric).tolist())
        for near, query in zip(rows, queries, strict=True)
    ]
