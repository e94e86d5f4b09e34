"""IndexHNSW: a navigable small-world graph; a search keeps `efSearch` candidates."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from brein.index.base import Index, IndexConfig
from brein.records import FloatArray


class HNSWConfig(IndexConfig):
    """Parameters of the graph; the defaults are the performance guide's."""

    QUERY_PARAMETERS: ClassVar[frozenset[str]] = frozenset({"efSearch"})

    kind: Literal["IndexHNSW"] = "IndexHNSW"
    M: int = Field(32, ge=2, le=512, description="links of a vertex per level, twice as many on the lowest")
    efConstruction: int = Field(200, ge=1, le=100_000, description="candidates kept while building")
    efSearch: int = Field(64, ge=1, le=100_000, description="candidates kept while searching")


class HNSWIndex(Index[HNSWConfig]):
    """`faiss.IndexHNSWFlat`. FAISS cannot remove from the graph, so removed labels are masked out."""

    def _make(self) -> Any:
        import faiss

        self._live_mask: npt.NDArray[np.uint8] | None = None  # made when a search first needs it
        index = faiss.IndexHNSWFlat(self.dimension, self.config.M, self._faiss_metric)
        index.hnsw.efConstruction = self.config.efConstruction
        return index

    def _tune(self) -> None:
        self._faiss.hnsw.efSearch = self.config.efSearch

    def _add(self, vectors: FloatArray, labels: npt.NDArray[np.int64]) -> None:
        self._faiss.add(vectors)  # labels are positions, and no position is ever given back
        self._live_mask = None

    def _remove(self, labels: npt.NDArray[np.int64]) -> None:
        self._live_mask = None

    def _search(self, queries: FloatArray, k: int) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        if len(self._labels) == len(self._ids):
            return super()._search(queries, k)
        import faiss

        if self._live_mask is None:
            live = np.zeros(len(self._ids), dtype=bool)
            live[list(self._labels.values())] = True
            self._live_mask = np.packbits(live, bitorder="little")
        selector = faiss.IDSelectorBitmap(self._live_mask)
        parameters = faiss.SearchParametersHNSW(sel=selector, efSearch=self.config.efSearch)
        scores, labels = self._faiss.search(queries, k, params=parameters)
        return scores, labels
