"""usearch: a graph index with kernels of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.suites.peers.base import IntArray, Parameters, VectorPeer, pick
from brein.records import FloatArray

_METRICS = {"cosine": "cos", "inner_product": "ip", "l2": "l2sq"}


class Usearch(VectorPeer):
    """Build: `connectivity`, `expansion_add`. Search: `expansion_search`."""

    NEEDS = ("usearch",)
    MODULES = ("usearch.index",)
    SAVES = True

    def build(self, vectors: FloatArray, metric: str, parameters: Parameters) -> None:
        """Add every row."""
        self._index = self._make(vectors.shape[1], metric, parameters)
        self._index.add(np.arange(len(vectors)), vectors, threads=self.threads)

    def _make(self, dimension: int, metric: str, parameters: Parameters) -> Any:
        from usearch.index import Index

        settings = pick(parameters, connectivity=16, expansion_add=128)
        return Index(ndim=dimension, metric=_METRICS[metric], dtype="f32", **settings)

    def tune(self, setting: Parameters) -> None:
        """Keep so many candidates."""
        self._index.expansion_search = pick(setting, expansion_search=64)["expansion_search"]

    def search(self, queries: FloatArray, k: int) -> IntArray:
        """The nearest rows."""
        found = self._index.search(queries, k, threads=self.threads)
        rows = np.atleast_2d(found.keys).astype(np.int64)
        if len(queries) > 1:  # what lies beyond a query's count means nothing
            rows[np.arange(rows.shape[1]) >= found.counts[:, None]] = -1
        return rows

    def save(self, folder: Path) -> None:
        """Write the graph."""
        self._index.save(str(folder / "index.usearch"))

    def load(self, folder: Path, dimension: int, metric: str, parameters: Parameters) -> None:
        """Read the graph."""
        self._index = self._make(dimension, metric, parameters)
        self._index.load(str(folder / "index.usearch"))

    def close(self) -> None:
        """Free the graph."""
        self._index.reset()
        del self._index
