"""Recall, nDCG and reciprocal rank: the only definitions, and the one rule for ties, duplicates and padding.

A result that is returned again, and padding, count as nothing and take no rank; results past k are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt

# Two distances this close, relative to the larger, are a tie: float32 sums in another order differ so.
TIE = 1e-6


def neighbour_recall(
    found: Sequence[int], distances: Sequence[float], truth_distances: Sequence[float], k: int
) -> float:
    """Recall at k of nearest-neighbour search: the share of the k nearest that was found.

    `found` are row numbers, best first, -1 for padding, with their exact `distances` (smaller is nearer).
    `truth_distances` are the exact distances of the true neighbours, ascending. A row counts as found when
    it is no farther than the k-th true neighbour, ties included, so that equal vectors are interchangeable.
    Where the truth is shorter than k, its length takes k's place.
    """
    wanted = min(k, len(truth_distances))
    if wanted == 0:
        raise ValueError("the ground truth of a query is empty")
    limit = truth_distances[wanted - 1]
    limit += TIE * max(abs(limit), 1e-12)
    unique = {row: distance for row, distance in zip(found, distances, strict=True) if row >= 0}
    near = sum(distance <= limit for distance in islice(unique.values(), k))
    return min(near, wanted) / wanted


def recall(found: Sequence[str], relevant: Mapping[str, int], k: int) -> float:
    """Recall at k of retrieval: the share of the relevant documents among the first k results.

    `relevant` maps the documents judged relevant, at least one, to gains above 0.
    """
    return len(set(_ranked(found, k)) & set(relevant)) / len(relevant)


def ndcg(found: Sequence[str], relevant: Mapping[str, int], k: int) -> float:
    """nDCG at k with linear gains and a log2(rank + 1) discount, as trec_eval's ndcg_cut has it."""
    gain = _discounted([relevant.get(id_, 0) for id_ in _ranked(found, k)])
    best = _discounted(sorted(relevant.values(), reverse=True)[:k])
    return gain / best


def reciprocal_rank(found: Sequence[str], relevant: Mapping[str, int], k: int) -> float:
    """1 / the rank of the first relevant result, 0 where none is among the first k; its mean is MRR at k.

    Voorhees, The TREC-8 Question Answering Track Report (1999); trec_eval's recip_rank, cut at k.
    """
    ranks = (rank for rank, id_ in enumerate(_ranked(found, k), start=1) if id_ in relevant)
    return 1 / next(ranks, float("inf"))


def _ranked(found: Sequence[str], k: int) -> list[str]:
    """The first k different results."""
    return list(dict.fromkeys(found))[:k]


def _discounted(gains: Sequence[int]) -> float:
    discounts: npt.NDArray[np.float64] = np.log2(np.arange(2, len(gains) + 2))
    return float(np.sum(np.asarray(gains) / discounts))
