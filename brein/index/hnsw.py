"""The graph family: a navigable small-world graph; a search keeps `efSearch` candidates.

IndexHNSW compares whole vectors, IndexHNSWSQ components in a few bits each.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from pydantic import Field

from brein.index.base import IndexConfig, LabelArray
from brein.index.family import (
    FaissStructure,
    inner,
    labels_by_row,
    reconstructed,
    rows_of,
    selector,
)
from brein.index.scalar import RANGES, TRAINING_MAXIMUM, QType, learns, qtype_of
from brein.records import FloatArray

# Below this share of vectors to be found, comparing with each of them beats walking past the others.
_EXHAUSTIVE = 0.1
_GONE = -1  # the label of a removed row


class GraphConfig(IndexConfig):
    """Parameters of every graph; the defaults are the performance guide's."""

    QUERY_PARAMETERS: ClassVar[frozenset[str]] = frozenset({"efSearch", "rebuild_at"})

    M: int = Field(32, ge=2, le=512, description="links of a vertex per level, twice as many on the lowest")
    efConstruction: int = Field(200, ge=1, le=100_000, description="candidates kept while building")
    efSearch: int = Field(64, ge=1, le=100_000, description="candidates kept while searching, at least k")
    rebuild_at: float = Field(
        0.25, gt=0, le=1, description="share of removed vectors at which the graph is built anew"
    )


class HNSWConfig(GraphConfig):
    """A graph over whole vectors."""

    kind: Literal["IndexHNSW"] = "IndexHNSW"


class HNSWSQConfig(GraphConfig):
    """A graph over components in a few bits each."""

    kind: Literal["IndexHNSWSQ"] = "IndexHNSWSQ"
    qtype: QType = Field("QT_8bit", description="how a component is coded, in FAISS's names")

    @property
    def training_minimum(self) -> tuple[int, str]:
        """Enough to see each component's range."""
        return RANGES if learns(self.qtype) else (0, "nothing")

    @property
    def training_maximum(self) -> int:
        """Enough to see nearly all of each component's range."""
        return TRAINING_MAXIMUM if learns(self.qtype) else 0


Graph = TypeVar("Graph", bound=GraphConfig)


class _GraphStructure(FaissStructure[Graph]):
    """A `faiss.IndexHNSW` under labels of our own.

    FAISS cannot remove from the graph: a removed row loses its label and is masked out of every search, and
    when `rebuild_at` of the rows are so, the graph is built anew from the others.
    """

    _MAPPED: ClassVar[frozenset[str]] = frozenset({"codes", "links"})

    def _make(self) -> Any:
        import faiss

        self._live: tuple[LabelArray, Any] | None = None  # labels that are there, where some rows are gone
        index = self._make_graph()
        index.hnsw.efConstruction = self.config.efConstruction
        return faiss.IndexIDMap(index)

    def _make_graph(self) -> Any:
        import faiss

        return faiss.IndexHNSWFlat(self.dimension, self.config.M, self._metric)

    def _apply(self) -> None:
        inner(self._faiss).hnsw.efSearch = self.config.efSearch

    def add(self, labels: LabelArray, vectors: FloatArray) -> None:
        """Add float32 (n, d) under int64 (n,)."""
        super().add(labels, vectors)
        if self._live is not None:
            self._mask()

    def remove(self, labels: LabelArray) -> None:
        """Mask these labels out, or build anew without them."""
        self._own()
        held = labels_by_row(self._faiss)
        held[rows_of(self._faiss, labels)] = _GONE
        if (held == _GONE).sum() >= self.config.rebuild_at * len(held):
            self._rebuild()
        else:
            self._mask()

    def _mask(self) -> None:
        held = labels_by_row(self._faiss)
        there = np.sort(held[held != _GONE])
        self._live = (there, selector(there)) if len(there) < len(held) else None

    def _rebuild(self) -> None:
        held = labels_by_row(self._faiss)
        rows = np.flatnonzero(held != _GONE)
        labels = held[rows]
        vectors = self._faiss.index.reconstruct_batch(rows) if len(rows) else None
        self._faiss.reset()  # keeps what was learnt
        self._live = None
        if vectors is not None:
            self.add(labels, vectors)

    def _search_all(self, queries: FloatArray, k: int) -> tuple[FloatArray, LabelArray]:
        if self._live is not None:
            return self._walk(queries, k, *self._live)
        if k <= self.config.efSearch:
            return super()._search_all(queries, k)
        return self._keeping(k, None, queries, k)

    def _search_among(self, queries: FloatArray, k: int, among: LabelArray) -> tuple[FloatArray, LabelArray]:
        if len(among) <= _EXHAUSTIVE * self._faiss.ntotal:
            return self._compare(queries, k, among)
        return self._walk(queries, k, among, selector(among))

    def _walk(
        self, queries: FloatArray, k: int, among: LabelArray, chosen: Any
    ) -> tuple[FloatArray, LabelArray]:
        """Search the graph with more candidates the fewer may be found; compare where that came short."""
        kept = math.ceil(max(self.config.efSearch, k) * self._faiss.ntotal / len(among))
        scores, labels = self._keeping(min(kept, self._faiss.ntotal), chosen, queries, k)
        short = np.flatnonzero((labels >= 0).sum(axis=1) < min(k, len(among)))
        if len(short):
            scores[short], labels[short] = self._compare(queries[short], k, among)
        return scores, labels

    def _keeping(
        self, candidates: int, chosen: Any, queries: FloatArray, k: int
    ) -> tuple[FloatArray, LabelArray]:
        import faiss

        # FAISS ends a search when efSearch candidates are nearer, even where more were asked for.
        parameters = faiss.SearchParametersHNSW(sel=chosen, efSearch=candidates)
        scores, labels = self._faiss.search(queries, k, params=parameters)
        return scores, labels

    def _compare(self, queries: FloatArray, k: int, among: LabelArray) -> tuple[FloatArray, LabelArray]:
        """Compare with every one of `among`, through the vectors the graph lies over."""
        import faiss

        held = labels_by_row(self._faiss)
        parameters = faiss.SearchParameters(sel=selector(np.flatnonzero(np.isin(held, among))))
        scores, found = inner(self._faiss).storage.search(queries, k, params=parameters)
        return scores, np.where(found >= 0, held[found], -1)

    def vectors(self, labels: LabelArray) -> FloatArray:
        """The vectors, or what their codes decode to."""
        return reconstructed(self._faiss, labels)

    def read(self, folder: Path) -> None:
        """Take over what `write` wrote."""
        super().read(folder)
        self._mask()

    def _parts(self) -> dict[str, int]:
        import faiss

        graph = inner(self._faiss)
        storage = faiss.downcast_index(graph.storage)
        where = 8 * graph.hnsw.offsets.size() + 4 * graph.hnsw.levels.size()  # of a vertex's links
        return {
            "codes": graph.ntotal * storage.code_size,
            "links": 4 * graph.hnsw.neighbors.size() + where,
            "ids": 8 * graph.ntotal,
        }


class HNSWStructure(_GraphStructure[HNSWConfig]):
    """`faiss.IndexHNSWFlat`."""


class HNSWSQStructure(_GraphStructure[HNSWSQConfig]):
    """`faiss.IndexHNSWSQ`."""

    def _make_graph(self) -> Any:
        import faiss

        return faiss.IndexHNSWSQ(self.dimension, qtype_of(self.config.qtype), self.config.M, self._metric)
