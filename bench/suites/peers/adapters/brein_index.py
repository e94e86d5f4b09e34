"""brein's own index, of any kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.suites.peers.base import IntArray, Parameters, VectorPeer
from brein import EngineConfig, index
from brein.index import IndexConfig
from brein.records import FloatArray


class BreinIndex(VectorPeer):
    """`brein.index`: ids are texts, so row numbers are made of them in the timed search."""

    IS_ENGINE = True
    MODULES = ("faiss",)
    SAVES = True

    def build(self, vectors: FloatArray, metric: str, parameters: Parameters) -> None:
        """Index rows of vectors; `parameters` are an index's configuration."""
        self._index = index.create(_config(metric, parameters), vectors.shape[1])
        self._index.add([str(row) for row in range(len(vectors))], vectors)

    def tune(self, setting: Parameters) -> None:
        """Change what acts at search time, such as nprobe."""
        now = self._index.config
        self._index.retune(_config(now.metric, {**now.model_dump(mode="json"), **setting}))

    def search(self, queries: FloatArray, k: int) -> IntArray:
        """The nearest rows."""
        found = self._index.search(queries, k).ids
        return np.array([[int(id_) for id_ in ids] + [-1] * (k - len(ids)) for ids in found])

    def save(self, folder: Path) -> None:
        """Write the index."""
        index.save(self._index, folder / "index")

    def load(self, folder: Path, dimension: int, metric: str, parameters: Parameters) -> None:
        """Read the index."""
        self._index = index.load(_config(metric, parameters), folder / "index")

    def close(self) -> None:
        """Free the index."""
        del self._index


def _config(metric: str, parameters: Parameters) -> IndexConfig:
    config: IndexConfig = EngineConfig.model_validate({"index": {**parameters, "metric": metric}}).index
    return config
