"""The engine's index: derived from the documents, so never more than a rebuild away."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np

from brein import index
from brein.errors import DataError, StorageError
from brein.index import Index, IndexConfig
from brein.index.flat import FlatConfig
from brein.records import FloatArray
from brein.storage import DocumentStore

BATCH = 10_000  # vectors read from the store at once
_ENOUGH_TO_TELL = 1_000  # vectors from which an index's size tells that of one


class KeptIndex:
    """An index kept in step with a document store.

    It is loaded when the engine opens and saved when it closes, and built anew from the stored vectors when
    the file is missing, damaged, older than the documents or made otherwise; when a write failed half-way;
    when the documents are four times as many as it was trained on; and when half of them are gone, which is
    how their memory is given back. As long as there are fewer than it needs to train, an exact one stands in.
    """

    def __init__(
        self,
        config: IndexConfig,
        documents: DocumentStore,
        folder: Path | None,
        make_room: Callable[[int, str], None],
    ) -> None:
        self.config = config
        self._documents = documents
        self._folder = folder
        self._make_room = make_room  # has so many bytes free for a purpose, or raises MemoryLimitError
        self._index: Index | None = None  # None: there are no documents, or it has to be built
        self._most = self._removed = 0  # vectors it has held at once, and lost, since it was built
        self._saved: str | None = None  # version of the documents that the file belongs to
        self._measured = (0, 0.0)  # vectors, and bytes of one, when its size was last looked at

    def open(self) -> None:
        """Load the index, or build it."""
        if self._folder is not None:
            version = self._documents.version
            self._make_room(_bytes_to_load(self._folder, self.config), "loading the index")
            try:
                self._index = index.load(self.config, self._folder, version)
                self._most, self._saved = len(self._index), version
            except StorageError:
                pass  # it can always be made again
        self._current()

    def add(self, ids: Sequence[str], vectors: FloatArray, replaced: Sequence[str]) -> None:
        """Follow the documents, which hold `ids` now; those of `replaced` they held before."""
        if self._index is not None:
            self._removed += self._index.remove(replaced)
            if not self._too_small_for(len(self._index) + len(ids)):
                self._index.add(ids, vectors)
                self._most = max(self._most, len(self._index))
                return
        self._index = self._built()

    def remove(self, ids: Sequence[str]) -> None:
        """Follow the documents, which no longer hold `ids`."""
        if self._index is None:
            return
        gone = sum(id_ in self._index for id_ in set(ids))
        if 2 * (len(self._index) - gone) < self._most:
            self.drop()  # the next to need it builds it
        else:
            self._removed += self._index.remove(ids)

    def search(
        self, query: FloatArray, k: int, among: Collection[str] | None
    ) -> tuple[FloatArray, list[str]]:
        """Scores and ids of the `k` nearest to float32 (d,), best first."""
        current = self._current()
        if current is None or (among is not None and not among):
            return np.empty(0, dtype=np.float32), []
        scores, ids = current.search(query[None, :], min(k, len(current)), among)
        return scores[0], ids[0]

    def nearest(self, vectors: FloatArray, k: int) -> list[list[str]]:
        """Ids of the `k` nearest to each of float32 (n, d), best first."""
        current = self._current()
        return [] if current is None else current.search(vectors, min(k, len(current))).ids

    def retune(self, config: IndexConfig) -> None:
        """Take over query parameters.

        Raises:
            ConfigError: a build parameter differs.
        """
        self.config.check_same_build(config)
        if self._index is not None and not self._stands_in:
            self._index.retune(config)
        self.config = config

    def resident(self) -> dict[str, int]:
        """Bytes it holds in main memory, by part; empty where it has to be built first."""
        return {} if self._index is None else self._index.footprint().resident

    def drop(self) -> None:
        """Forget the index; the next to need it builds it from the documents."""
        self._index = None

    def compact(self) -> bool:
        """Build anew where many vectors have gone since the last time, which frees what they took."""
        if self._index is None or 10 * self._removed < self._most:
            return False
        self.drop()
        self._current()
        return True

    def save(self) -> None:
        """Write the index into its folder, unless the file there is up to date or has to be built anyway."""
        if self._folder is None or self._index is None or self._stands_in:
            return
        version = self._documents.version
        if self._saved != version:
            index.save(self._index, self._folder, version)
            self._saved = version

    def check_dimension(self, dimension: int) -> None:
        """Raise DataError where vectors of so many components cannot be added."""
        if self._index is None:
            index.create(self.config, dimension)  # refuses a dimension it cannot have
        elif dimension != self._index.dimension:
            raise DataError(f"vectors have {dimension} components; this engine's {self._index.dimension}")

    def bytes_to_add(self, count: int, dimension: int) -> int:
        """Most bytes that adding `count` vectors takes for a moment: FAISS copies an array that grows, and a
        build holds two indexes and what it learns from."""
        there = 0 if self._index is None else len(self._index)
        grown = (there + 2 * count) * self._bytes_each(dimension)
        if self._index is None or self._too_small_for(there + count):
            grown += self._bytes_to_learn(there + count, dimension)
        return int(grown)

    def _bytes_each(self, dimension: int) -> float:
        there = 0 if self._index is None else len(self._index)
        if self._index is not None and there >= max(_ENOUGH_TO_TELL, 2 * self._measured[0]):
            self._measured = (there, sum(self._index.footprint().resident.values()) / there)
        return self._measured[1] or 4 * dimension + 512

    def _bytes_to_learn(self, count: int, dimension: int) -> int:
        """The sample, prepared, as FAISS arranges it, and a batch of vectors on its way to the index."""
        return 16 * dimension * (min(count, self.config.training_maximum) + min(count, BATCH))

    # --- building -----------------------------------------------------------------------------------

    @property
    def _stands_in(self) -> bool:
        return self._index is not None and self._index.config.kind != self.config.kind

    def _too_small_for(self, count: int) -> bool:
        if self._index is None or self._stands_in:
            return count >= self.config.training_minimum[0]
        return self._index.outgrown(count)

    def _current(self) -> Index | None:
        if self._index is None:
            self._index = self._built()
        return self._index

    def _built(self) -> Index | None:
        dimension = self._documents.dimension
        if dimension is None:
            return None
        count = len(self._documents)
        needed = count * self._bytes_each(dimension) + self._bytes_to_learn(count, dimension)
        self._make_room(int(needed), f"building the index of {count:,} documents")
        made = index.create(fitting(self.config, count), dimension)
        if not made.is_trained:
            made.train(sample(self._documents, self.config.training_maximum))
        for ids, vectors in self._documents.vector_batches(BATCH):
            made.add(ids, vectors)
        self._most, self._removed = count, 0
        return made


def fitting(config: IndexConfig, count: int) -> IndexConfig:
    """`config`, or that of the exact index which stands in while `count` vectors are too few to train it."""
    if count >= config.training_minimum[0]:
        return config
    return FlatConfig(metric=config.metric)


def sample(documents: DocumentStore, most: int) -> FloatArray:
    """At most so many of the stored vectors, drawn at random with a fixed seed, float32 (n, d).

    There must be some.
    """
    count, dimension = len(documents), documents.dimension
    most = min(count, most)
    chosen = np.zeros(count, dtype=bool)
    chosen[np.random.default_rng(0).choice(count, most, replace=False)] = True
    drawn = np.empty((most, dimension or 0), dtype=np.float32)
    read = kept = 0
    for ids, vectors in documents.vector_batches(BATCH):
        wanted = vectors[chosen[read : read + len(ids)]]
        drawn[kept : kept + len(wanted)] = wanted
        read, kept = read + len(ids), kept + len(wanted)
    return drawn


def _bytes_to_load(folder: Path, config: IndexConfig) -> int:
    if config.memory_map:
        return 0
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
