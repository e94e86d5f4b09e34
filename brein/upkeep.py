"""The engine's index: derived from the documents, so never more than a rebuild away."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from brein import index
from brein.errors import ConfigError, DataError, StorageError
from brein.index import Index, IndexConfig
from brein.index.flat import FlatConfig
from brein.records import FloatArray
from brein.storage import DocumentStore

_BATCH = 10_000  # vectors read from the store at once


class KeptIndex:
    """An index kept in step with a document store.

    It is loaded when the engine opens and saved when it closes, and built anew from the stored vectors when
    the file is missing, damaged, older than the documents or made otherwise; when a write failed half-way;
    when the documents are four times as many as it was trained on; and when half of them are gone, which is
    how their memory is given back. As long as there are fewer than it needs to train, an exact one stands in.
    """

    def __init__(self, config: IndexConfig, documents: DocumentStore, folder: Path | None) -> None:
        self.config = config
        self._documents = documents
        self._folder = folder
        self._index: Index | None = None  # None: there are no documents, or it has to be built
        self._most = 0  # vectors it has held since it was built
        self._saved: str | None = None  # version of the documents that the file belongs to
        self._measured = (0, 0.0)  # vectors, and bytes of one, when its size was last looked at

    def open(self) -> None:
        """Load the index, or build it."""
        if self._folder is not None:
            version = self._documents.version
            try:
                self._index = index.load(self.config, self._folder, version)
                self._most, self._saved = len(self._index), version
            except StorageError:
                pass  # it can always be made again
        self._current()

    def add(self, ids: Sequence[str], vectors: FloatArray, replaced: Sequence[str]) -> None:
        """Follow the documents, which hold `ids` now; those of `replaced` they held before."""
        if self._index is not None:
            self._index.remove(replaced)
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
            self._index.remove(ids)

    def search(
        self, query: FloatArray, k: int, among: Collection[str] | None
    ) -> tuple[FloatArray, list[str]]:
        """Scores and ids of the `k` nearest to float32 (d,), best first."""
        current = self._current()
        if current is None or (among is not None and not among):
            return np.empty(0, dtype=np.float32), []
        scores, ids = current.search(query[None, :], min(k, len(current)), among)
        return scores[0], ids[0]

    def retune(self, config: IndexConfig) -> None:
        """Take over query parameters.

        Raises:
            ConfigError: a build parameter differs.
        """
        if config.build_parameters != self.config.build_parameters:
            raise ConfigError(
                f"index is {self.config.build_parameters}, asked for {config.build_parameters}; these need a "
                "rebuild: open the engine with them"
            )
        if self._index is not None and not self._stands_in:
            self._index.retune(config)
        self.config = config

    def drop(self) -> None:
        """Forget the index; the next to need it builds it from the documents."""
        self._index = None

    def compact(self) -> bool:
        """Build anew where vectors have gone since the last time, which frees what they took."""
        if self._index is None or len(self._index) == self._most:
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

    def bytes_to_grow(self, count: int, dimension: int) -> int:
        """Most bytes that adding `count` vectors takes for a moment: FAISS copies an array that grows, and a
        rebuild holds two indexes."""
        there = 0 if self._index is None else len(self._index)
        if self._index is not None and there >= 2 * self._measured[0]:
            self._measured = (there, sum(self._index.footprint().resident.values()) / max(1, there))
        each = self._measured[1] or 4 * dimension + 512
        return int((there + 2 * count) * each)

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
        enough = count >= self.config.training_minimum[0]
        config = self.config if enough else FlatConfig(metric=self.config.metric)
        made = index.create(config, dimension)
        if not made.is_trained:
            made.train(self._sample(count, config.training_maximum))
        for ids, vectors in self._documents.vector_batches(_BATCH):
            made.add(ids, vectors)
        self._most = count
        return made

    def _sample(self, count: int, most: int) -> FloatArray:
        """Up to `most` of the stored vectors, drawn at random."""
        if count <= most:
            return self._documents.vectors()[1]
        ids = [row[0] for row in chain.from_iterable(self._documents.pages("id", _BATCH))]
        chosen = np.random.default_rng(0).choice(count, most, replace=False)
        return self._documents.vectors([ids[n] for n in np.sort(chosen)])[1]
