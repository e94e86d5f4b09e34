"""IndexFlat: exact search by comparing with every vector."""

from __future__ import annotations

from typing import Any, Literal

from brein.index.base import Index, IndexConfig


class FlatConfig(IndexConfig):
    """Exact search; the reference every other kind is judged against."""

    kind: Literal["IndexFlat"] = "IndexFlat"


class FlatIndex(Index[FlatConfig]):
    """`faiss.IndexFlat` under labels of our own."""

    def _make(self) -> Any:
        import faiss

        return faiss.IndexIDMap2(faiss.IndexFlat(self.dimension, self._faiss_metric))

    def _tune(self) -> None:
        pass
