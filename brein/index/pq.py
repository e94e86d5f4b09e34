"""Product quantisation: vectors as `M` codes; a search compares codes with every vector.

IndexPQ looks distances up in memory; IndexPQFastScan in registers, many vectors at once, from 4-bit codes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from brein.index.base import POINTS_PER_CENTROID, Config, IndexConfig, LabelArray, nothing_found
from brein.index.family import (
    FaissStructure,
    inner,
    labels_by_row,
    nearest_among,
    reconstructed,
    row_parts,
)
from brein.index.ivf import check_divides
from brein.records import FloatArray


class PQConfig(IndexConfig):
    """Parameters of the product quantiser; the defaults are the performance guide's."""

    kind: Literal["IndexPQ"] = "IndexPQ"
    M: int = Field(16, ge=1, le=65_536, description="sub-quantisers; must divide the dimension")
    nbits: int = Field(8, ge=1, le=16, description="bits of one code")

    @property
    def training_minimum(self) -> tuple[int, str]:
        """One vector a centroid."""
        return 1 << self.nbits, "2^nbits"

    @property
    def training_maximum(self) -> int:
        """So many a centroid that more would move it no further."""
        return POINTS_PER_CENTROID << self.nbits


class PQFastScanConfig(IndexConfig):
    """Parameters of the product quantiser with 4-bit codes."""

    kind: Literal["IndexPQFastScan"] = "IndexPQFastScan"
    M: int = Field(128, ge=1, le=65_536, description="sub-quantisers of 4 bits; must divide the dimension")

    @property
    def training_minimum(self) -> tuple[int, str]:
        """One vector a centroid."""
        return 16, "2^4"

    @property
    def training_maximum(self) -> int:
        """Sixteen centroids a sub-quantiser learn little from more."""
        return 64 * POINTS_PER_CENTROID


class _RowStructure(FaissStructure[Config]):
    """Product codes in rows, under labels of our own. FAISS does not filter them: we decode and compare."""

    def _search_among(self, queries: FloatArray, k: int, among: LabelArray) -> tuple[FloatArray, LabelArray]:
        return nearest_among(queries, k, self.config.metric, among, self.vectors)

    def vectors(self, labels: LabelArray) -> FloatArray:
        """What the codes decode to."""
        return reconstructed(self._faiss, labels)

    def _parts(self) -> dict[str, int]:
        return {**row_parts(self._faiss), "centroids": 4 * int(inner(self._faiss).pq.centroids.size())}


class PQStructure(_RowStructure[PQConfig]):
    """`faiss.IndexPQ`."""

    def _make(self) -> Any:
        import faiss

        check_divides(self.config.M, self.dimension)
        index = faiss.IndexPQ(self.dimension, self.config.M, self.config.nbits, self._metric)
        index.pq.cp.min_points_per_centroid = 1  # fewer are allowed down to 2^nbits; FAISS would only warn
        return faiss.IndexIDMap(index)


class PQFastScanStructure(_RowStructure[PQFastScanConfig]):
    """`faiss.IndexPQFastScan`."""

    def _make(self) -> Any:
        import faiss

        check_divides(self.config.M, self.dimension)
        index = faiss.IndexPQFastScan(self.dimension, self.config.M, 4, self._metric)
        index.pq.cp.min_points_per_centroid = 1
        return faiss.IndexIDMap(index)

    def remove(self, labels: LabelArray) -> None:
        """Remove these labels."""
        import faiss

        super().remove(labels)
        # FAISS leaves removed codes in the rest of its last block, and `add` would mix them into new ones.
        index = inner(self._faiss)
        packer = index.get_CodePacker()
        blocks = faiss.rev_swig_ptr(index.codes.get(), index.codes.size()).reshape(-1, packer.block_size)
        for place in range(index.ntotal, index.ntotal2):
            packer.pack_1(np.zeros(packer.code_size, np.uint8), place % packer.nvec, blocks[-1:])

    def read(self, folder: Path) -> None:
        """Take over what `write` wrote, into memory: FAISS maps no codes of this kind."""
        super().read(folder)
        self._own()

    def _search_all(self, queries: FloatArray, k: int) -> tuple[FloatArray, LabelArray]:
        # FAISS 1.15 reads the scores before it writes them: left to what memory held, it may find nothing.
        scores, labels = nothing_found(len(queries), k, self.config.metric)
        self._faiss.search(queries, k, D=scores, I=labels)
        # It scales each query's scores to bytes, and finds nothing where all are equal: a query of zeros.
        short = np.flatnonzero((labels >= 0).sum(axis=1) < min(k, self._faiss.ntotal))
        if len(short):
            scores[short], labels[short] = self._search_among(
                queries[short], k, np.sort(labels_by_row(self._faiss))
            )
        return scores, labels
