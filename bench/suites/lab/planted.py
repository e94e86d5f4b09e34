"""Neighbours planted with a known recall: points on a line, each position taken by three equal vectors.

With ten neighbours asked for, or a hundred, the last is one of three at the same distance: a tie.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.workload import truth
from brein import EngineConfig
from brein.index import Neighbours
from brein.index.flat import FlatConfig
from brein.records import FloatArray

QUERIES = 64
_POSITIONS, _EQUAL = 100, 3
_FARTHEST = _POSITIONS * _EQUAL

# From a query's number and k to the rows returned; row 0 is the nearest, and so on outwards.
Found = Callable[[int, int], list[int]]


def _half_of_every_second(query: int, k: int) -> list[int]:
    nearest = list(range(k))
    return nearest if query % 2 else nearest[: k // 2] + [_FARTHEST - 1 - row for row in range(k - k // 2)]


def _others_of_a_tie(query: int, k: int) -> list[int]:
    return [row - row % _EQUAL + (2 - row % _EQUAL) for row in range(k)]


# By case, what is returned and its recall, which binary fractions hold exactly.
CASES: dict[str, tuple[Found, float]] = {
    "share": (_half_of_every_second, 0.75),
    "ties": (_others_of_a_tie, 1.0),
    "duplicates": (lambda query, k: [row // 2 for row in range(k)], 0.5),
    "padding": (lambda query, k: [*range(k // 2), *[-1] * (k - k // 2)], 0.5),
    "short": (lambda query, k: [*range(k // 2)], 0.5),
    "nothing": (lambda query, k: [], 0.0),
}


class Planted:
    """Searches as an index does, and returns what it was told to."""

    def __init__(self, found: Found) -> None:
        self._found = found

    def search(self, queries: FloatArray, k: int) -> Neighbours:
        """What is planted for each query; its number is its second component."""
        rows = [self._found(int(query[1]), k) for query in queries]
        return Neighbours(
            np.zeros((len(queries), k), np.float32), [[str(row) for row in one] for one in rows]
        )


def recall_argument(folder: Path) -> tuple[dict[str, Any], FloatArray]:
    """Write vectors, queries and exact neighbours into `folder`; what `search.Judge` is given of them."""
    along = np.repeat(np.arange(1, _POSITIONS + 1), _EQUAL)
    vectors = np.stack([along, np.zeros(_FARTHEST)], axis=1).astype(np.float32)
    queries = np.stack([np.zeros(QUERIES), np.arange(QUERIES)], axis=1).astype(np.float32)
    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "queries.npy", queries)
    truth.compute({"vectors": str(folder), "folder": str(folder), "metric": "l2"})
    argument = {
        "engine": EngineConfig(index=FlatConfig(metric="l2")).model_dump_json(),
        "vectors": str(folder),
        "truth": str(folder / "distances.npy"),
        "query_ids": [str(row) for row in range(QUERIES)],
    }
    return argument, queries
