"""IndexPQ: vectors as `M` codes of `nbits` bits each; a search compares codes with every vector."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from brein.errors import DataError
from brein.index.base import Index, IndexConfig


class PQConfig(IndexConfig):
    """Parameters of the product quantiser; the defaults are the performance guide's."""

    kind: Literal["IndexPQ"] = "IndexPQ"
    M: int = Field(16, ge=1, le=65_536, description="sub-quantisers; must divide the dimension")
    nbits: int = Field(8, ge=1, le=16, description="bits of one code")

    @property
    def training_minimum(self) -> tuple[int, str]:
        """One vector a centroid."""
        return 2**self.nbits, "2^nbits"


class PQIndex(Index[PQConfig]):
    """`faiss.IndexPQ` under labels of our own."""

    def _make(self) -> Any:
        import faiss

        if self.dimension % self.config.M:
            raise DataError(
                f"index.M = {self.config.M} does not divide the dimension {self.dimension}; choose a divisor"
            )
        index = faiss.IndexPQ(self.dimension, self.config.M, self.config.nbits, self._faiss_metric)
        index.pq.cp.min_points_per_centroid = 1  # fewer are allowed down to 2^nbits; FAISS would only warn
        return faiss.IndexIDMap2(index)

    def _tune(self) -> None:
        pass
