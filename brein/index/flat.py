"""IndexFlat: exact search by comparing with every vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from brein.index import gpu
from brein.index.base import IndexConfig, LabelArray
from brein.index.family import labels_by_row, padded, reconstructed, row_parts, selector
from brein.records import FloatArray


class FlatConfig(IndexConfig):
    """Exact search; the reference every other kind is judged against."""

    QUERY_PARAMETERS: ClassVar[frozenset[str]] = frozenset({"device"})

    kind: Literal["IndexFlat"] = "IndexFlat"
    device: gpu.Device = Field("cpu", description=gpu.DEVICE)


class FlatStructure(gpu.OnDevice[FlatConfig]):
    """`faiss.IndexFlat` under labels of our own; equal scores come in the order their vectors were added."""

    def _make(self) -> Any:
        import faiss

        return faiss.IndexIDMap(faiss.IndexFlat(self.dimension, self._metric))

    def _search_all(self, queries: FloatArray, k: int) -> tuple[FloatArray, LabelArray]:
        return self._first_added(super()._search_all, queries, k, self._faiss.ntotal)

    def _search_among(self, queries: FloatArray, k: int, among: LabelArray) -> tuple[FloatArray, LabelArray]:
        import faiss

        parameters = faiss.SearchParameters(sel=selector(among))

        def search(queries: FloatArray, k: int) -> tuple[FloatArray, LabelArray]:
            scores, labels = self._faiss.search(queries, k, params=parameters)
            return scores, labels

        return self._first_added(search, queries, k, len(among))

    def _first_added(
        self,
        search: Callable[[FloatArray, int], tuple[FloatArray, LabelArray]],
        queries: FloatArray,
        k: int,
        there: int,
    ) -> tuple[FloatArray, LabelArray]:
        """`search` among so many as are `there`, with the first added of equal scores first.

        FAISS does so for l2. Of equal inner products it returns any, in any order: one more than `k` shows
        whether the last are among such, and then more are looked at.
        """
        if self.config.metric == "l2":
            return search(queries, k)
        width = min(k + 1, there)
        scores, labels = search(queries, width)
        if (scores[:, 1:] == scores[:, :-1]).any():
            cut = scores[:, -2] == scores[:, -1] if width < there else np.zeros(len(queries), dtype=bool)
            order = np.lexsort((self._rows()[labels], -scores))
            scores, labels = np.take_along_axis(scores, order, 1), np.take_along_axis(labels, order, 1)
            if cut.any():
                more = self._first_added(search, queries[cut], 4 * k, there)
                scores[cut], labels[cut] = (part[:, :width] for part in more)
        return padded(scores[:, :k], labels[:, :k], k, self.config.metric)

    def _rows(self) -> LabelArray:
        """By label, the row it is in, which is the order in which vectors were added."""
        held = labels_by_row(self._faiss)
        rows = np.empty(held.max() + 1, dtype=np.int64)
        rows[held] = np.arange(len(held))
        return rows

    def vectors(self, labels: LabelArray) -> FloatArray:
        """The vectors themselves."""
        return reconstructed(self._faiss, labels)

    def _parts(self) -> dict[str, int]:
        return row_parts(self._faiss)
