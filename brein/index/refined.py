"""IndexRefine: a compressed index finds candidates, better vectors put them in order.

The better vectors are coded and held in memory, or whole and on disk. Coded ones may be residuals: what is
left of a vector after its nearest centroid (`VectorQuantizer`) is taken off, which spends the same bits on a
smaller range.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from brein.errors import StorageError
from brein.index.base import Footprint, IndexConfig, LabelArray, Structure, nothing_found
from brein.index.family import FEW, nearest_among, one_thread, scores_of
from brein.index.hnsw import HNSWSQConfig, HNSWSQStructure
from brein.index.ivf import IVFPQConfig, IVFPQStructure, IVFScalarQuantizerConfig, IVFScalarQuantizerStructure
from brein.index.pq import PQConfig, PQFastScanConfig, PQFastScanStructure, PQStructure
from brein.index.quantizer import VectorQuantizer
from brein.index.scalar import RANGES, TRAINING_MAXIMUM, QType, learns, qtype_of
from brein.records import FloatArray

FIRST: dict[str, type[Structure[Any]]] = {
    "IndexPQFastScan": PQFastScanStructure,
    "IndexPQ": PQStructure,
    "IndexIVFPQ": IVFPQStructure,
    "IndexIVFScalarQuantizer": IVFScalarQuantizerStructure,
    "IndexHNSWSQ": HNSWSQStructure,
}
FirstConfig = Annotated[
    PQFastScanConfig | PQConfig | IVFPQConfig | IVFScalarQuantizerConfig | HNSWSQConfig,
    Field(discriminator="kind"),
]
# With a filter, up to so many vectors are all compared: the first pass would cost more than it spares.
_COMPARE_ALL = 20_000


class RefineConfig(IndexConfig):
    """A compressed first pass, and the vectors that put its candidates in order."""

    QUERY_PARAMETERS: ClassVar[frozenset[str]] = frozenset({"k_factor"})

    kind: Literal["IndexRefine"] = "IndexRefine"
    first: FirstConfig = Field(
        default_factory=PQFastScanConfig, description="the index that finds candidates"
    )
    k_factor: int = Field(20, ge=1, le=10_000, description="candidates for each neighbour asked for")
    place: Literal["memory", "disk"] = Field(
        "memory", description="where the better vectors are: coded, or whole"
    )
    qtype: QType = Field("QT_6bit", description="how a component is coded in memory, in FAISS's names")
    clusters: int = Field(
        256,
        ge=0,
        le=65_536,
        description="centroids whose residuals are coded; 0 codes the vectors themselves",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_metric(cls, values: Any) -> Any:
        """`first` has the metric of the whole."""
        if isinstance(values, dict) and isinstance(values.get("first"), dict) and "metric" in values:
            return {**values, "first": {"metric": values["metric"], **values["first"]}}
        return values

    @model_validator(mode="after")
    def _first_fits(self) -> Self:
        if self.first.metric != self.metric:
            raise ValueError(f"first.metric = {self.first.metric!r}: must be metric = {self.metric!r}")
        if self.first.shards != 1:
            raise ValueError(f"first.shards = {self.first.shards}: must be 1; set shards of the whole")
        if self.first.memory_map:
            raise ValueError("first.memory_map = True: must be False; set memory_map of the whole")
        return self

    @property
    def training_minimum(self) -> tuple[int, str]:
        """What the first pass and the codes of the better vectors need."""
        own: tuple[int, str] = (0, "nothing")
        if self.place == "memory":
            own = max((self.clusters, "clusters"), RANGES if learns(self.qtype) else own)
        return max(self.first.training_minimum, own)

    @property
    def training_maximum(self) -> int:
        """What the first pass and the codes of the better vectors can use."""
        return max(self.first.training_maximum, TRAINING_MAXIMUM if self.place == "memory" else 0)

    @property
    def build_parameters(self) -> dict[str, Any]:
        """Everything a built index depends on."""
        own = {**super().build_parameters, "first": self.first.build_parameters}
        if self.place == "disk":  # whole vectors are not coded
            del own["qtype"], own["clusters"]
        return own


class RefinedStructure(Structure[RefineConfig]):
    """Candidates from `config.first`, ordered by better vectors."""

    def __init__(self, config: RefineConfig, dimension: int) -> None:
        super().__init__(config, dimension)
        first = config.first.model_copy(update={"memory_map": config.memory_map})
        self._first: Structure[Any] = FIRST[first.kind](first, dimension)
        self._better: _Better = (
            _Coded(dimension, config.qtype, config.clusters)
            if config.place == "memory"
            else _Whole(dimension)
        )

    @property
    def is_trained(self) -> bool:
        """Whether vectors can be added."""
        return self._first.is_trained and self._better.is_trained

    def train(self, vectors: FloatArray) -> None:
        """Train both."""
        self._first.train(vectors)
        self._better.train(vectors)

    def adopt_training(self, other: Self) -> None:
        """Become an empty structure with what `other` has learnt."""
        self._first.adopt_training(other._first)
        self._better.adopt_training(other._better)

    def add(self, labels: LabelArray, vectors: FloatArray) -> None:
        """Add float32 (n, d) under int64 (n,)."""
        with one_thread(len(vectors) <= FEW):
            self._better.put(labels, vectors)
        self._first.add(labels, vectors)

    def remove(self, labels: LabelArray) -> None:
        """Remove these labels; what their better vectors took is used again with the label."""
        self._first.remove(labels)

    def search(
        self, queries: FloatArray, k: int, among: LabelArray | None = None
    ) -> tuple[FloatArray, LabelArray]:
        """The `k` nearest of each query's candidates, by their better vectors."""
        if among is not None and len(among) <= _COMPARE_ALL:
            with one_thread():
                return nearest_among(queries, k, self.config.metric, among, self._better.get)
        _, candidates = self._first.search(queries, k * self.config.k_factor, among)
        with one_thread():  # a few hundred vectors are decoded sooner than other threads wake up
            return self._ordered(queries, k, candidates)

    def _ordered(self, queries: FloatArray, k: int, candidates: LabelArray) -> tuple[FloatArray, LabelArray]:
        scores, labels = nothing_found(len(queries), k, self.config.metric)
        for row, query in enumerate(queries):
            found = candidates[row][candidates[row] >= 0]
            new = scores_of(query[None], self._better.get(found), self.config.metric)[0]
            order = np.argsort(new if self.config.metric == "l2" else -new, kind="stable")[:k]
            scores[row, : len(order)], labels[row, : len(order)] = new[order], found[order]
        return scores, labels

    def vectors(self, labels: LabelArray) -> FloatArray:
        """The better vectors."""
        return self._better.get(labels)

    def tune(self, config: RefineConfig) -> None:
        """Take over k_factor, and what the first pass can change."""
        self.config = config
        self._first.tune(config.first)

    def footprint(self) -> Footprint:
        """The first pass's parts, the better vectors as `refinement`."""
        resident, on_disk = self._first.footprint()
        resident, on_disk = dict(resident), dict(on_disk)
        resident["centroids"] = resident.get("centroids", 0) + self._better.learnt_bytes
        (on_disk if self.config.place == "disk" else resident)["refinement"] = self._better.stored_bytes
        return Footprint(resident, on_disk)

    def write(self, folder: Path) -> None:
        """Write everything into an empty folder."""
        for part, name in ((self._first, "first"), (self._better, "better")):
            (folder / name).mkdir()
            part.write(folder / name)

    def read(self, folder: Path) -> None:
        """Take over what `write` wrote; whole vectors stay in their file."""
        self._first.read(folder / "first")
        self._better.read(folder / "better")


