"""The one interface of every vector index, and what the FAISS families share.

`faiss` is imported where an index is made, not at the top: reading a configuration must stay cheap,
because the lab's parent process never loads it.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from brein.errors import ConfigError, DataError, StorageError
from brein.records import FloatArray
from brein.settings import Settings

Metric = Literal["cosine", "inner_product", "l2"]
FORMAT = 1  # of the saved files


class IndexConfig(Settings):
    """What every index kind has. Names of parameters are FAISS's own."""

    # Parameters that act at search time: changing one needs no rebuild.
    QUERY_PARAMETERS: ClassVar[frozenset[str]] = frozenset()

    kind: str
    metric: Metric = Field("cosine", description="cosine is inner product over normalised vectors")

    @property
    def training_minimum(self) -> tuple[int, str]:
        """Fewest vectors the index can be made from, and the setting that asks for them."""
        return 0, "nothing"

    @property
    def build_parameters(self) -> dict[str, Any]:
        """Everything a built index depends on; two equal ones can share one index."""
        return self.model_dump(mode="json", exclude=set(self.QUERY_PARAMETERS))


Config = TypeVar("Config", bound=IndexConfig)


class Neighbours(NamedTuple):
    """Nearest neighbours of m queries, best first.

    `scores` is float32 (m, k): similarities for cosine and inner_product, squared Euclidean distances for
    l2. `ids` has m rows of at most k ids: a row is shorter where the index holds fewer vectors, or an
    approximate search reached fewer.
    """

    scores: FloatArray
    ids: list[list[str]]


