"""Exact nearest neighbours: what approximate search is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench import process
from bench.artifacts import Store
from bench.machine import usable_cores
from bench.workload.dataset import IntArray
from bench.workload.embeddings import Vectors
from brein.index import normalised
from brein.records import FloatArray

DEPTH = 100  # true neighbours kept for each query
_BLOCK, _QUERIES = 16_384, 1_000  # compared at once: 200 MB of distances and their order


def exact_distances(vectors: Vectors, metric: str, store: Store) -> Path:
    """The file of the exact distances of each query's nearest vectors, ascending: float32 (m, t).

    From the published ground truth where the data set has one for this metric, else by exact search.
    """
    published = vectors.truth if vectors.truth_metric == metric else None
    content = {"vectors": vectors.key, "metric": metric, "depth": DEPTH, "published": published is not None}

    def build(folder: Path) -> None:
        if published is not None:
            np.save(folder / "rows.npy", published[:, :DEPTH])
        argument = {"vectors": str(vectors.folder), "metric": metric, "folder": str(folder)}
        process.call("bench.workload.truth:compute", argument, threads=usable_cores())

    return store.get_or_build("truth", content, build) / "distances.npy"


def compute(argument: dict[str, Any]) -> dict[str, Any]:
    """In a child: write `distances.npy` into `folder`, of `rows.npy` where that is there."""
    folder, source = Path(argument["folder"]), Path(argument["vectors"])
    vectors = np.load(source / "vectors.npy", mmap_mode="r")
    queries = np.load(source / "queries.npy")
    rows = folder / "rows.npy"
    nearest = np.load(rows) if rows.exists() else exact_search(vectors, queries, DEPTH, argument["metric"])
    found = [
        distances(vectors[row], query, argument["metric"])
        for row, query in zip(nearest, queries, strict=True)
    ]
    np.save(folder / "distances.npy", np.sort(np.array(found, dtype=np.float32), axis=1))
    return {}


def exact_search(vectors: FloatArray, queries: FloatArray, k: int, metric: str) -> IntArray:
    """Rows of the `k` nearest vectors of each query, nearest first: int64 (m, min(k, n))."""
    parts = [
        _exact_search(vectors, queries[start : start + _QUERIES], k, metric)
        for start in range(0, len(queries), _QUERIES)
    ]
    return np.concatenate(parts)


def _exact_search(vectors: FloatArray, queries: FloatArray, k: int, metric: str) -> IntArray:
    best_rows = np.empty((len(queries), 0), dtype=np.int64)
    best = np.empty((len(queries), 0), dtype=np.float32)
    for start in range(0, len(vectors), _BLOCK):
        found = _matrix(np.asarray(vectors[start : start + _BLOCK]), queries, metric)
        near = np.argpartition(found, min(k, found.shape[1]) - 1, axis=1)[:, :k]
        best = np.hstack([best, np.take_along_axis(found, near, 1)])
        best_rows = np.hstack([best_rows, near + start])
        order = np.argsort(best, axis=1, kind="stable")[:, :k]
        best, best_rows = np.take_along_axis(best, order, 1), np.take_along_axis(best_rows, order, 1)
    return best_rows


def distances(vectors: FloatArray, query: FloatArray, metric: str) -> FloatArray:
    """Exact distances of vectors, float32 (n, d), to one query, (d,): smaller is nearer.

    Squared Euclidean for l2; minus the similarity for cosine and inner_product.
    """
    if metric == "l2":
        found: FloatArray = np.square(vectors - query).sum(axis=1)
        return found
    if metric == "cosine":
        vectors, query = normalised(vectors), normalised(query[None])[0]
    return -(vectors @ query)


def _matrix(vectors: FloatArray, queries: FloatArray, metric: str) -> FloatArray:
    if metric == "l2":
        squares: FloatArray = np.square(vectors).sum(axis=1)
        return squares - 2 * (queries @ vectors.T)  # each query's own square shifts all alike
    if metric == "cosine":
        vectors, queries = normalised(vectors), normalised(queries)
    return -(queries @ vectors.T)
