"""hnswlib: the reference implementation of the graph index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.suites.peers.base import IntArray, Parameters, VectorPeer, pick
from brein.records import FloatArray

_SPACES = {"cosine": "cosine", "inner_product": "ip", "l2": "l2"}


class Hnswlib(VectorPeer):
    """Build: `M`, `ef_construction`. Search: `ef`, of which it takes at least k."""

    NEEDS = ("hnswlib",)
    MODULES = ("hnswlib",)
    SAVES = True

    def build(self, vectors: FloatArray, metric: str, parameters: Parameters) -> None:
        """Add every row."""
        self._index = self._make(vectors.shape[1], metric)
        self._index.init_index(len(vectors), **pick(parameters, M=16, ef_construction=200))
        self._index.set_num_threads(self.threads)
        self._index.add_items(vectors, np.arange(len(vectors)))

    def _make(self, dimension: int, metric: str) -> Any:
        import hnswlib

        return hnswlib.Index(_SPACES[metric], dimension)

    def tune(self, setting: Parameters) -> None:
        """Keep so many candidates."""
        self._index.set_ef(pick(setting, ef=10)["ef"])

    def search(self, queries: FloatArray, k: int) -> IntArray:
        """The nearest rows; it raises where it is asked for more than there are."""
        rows, _ = self._index.knn_query(queries, min(k, self._index.element_count))
        return np.asarray(rows, dtype=np.int64)

    def save(self, folder: Path) -> None:
        """Write the graph."""
        self._index.save_index(str(folder / "index.bin"))

    def load(self, folder: Path, dimension: int, metric: str, parameters: Parameters) -> None:
        """Read the graph."""
        self._index = self._make(dimension, metric)
        self._index.load_index(str(folder / "index.bin"))
        self._index.set_num_threads(self.threads)

    def close(self) -> None:
        """Free the graph."""
        del self._index
