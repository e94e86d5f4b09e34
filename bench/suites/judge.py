"""Recall of searches among some of the vectors: those allowed, or those there at the time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench import quality
from bench.workload import truth
from bench.workload.dataset import IntArray
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
    candidates = np.asarray(vectors[among])
    nearest = truth.exact_search(candidates, queries, k, metric)
    recalls = []
    for query, rows, near in zip(queries, found, nearest, strict=True):
        there = [row for row in rows if row >= 0]
        allowed = np.isin(there, among)
        away = np.where(allowed, truth.distances(vectors[there], query, metric), np.inf)
        exact = np.sort(truth.distances(candidates[near], query, metric))
        recalls.append(quality.neighbour_recall(there, away.tolist(), exact.tolist(), k))
    return recalls
