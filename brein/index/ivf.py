"""The inverted-file family: vectors in `nlist` lists by nearest centroid; a search reads `nprobe` of them.

IndexIVFFlat holds the vectors, IndexIVFScalarQuantizer each component in a few bits, IndexIVFPQ product
codes; the two compress what is left of a vector after its centroid is taken off.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar, Literal, Self, TypeVar

import numpy as np
from pydantic import Field, model_validator

from brein.errors import DataError
from brein.index import gpu
from brein.index.base import POINTS_PER_CENTROID, IndexConfig, LabelArray
from brein.index.family import FaissStructure, selector
from brein.index.scalar import RANGES, QType, learns, qtype_of
from brein.records import FloatArray


class IVFConfig(IndexConfig):
    """Parameters of every inverted file."""

    QUERY_PARAMETERS: ClassVar[frozenset[str]] = frozenset({"nprobe", "device"})

    nlist: int = Field(100, ge=1, le=1_000_000, description="number of inverted lists")
    nprobe: int = Field(5, ge=1, description="lists visited by a search, at most nlist")

    @model_validator(mode="after")
    def _nprobe_within_nlist(self) -> Self:
        if self.nprobe > self.nlist:
            raise ValueError(f"nprobe = {self.nprobe}: must be at most nlist = {self.nlist}")
        return self

    @property
    def training_minimum(self) -> tuple[int, str]:
        """One vector a centroid."""
        return self.nlist, "nlist"

    @property
    def training_maximum(self) -> int:
        """So many a centroid that more would move it no further."""
        return POINTS_PER_CENTROID * self.nlist


class IVFFlatConfig(IVFConfig):
    """An inverted file of whole vectors; the defaults are the performance guide's."""

    kind: Literal["IndexIVFFlat"] = "IndexIVFFlat"
    device: gpu.Device = Field("cpu", description=gpu.DEVICE)


class IVFScalarQuantizerConfig(IVFConfig):
    """An inverted file of components in a few bits each."""

    kind: Literal["IndexIVFScalarQuantizer"] = "IndexIVFScalarQuantizer"
    nprobe: int = Field(10, ge=1, description="lists visited by a search, at most nlist")
    qtype: QType = Field("QT_8bit", description="how a component is coded, in FAISS's names")

    @property
    def training_minimum(self) -> tuple[int, str]:
        """One vector a centroid, and enough to see each component's range."""
        return max((self.nlist, "nlist"), RANGES if learns(self.qtype) else (0, ""))


class IVFPQConfig(IVFConfig):
    """An inverted file of product codes of residuals."""

    kind: Literal["IndexIVFPQ"] = "IndexIVFPQ"
    nlist: int = Field(256, ge=1, le=1_000_000, description="number of inverted lists")
    nprobe: int = Field(16, ge=1, description="lists visited by a search, at most nlist")
    M: int = Field(64, ge=1, le=65_536, description="sub-quantisers; must divide the dimension")
    nbits: int = Field(8, ge=1, le=16, description="bits of one code")
    device: gpu.Device = Field("cpu", description=gpu.DEVICE)

    @model_validator(mode="after")
    def _codes_fit_the_gpu(self) -> Self:
        if self.device == "gpu" and self.nbits != 8:
            raise ValueError(f"nbits = {self.nbits}: must be 8 with device = 'gpu'")
        return self

    @property
    def training_minimum(self) -> tuple[int, str]:
        """One vector a centroid, of the lists and of the codebooks."""
        return max((self.nlist, "nlist"), (1 << self.nbits, "2^nbits"))

    @property
    def training_maximum(self) -> int:
        """So many a centroid that more would move it no further."""
        return POINTS_PER_CENTROID * max(self.nlist, 1 << self.nbits)


IVF = TypeVar("IVF", bound=IVFConfig)


