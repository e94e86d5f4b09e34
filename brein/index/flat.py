"""IndexFlat: exact search by comparing with every vector."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from brein.index import gpu
from brein.index.base import IndexConfig, LabelArray
from brein.index.family import reconstructed, row_parts, selector
from brein.records import FloatArray


class FlatConfig(IndexConfig):
    """Exact search; the reference every other kind is judged against."""

    QUERY_PARAMETERS: ClassVar[frozenset[str]] = frozenset({"device"})

    kind: Literal["IndexFlat"] = "IndexFlat"
    device: gpu.Device = Field("cpu", description=gpu.DEVICE)


class FlatStructure(gpu.OnDevice[FlatConfig]):
    """`faiss.IndexFlat` under labels of our own."""

    def _make(self) -> Any:
        import faiss

        return faiss.IndexIDMap(faiss.IndexFlat(self.dimension, self._metric))

    def _search_among(self, queries: FloatArray, k: int, among: LabelArray) -> tuple[FloatArray, LabelArray]:
        import faiss

        scores, labels = self._faiss.search(queries, k, params=faiss.SearchParameters(sel=selector(among)))
        return scores, labels

    def vectors(self, labels: LabelArray) -> FloatArray:
        """The vectors themselves."""
        return reconstructed(self._faiss, labels)

    def _parts(self) -> dict[str, int]:
        return row_parts(self._faiss)
