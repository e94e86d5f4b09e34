"""ScaNN: a partitioned index of anisotropic product codes, whose best are compared exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.suites.peers.base import IntArray, Parameters, VectorPeer, pick
from brein.index import normalised
from brein.records import FloatArray

_MEASURES = {"cosine": "dot_product", "inner_product": "dot_product", "l2": "squared_l2"}
_DIMENSIONS_PER_BLOCK = 2  # components in one code, and
_THRESHOLD = 0.2  # of the anisotropic loss: both ScaNN's own advice


class Scann(VectorPeer):
    """Build: `num_leaves`, `reorder`. Search: `leaves_to_search`. One query is searched by one thread."""

    NEEDS = ("scann",)
    MODULES = ("scann",)
    SAVES = True

    def build(self, vectors: FloatArray, metric: str, parameters: Parameters) -> None:
        """Partition, code and keep the vectors for the exact comparison."""
        import scann

        settings = pick(parameters, num_leaves=100, reorder=100)
        prepared = normalised(vectors) if metric == "cosine" else vectors
        self._index = (
            scann.scann_ops_pybind.builder(prepared, 10, _MEASURES[metric])
            .set_n_training_threads(self.threads)
            .tree(
                num_leaves=settings["num_leaves"],
                num_leaves_to_search=settings["num_leaves"],
                training_sample_size=len(vectors),
            )
            .score_ah(_DIMENSIONS_PER_BLOCK, anisotropic_quantization_threshold=_THRESHOLD)
            .reorder(settings["reorder"])
            .build()
        )
        self._start()

    def _start(self) -> None:
        self._index.set_num_threads(self.threads)
        self._leaves: int | None = None

    def tune(self, setting: Parameters) -> None:
        """Search so many partitions."""
        self._leaves = pick(setting, leaves_to_search=None)["leaves_to_search"]

    def search(self, queries: FloatArray, k: int) -> IntArray:
        """The nearest rows. Under cosine, a query's length changes no order."""
        if len(queries) == 1:
            rows, _ = self._index.search(queries[0], k, leaves_to_search=self._leaves)
            return np.asarray(rows[None], dtype=np.int64)
        rows, distances = self._index.search_batched_parallel(queries, k, leaves_to_search=self._leaves)
        return np.where(np.isnan(distances), -1, rows.astype(np.int64))

    def save(self, folder: Path) -> None:
        """Write the index; it names its files by their place among each other."""
        self._index.serialize(str(folder), relative_path=True)

    def load(self, folder: Path, dimension: int, metric: str, parameters: Parameters) -> None:
        """Read the index."""
        import scann

        self._index = scann.scann_ops_pybind.load_searcher(str(folder))
        self._start()

    def close(self) -> None:
        """Free the index."""
        del self._index
