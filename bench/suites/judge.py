"""Recall of searches among some of the vectors: those allowed, or those there at the time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench import quality
from bench.workload import truth
from bench.workload.dataset import IntArray
from bench.workload.truth import Mask
from brein.records import FloatArray


def recalls_among(
    vectors: FloatArray,
    among: IntArray,
    queries: FloatArray,
    found: Sequence[Sequence[int]],
    *,
    k: int,
    metric: str,
) -> list[float]:
    """Recall at `k` of each query's `found` rows, best first, against exact search among the rows `among`.

    `vectors` is float32 (n, d), `among` int64 of row numbers, `queries` float32 (m, d), `found` m lists of
    row numbers, of which -1 and those not in `among` never count.
    """
    nearest = among[truth.exact_search(np.asarray(vectors[among]), queries, k, metric)]
    there = np.zeros(len(vectors), dtype=np.bool_)
    there[among] = True
    return [
        _recall(vectors, there, query, rows, near, k=k, metric=metric)
        for query, rows, near in zip(queries, found, nearest, strict=True)
    ]


def recalls_at_the_time(
    vectors: FloatArray,
    there: Mask,
    queries: FloatArray,
    found: Sequence[Sequence[int]],
    *,
    k: int,
    metric: str,
) -> list[float]:
    """The same where each query has rows of its own: `there`, bool (m, n), says which."""
    nearest = truth.exact_search(vectors, queries, k, metric, among=there)
    return [
        _recall(vectors, mask, query, rows, near[mask[near]], k=k, metric=metric)
        for mask, query, rows, near in zip(there, queries, found, nearest, strict=True)
    ]


def _recall(
    vectors: FloatArray,
    there: Mask,
    query: FloatArray,
    found: Sequence[int],
    nearest: IntArray,
    *,
    k: int,
    metric: str,
) -> float:
    rows = [row for row in found if row >= 0]
    away = np.where(there[rows], truth.distances(vectors[rows], query, metric), np.inf)
    exact = np.sort(truth.distances(vectors[nearest], query, metric))
    return quality.neighbour_recall(rows, away.tolist(), exact.tolist(), k)