class IVFStructure(FaissStructure[IVF]):
    """A `faiss.IndexIVF`, which keeps labels and removes by itself."""

    _MAPPED: ClassVar[frozenset[str]] = frozenset({"codes", "ids"})

    def _make(self) -> Any:
        import faiss

        quantizer = faiss.IndexFlat(self.dimension, self._metric)
        index = self._make_lists(quantizer)
        index.own_fields = True
        quantizer.this.disown()
        index.cp.min_points_per_centroid = 1  # fewer are allowed down to nlist; FAISS would only warn
        return index

    @abstractmethod
    def _make_lists(self, quantizer: Any) -> Any:
        """Make the empty inverted file over `quantizer`."""

    def _apply(self) -> None:
        super()._apply()
        self._faiss.nprobe = self.config.nprobe

    def _search_among(self, queries: FloatArray, k: int, among: LabelArray) -> tuple[FloatArray, LabelArray]:
        """Probe more lists the fewer vectors may be found, and all of them for queries that came short."""
        nprobe = min(self.config.nlist, math.ceil(self.config.nprobe * self._faiss.ntotal / len(among)))
        scores, labels = self._probe(queries, k, among, nprobe)
        short = np.flatnonzero((labels >= 0).sum(axis=1) < min(k, len(among)))
        if len(short) and nprobe < self.config.nlist:
            scores[short], labels[short] = self._probe(queries[short], k, among, self.config.nlist)
        return scores, labels

    def _probe(
        self, queries: FloatArray, k: int, among: LabelArray, nprobe: int
    ) -> tuple[FloatArray, LabelArray]:
        import faiss

        parameters = faiss.SearchParametersIVF(sel=selector(among), nprobe=nprobe)
        scores, labels = self._faiss.search(queries, k, params=parameters)
        return scores, labels

    def vectors(self, labels: LabelArray) -> FloatArray:
        """The vectors, or what their codes decode to."""
        import faiss

        self._faiss.set_direct_map_type(faiss.DirectMap.Hashtable)
        try:
            found: FloatArray = self._faiss.reconstruct_batch(labels)
        finally:
            self._faiss.set_direct_map_type(faiss.DirectMap.NoMap)
        return found

    def _parts(self) -> dict[str, int]:
        count = self._faiss.ntotal
        return {
            "codes": count * self._faiss.code_size,
            "ids": 8 * count,
            "centroids": 4 * self.dimension * self._faiss.quantizer.ntotal + self._codebook_bytes(),
        }

    def _codebook_bytes(self) -> int:
        return 0


class IVFFlatStructure(IVFStructure[IVFFlatConfig], gpu.OnDevice[IVFFlatConfig]):
    """`faiss.IndexIVFFlat`."""

    def _make_lists(self, quantizer: Any) -> Any:
        import faiss

        return faiss.IndexIVFFlat(quantizer, self.dimension, self.config.nlist, self._metric)


class IVFScalarQuantizerStructure(IVFStructure[IVFScalarQuantizerConfig]):
    """`faiss.IndexIVFScalarQuantizer`."""

    def _make_lists(self, quantizer: Any) -> Any:
        import faiss

        qtype = qtype_of(self.config.qtype)
        return faiss.IndexIVFScalarQuantizer(
            quantizer, self.dimension, self.config.nlist, qtype, self._metric
        )

    def _codebook_bytes(self) -> int:
        return 4 * int(self._faiss.sq.trained.size())


class IVFPQStructure(IVFStructure[IVFPQConfig], gpu.OnDevice[IVFPQConfig]):
    """`faiss.IndexIVFPQ`."""

    def _make_lists(self, quantizer: Any) -> Any:
        import faiss

        check_divides(self.config.M, self.dimension)
        config = self.config
        index = faiss.IndexIVFPQ(
            quantizer, self.dimension, config.nlist, config.M, config.nbits, self._metric
        )
        index.pq.cp.min_points_per_centroid = 1  # fewer are allowed down to 2^nbits; FAISS would only warn
        return index

    def _codebook_bytes(self) -> int:
        # With l2, FAISS also keeps a table it computes from both kinds of centroids.
        return 4 * int(self._faiss.pq.centroids.size() + self._faiss.precomputed_table.size())


def check_divides(M: int, dimension: int) -> None:
    """Raise DataError where a vector cannot be cut into M equal parts."""
    if dimension % M:
        raise DataError(f"index.M = {M} does not divide the dimension {dimension}; choose a divisor")
