"""FAISS used directly, by its own description of an index."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.errors import UsageError
from bench.suites.peers.base import IntArray, Parameters, VectorPeer
from brein.index import normalised
from brein.records import FloatArray


class Faiss(VectorPeer):
    """Build: `factory`, what `faiss.index_factory` reads, and FAISS's parameters. Search: likewise."""

    MODULES = ("faiss",)
    SAVES = True

    def build(self, vectors: FloatArray, metric: str, parameters: Parameters) -> None:
        """Train and add."""
        import faiss

        self._start(metric)
        rest = dict(parameters)
        measure = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        self._index = faiss.index_factory(vectors.shape[1], rest.pop("factory", "Flat"), measure)
        self.tune(rest)
        prepared = self._prepared(vectors)
        self._index.train(prepared)
        self._index.add(prepared)

    def _start(self, metric: str) -> None:
        import faiss

        faiss.omp_set_num_threads(self.threads)
        self._cosine = metric == "cosine"

    def _prepared(self, vectors: FloatArray) -> FloatArray:
        return normalised(vectors) if self._cosine else np.ascontiguousarray(vectors)

    def tune(self, setting: Parameters) -> None:
        """Set `efSearch`, `nprobe`, `k_factor`, …"""
        import faiss

        for name, value in setting.items():
            try:
                faiss.ParameterSpace().set_index_parameter(self._index, name, value)
            except RuntimeError:
                raise UsageError(f"FAISS's {type(self._index).__name__} has no parameter {name}") from None

    def search(self, queries: FloatArray, k: int) -> IntArray:
        """The nearest rows."""
        rows: IntArray = self._index.search(self._prepared(queries), k)[1]
        return rows

    def save(self, folder: Path) -> None:
        """Write the index."""
        import faiss

        faiss.write_index(self._index, str(folder / "index.faiss"))

    def load(self, folder: Path, dimension: int, metric: str, parameters: Parameters) -> None:
        """Read the index."""
        import faiss

        self._start(metric)
        self._index = faiss.read_index(str(folder / "index.faiss"))

    def close(self) -> None:
        """Free the index."""
        del self._index