class _Better(ABC):
    """Vectors by label, which are rows: a label given again takes its old row."""

    is_trained = True
    learnt_bytes = 0

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._rows = 0  # rows ever used

    def train(self, vectors: FloatArray) -> None:
        """Learn from float32 (n, d) how to code; here nothing."""
        return

    def adopt_training(self, other: Any) -> None:
        """Take over what `other` has learnt; here nothing."""
        return

    @property
    @abstractmethod
    def stored_bytes(self) -> int:
        """Bytes of the rows."""

    @abstractmethod
    def put(self, labels: LabelArray, vectors: FloatArray) -> None:
        """Keep float32 (n, d) under int64 (n,)."""

    @abstractmethod
    def get(self, labels: LabelArray) -> FloatArray:
        """The vectors under labels, float32 (n, d)."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write everything into an empty folder."""

    @abstractmethod
    def read(self, folder: Path) -> None:
        """Take over what `write` wrote."""


class _Coded(_Better):
    """Scalar codes in memory, of vectors or of their residuals."""

    is_trained = False

    def __init__(self, dimension: int, qtype: QType, clusters: int) -> None:
        import faiss

        super().__init__(dimension)
        self._codec = faiss.IndexScalarQuantizer(dimension, qtype_of(qtype))
        self._quantizer = VectorQuantizer(clusters, dimension) if clusters else None
        self._codes = np.empty((0, self._codec.code_size), dtype=np.uint8)
        self._clusters = np.empty(0, dtype=np.uint8 if clusters <= 256 else np.uint16)
        self._shares = False  # what another has learnt

    @property
    def learnt_bytes(self) -> int:  # type: ignore[override]
        """Bytes of ranges and centroids, where they are its own."""
        if self._shares:
            return 0
        ranges = 4 * int(self._codec.sq.trained.size())
        centroids = self._quantizer.centroids if self._quantizer else None
        return ranges + (0 if centroids is None else centroids.nbytes)

    @property
    def stored_bytes(self) -> int:
        """Bytes of codes and centroid numbers."""
        each = int(self._codec.code_size) + (self._clusters.itemsize if self._quantizer else 0)
        return self._rows * each

    def train(self, vectors: FloatArray) -> None:
        """Learn centroids and ranges."""
        if self._quantizer:
            self._quantizer.fit(vectors)
        self._codec.train(self._split(vectors)[1])
        self.is_trained = True

    def adopt_training(self, other: _Coded) -> None:
        """Share what `other` has learnt."""
        self._quantizer, self._codec, self.is_trained = other._quantizer, other._codec, other.is_trained
        self._shares = True

    def _split(self, vectors: FloatArray) -> tuple[Any, FloatArray]:
        if self._quantizer is None:
            return None, vectors
        clusters, residuals = self._quantizer.quantize_batch(vectors)
        return clusters, residuals.astype(np.float32)

    def put(self, labels: LabelArray, vectors: FloatArray) -> None:
        """Code and keep."""
        self._rows = max(self._rows, int(labels.max()) + 1)
        clusters, residuals = self._split(vectors)
        self._codes = _with_room(self._codes, self._rows)
        self._codes[labels] = self._codec.sa_encode(residuals)
        if clusters is not None:
            self._clusters = _with_room(self._clusters, self._rows)
            self._clusters[labels] = clusters

    def get(self, labels: LabelArray) -> FloatArray:
        """Decode."""
        decoded: FloatArray = self._codec.sa_decode(self._codes[labels])
        if self._quantizer is not None and self._quantizer.centroids is not None:
            decoded += self._quantizer.centroids[self._clusters[labels]]
        return decoded

    def write(self, folder: Path) -> None:
        """Codes, centroid numbers, ranges and centroids."""
        import faiss

        faiss.write_index(self._codec, str(folder / "codec.faiss"))
        np.save(folder / "codes.npy", self._codes[: self._rows])
        np.save(folder / "clusters.npy", self._clusters[: self._rows])
        if self._quantizer is not None and self._quantizer.fitted:
            self._quantizer.save(folder / "centroids.npy")

    def read(self, folder: Path) -> None:
        """Take over what `write` wrote."""
        import faiss

        self._codec = faiss.read_index(str(folder / "codec.faiss"))
        self._codes = np.load(folder / "codes.npy", allow_pickle=False)
        self._clusters = np.load(folder / "clusters.npy", allow_pickle=False)
        if self._quantizer is not None and (folder / "centroids.npy").exists():
            self._quantizer = VectorQuantizer.load(folder / "centroids.npy")
        self._shares = False
        self._rows = len(self._codes)
        self.is_trained = bool(self._codec.is_trained)


