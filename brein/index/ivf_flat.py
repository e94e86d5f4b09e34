"""IndexIVFFlat: vectors in `nlist` lists by nearest centroid; a search reads `nprobe` of them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from brein.index.base import Index, IndexConfig


class IVFFlatConfig(IndexConfig):
    """Parameters of an inverted-file index; the defaults are the performance guide's."""

    QUERY_PARAMETERS: ClassVar[frozenset[str]] = frozenset({"nprobe"})

    kind: Literal["IndexIVFFlat"] = "IndexIVFFlat"
    nlist: int = Field(100, ge=1, le=1_000_000, description="number of inverted lists")
    nprobe: int = Field(5, ge=1, description="lists visited by a search, at most nlist")

    @model_validator(mode="after")
    def _nprobe_within_nlist(self) -> IVFFlatConfig:
        if self.nprobe > self.nlist:
            raise ValueError(f"nprobe = {self.nprobe}: must be at most nlist = {self.nlist}")
        return self

    @property
    def training_minimum(self) -> tuple[int, str]:
        """One vector a centroid."""
        return self.nlist, "nlist"


class IVFFlatIndex(Index[IVFFlatConfig]):
    """`faiss.IndexIVFFlat`."""

    def _make(self) -> Any:
        import faiss

        metric = self._faiss_metric
        quantizer = faiss.IndexFlat(self.dimension, metric)
        index = faiss.IndexIVFFlat(quantizer, self.dimension, self.config.nlist, metric)
        index.own_fields = True
        quantizer.this.disown()
        index.cp.min_points_per_centroid = 1  # fewer are allowed down to nlist; FAISS would only warn
        return index

    def _tune(self) -> None:
        self._faiss.nprobe = self.config.nprobe
