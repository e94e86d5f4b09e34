"""Several rankings of documents as one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

Ranking = list[tuple[str, float]]
"""Ids with scores, best first."""


def reciprocal_rank(rankings: Sequence[Ranking], constant: int) -> Ranking:
    """Reciprocal rank fusion: a document's score is the sum of 1 / (constant + rank) over the rankings.

    Ranks count from 1; a ranking that lacks the document adds nothing; equals are ordered by id. Cormack,
    Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods",
    2009.
    """
    scores: defaultdict[str, float] = defaultdict(float)
    for ranking in rankings:
        for rank, (id_, _) in enumerate(ranking, start=1):
            scores[id_] += 1 / (constant + rank)
    return best_first(scores.items())


def best_first(scored: Iterable[tuple[str, float]]) -> Ranking:
    """Put ids with scores into their order, equals by id."""
    return sorted(scored, key=lambda one: (-one[1], one[0]))