def _with_room(array: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    """The array with at least so many rows: a quarter more, so that growth copies little.

    The spare rows are not written to, so the system gives them no memory yet.
    """
    if rows <= len(array):
        return array
    grown = np.empty((rows + rows // 4, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown


class _Whole(_Better):
    """Float32 vectors in a file.

    Rows are written to a nameless file in the system's folder for temporary files (TMPDIR names another). One
    that was loaded is read where it was saved, until the first change copies it.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__(dimension)
        self._descriptor: int | None = None
        self._view = np.empty((0, dimension), dtype=np.float32)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the rows."""
        return self._rows * 4 * self.dimension

    def put(self, labels: LabelArray, vectors: FloatArray) -> None:
        """Write the rows: by system calls, because a full disk ends a process that writes through a map."""
        try:
            file = self._file()
            order = np.argsort(labels)
            starts = np.flatnonzero(np.diff(labels[order], prepend=-2) != 1)
            for run in np.split(order, starts[1:]):  # one write for each run of adjacent rows
                self._write_rows(file, int(labels[run[0]]), vectors[run])
        except OSError as error:
            raise StorageError(
                f"vectors cannot be written to {tempfile.gettempdir()}: {error.strerror}; make room there, "
                "or name another folder in TMPDIR"
            ) from None
        self._rows = max(self._rows, int(labels.max()) + 1)
        mapped = mmap.mmap(file, self.stored_bytes, prot=mmap.PROT_READ)
        self._view = np.frombuffer(mapped, dtype=np.float32).reshape(self._rows, self.dimension)

    def _file(self) -> int:
        if self._descriptor is None:
            descriptor, name = tempfile.mkstemp(prefix="brein-")
            weakref.finalize(self, os.close, descriptor)
            os.unlink(name)
            self._write_rows(descriptor, 0, self._view)
            self._descriptor = descriptor
        return self._descriptor

    def _write_rows(self, file: int, row: int, vectors: FloatArray) -> None:
        data = np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1).view(np.uint8).data
        position = row * 4 * self.dimension
        while data:
            written = os.pwrite(file, data, position)
            data, position = data[written:], position + written

    def get(self, labels: LabelArray) -> FloatArray:
        """Read."""
        return self._view[labels]

    def write(self, folder: Path) -> None:
        """The rows as a NumPy file."""
        np.save(folder / "vectors.npy", self._view)

    def read(self, folder: Path) -> None:
        """Look at the file that `write` wrote."""
        view = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
        self._view = view.view(np.ndarray)
        self._descriptor, self._rows = None, len(view)