class Index(ABC, Generic[Config]):
    """Vectors under their callers' ids, searched by nearness.

    Subclasses say how their FAISS index is made, what it needs to train and how its search is tuned.
    Not safe for concurrent writes; concurrent searches are safe.
    """

    def __init__(self, config: Config, dimension: int) -> None:
        self.config = config
        self.dimension = dimension
        self._faiss: Any = self._make()
        self._tune()
        self._ids: list[str] = []  # by label; a removed vector's label is never used again
        self._labels: dict[str, int] = {}  # by id, of the vectors that are there

    @abstractmethod
    def _make(self) -> Any:
        """Make the empty FAISS index; labels given to `add_with_ids` must come back from its search."""

    @abstractmethod
    def _tune(self) -> None:
        """Put the query parameters of `self.config` into the FAISS index."""

    @property
    def _faiss_metric(self) -> int:
        import faiss

        return int(faiss.METRIC_L2 if self.config.metric == "l2" else faiss.METRIC_INNER_PRODUCT)

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def is_trained(self) -> bool:
        """Whether vectors can be added without training first."""
        return bool(self._faiss.is_trained)

    def train(self, vectors: FloatArray) -> None:
        """Learn centroids or codebooks from `vectors`, float32 (n, d); does nothing where none are needed.

        Raises:
            DataError: too few vectors for this index's parameters, or of the wrong shape.
        """
        if self.is_trained:
            return
        minimum, setting = self.config.training_minimum
        if len(vectors) < minimum:
            raise DataError(
                f"{self.config.kind} needs at least {setting} = {minimum} vectors to train, got "
                f"{len(vectors)}; give it more, or lower the setting"
            )
        self._faiss.train(self._prepared(vectors))

    def add(self, ids: Sequence[str], vectors: FloatArray) -> None:
        """Add `vectors`, float32 (n, d), under `ids`; an untrained index is trained on them first.

        Raises:
            DataError: ids repeat or are already there, shapes disagree, or the index cannot train on so few.
        """
        if len(ids) != len(vectors):
            raise DataError(f"{len(ids)} ids for {len(vectors)} vectors; give one id a vector")
        fresh = set(ids)
        if len(fresh) < len(ids) or not fresh.isdisjoint(self._labels):
            taken = next(i for n, i in enumerate(ids) if i in self._labels or i in ids[:n])
            raise DataError(f"id {taken!r} is given twice or already in the index; remove it first")
        self.train(vectors)
        start = len(self._ids)
        labels = np.arange(start, start + len(ids), dtype=np.int64)
        self._add(self._prepared(vectors), labels)
        self._ids.extend(ids)
        self._labels.update(zip(ids, range(start, start + len(ids)), strict=True))

    def _add(self, vectors: FloatArray, labels: npt.NDArray[np.int64]) -> None:
        self._faiss.add_with_ids(vectors, labels)

    def remove(self, ids: Sequence[str]) -> int:
        """Remove what is there of `ids`; return how many that was."""
        labels = [self._labels.pop(id_) for id_ in dict.fromkeys(ids) if id_ in self._labels]
        if labels:
            self._remove(np.array(labels, dtype=np.int64))
        return len(labels)

    def _remove(self, labels: npt.NDArray[np.int64]) -> None:
        self._faiss.remove_ids(labels)

    def search(self, queries: FloatArray, k: int) -> Neighbours:
        """Find the `k` nearest vectors of each query, float32 (m, d).

        Raises:
            DataError: k is below 1, or the queries have the wrong shape.
        """
        if k < 1:
            raise DataError(f"k = {k}: must be at least 1")
        prepared = self._prepared(queries)
        search = self._search_on_one_thread if len(prepared) == 1 else self._search
        scores, labels = search(prepared, k)
        known = self._ids
        return Neighbours(scores, [[known[label] for label in row if label >= 0] for row in labels.tolist()])

    def _search(self, queries: FloatArray, k: int) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        scores, labels = self._faiss.search(queries, k)
        return scores, labels

    def _search_on_one_thread(self, query: FloatArray, k: int) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        # With more threads FAISS splits the database of a single query, which is slower and dearer. The
        # setting belongs to the calling thread, and torch may share it: put it back.
        import faiss

        threads = faiss.omp_get_max_threads()
        if threads == 1:
            return self._search(query, k)
        faiss.omp_set_num_threads(1)
        try:
            return self._search(query, k)
        finally:
            faiss.omp_set_num_threads(threads)

    def _prepared(self, vectors: FloatArray) -> FloatArray:
        """Check the shape; normalise for cosine, on a copy."""
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise DataError(f"vectors have shape {vectors.shape}; this index takes (n, {self.dimension})")
        contiguous = np.ascontiguousarray(vectors, dtype=np.float32)
        return normalised(contiguous) if self.config.metric == "cosine" else contiguous

    def retune(self, config: Config) -> None:
        """Change query parameters without rebuilding.

        Raises:
            ConfigError: `config` differs in a build parameter.
        """
        if config.build_parameters != self.config.build_parameters:
            raise ConfigError(
                f"index was built with {self.config.build_parameters}, asked for {config.build_parameters}; "
                "these need a rebuild"
            )
        self.config = config
        self._tune()

    def stored_bytes(self) -> int:
        """Bytes of the FAISS index when written out: codes, links, labels, centroids."""
        import faiss

        return len(faiss.serialize_index(self._faiss))

    def save(self, folder: Path) -> None:
        """Write the index into `folder`, atomically: a crash leaves the older files or the newer ones.

        Raises:
            StorageError: the folder cannot be written.
        """
        import faiss

        facts = {
            "format": FORMAT,
            "dimension": self.dimension,
            "build": self.config.build_parameters,
            "size": int(self._faiss.ntotal),
            "ids": self._ids,
            "live": sorted(self._labels.values()),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            draft = folder / ".index.faiss"
            faiss.write_index(self._faiss, str(draft))
            write_flushed(folder / ".index.json", json.dumps(facts).encode())
            sync(draft)
            os.replace(draft, folder / "index.faiss")
            os.replace(folder / ".index.json", folder / "index.json")
        except (OSError, RuntimeError) as error:
            raise StorageError(f"the index cannot be written to {folder}: {error}") from None

    def restore(self, folder: Path) -> None:
        """Replace this index's content with what `save` wrote into `folder`.

        Raises:
            StorageError: it is missing, damaged, of another format or built with other parameters.
        """
        import faiss

        try:
            facts = json.loads((folder / "index.json").read_bytes())
            if facts["format"] != FORMAT or facts["dimension"] != self.dimension:
                raise StorageError(
                    f"format {facts['format']} and dimension {facts['dimension']}, expected {FORMAT} and "
                    f"{self.dimension}"
                )
            if facts["build"] != self.config.build_parameters:
                raise StorageError(f"built with {facts['build']}, asked for {self.config.build_parameters}")
            self._faiss = faiss.read_index(str(folder / "index.faiss"))
            if self._faiss.ntotal != facts["size"]:
                raise StorageError(f"{self._faiss.ntotal} vectors, expected {facts['size']}")
            self._ids = facts["ids"]
            self._labels = {self._ids[label]: label for label in facts["live"]}
        except (StorageError, OSError, RuntimeError, ValueError, KeyError, TypeError, IndexError) as error:
            raise StorageError(f"no usable index in {folder}: {first_line(error)}; rebuild it") from None
        self._tune()


def normalised(vectors: FloatArray) -> FloatArray:
    """Scale each row of float32 (n, d) to length 1; a zero row stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    scaled: FloatArray = vectors / lengths
    return scaled


def write_flushed(path: Path, data: bytes) -> None:
    """Write a file and flush it to disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Flush a file that something else wrote to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def first_line(error: BaseException) -> str:
    """The first line of an error's text: FAISS's go on with C++ source lines."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
