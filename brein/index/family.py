"""What the structures made of one FAISS index share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from brein.index.base import Config, Footprint, LabelArray, Structure, nothing_found
from brein.records import FloatArray

FEW = 8  # vectors that are added by the calling thread alone
_SCANNED = 100_000  # vectors that it looks through alone for those to remove: a third of a millisecond


class FaissStructure(Structure[Config]):
    """One FAISS index that takes labels through `add_with_ids` and gives them back from `search`.

    An index loaded with `memory_map` stays in its file until the first write reads it into memory: FAISS ends
    the process when a mapped index is written to.
    """

    _MAPPED: ClassVar[frozenset[str]] = frozenset({"codes"})  # what FAISS leaves in the file

    def __init__(self, config: Config, dimension: int) -> None:
        super().__init__(config, dimension)
        self._mapped = False
        self._faiss: Any = self._make()
        self.tune(config)

    @abstractmethod
    def _make(self) -> Any:
        """Make the empty FAISS index."""

    @property
    def _metric(self) -> int:
        import faiss

        return int(faiss.METRIC_L2 if self.config.metric == "l2" else faiss.METRIC_INNER_PRODUCT)

    @property
    def is_trained(self) -> bool:
        """Whether vectors can be added."""
        return bool(self._faiss.is_trained)

    def train(self, vectors: FloatArray) -> None:
        """Learn from float32 (n, d)."""
        self._faiss.train(vectors)

    def adopt_training(self, other: Self) -> None:
        """Become an empty structure with what `other` has learnt."""
        import faiss

        other._own()
        self._faiss = faiss.clone_index(other._faiss)
        self._faiss.reset()
        self._apply()

    def add(self, labels: LabelArray, vectors: FloatArray) -> None:
        """Add float32 (n, d) under int64 (n,)."""
        self._own()
        with one_thread(len(vectors) <= FEW):
            self._faiss.add_with_ids(vectors, labels)

    def remove(self, labels: LabelArray) -> None:
        """Remove these labels."""
        self._own()
        with one_thread(self._faiss.ntotal <= _SCANNED):
            self._faiss.remove_ids(labels)

    def search(
        self, queries: FloatArray, k: int, among: LabelArray | None = None
    ) -> tuple[FloatArray, LabelArray]:
        """The `k` nearest of each query: scores (m, k), and labels (m, k) padded with −1."""
        # With more threads FAISS splits the database of a single query, which is slower and dearer.
        with one_thread(len(queries) == 1):
            if among is None:
                return self._search_all(queries, k)
            return self._search_among(queries, k, among)

    def _search_all(self, queries: FloatArray, k: int) -> tuple[FloatArray, LabelArray]:
        scores, labels = self._faiss.search(queries, k)
        return scores, labels

    @abstractmethod
    def _search_among(self, queries: FloatArray, k: int, among: LabelArray) -> tuple[FloatArray, LabelArray]:
        """`search` with a filter."""

    def tune(self, config: Config) -> None:
        """Take over the query parameters of `config`."""
        self.config = config
        self._apply()

    def _apply(self) -> None:
        """Set the query parameters on the FAISS index; here there are none."""
        return

    def footprint(self) -> Footprint:
        """Bytes held now, by part."""
        parts = self._parts()
        on_disk = {part: parts.pop(part) for part in self._MAPPED} if self._mapped else {}
        return Footprint(parts, on_disk)

    @abstractmethod
    def _parts(self) -> dict[str, int]:
        """Bytes by part."""

    def write(self, folder: Path) -> None:
        """Write everything into an empty folder."""
        import faiss

        faiss.write_index(self._faiss, str(folder / "index.faiss"))

    def read(self, folder: Path) -> None:
        """Take over what `write` wrote."""
        import faiss

        self._mapped = self.config.memory_map
        self._faiss = faiss.read_index(
            str(folder / "index.faiss"), faiss.IO_FLAG_MMAP_IFC if self._mapped else 0
        )
        self._apply()

    def _own(self) -> None:
        import faiss

        if self._mapped:
            # Not read again from its path: a newer version may have been saved there since.
            self._faiss = faiss.deserialize_index(faiss.serialize_index(self._faiss))
            self._mapped = False
            self._apply()


@contextmanager
def one_thread(alone: bool = True) -> Iterator[None]:
    """Have FAISS work on the calling thread, where that is to be so; the setting is put back.

    Torch may share it. On a busy machine, waiting for other threads can take a hundred times as long as a
    little work; on an idle one they spare little of it.
    """
    import faiss

    threads = faiss.omp_get_max_threads()
    changed = alone and threads > 1
    if changed:
        faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        if changed:
            faiss.omp_set_num_threads(threads)


def labels_by_row(index: Any) -> LabelArray:
    """The labels of a `faiss.IndexIDMap`, row by row: a view, to read and to change."""
    import faiss

    count = index.id_map.size()
    return faiss.rev_swig_ptr(index.id_map.data(), count) if count else np.empty(0, dtype=np.int64)


def rows_of(index: Any, labels: LabelArray) -> LabelArray:
    """The rows of a `faiss.IndexIDMap` that hold these labels, all of which are there."""
    held = labels_by_row(index)
    order = np.argsort(held, kind="stable")
    return order[np.searchsorted(held, labels, sorter=order)]


def reconstructed(index: Any, labels: LabelArray) -> FloatArray:
    """The vectors a `faiss.IndexIDMap` holds under labels that are there: float32 (n, d)."""
    found: FloatArray = index.index.reconstruct_batch(rows_of(index, labels))
    return found


def row_parts(index: Any) -> dict[str, int]:
    """Bytes of a `faiss.IndexIDMap` over flat codes: codes and labels."""
    return {"codes": index.ntotal * inner(index).code_size, "ids": 8 * index.ntotal}


def inner(index: Any) -> Any:
    """The index inside a `faiss.IndexIDMap`, as what it is."""
    import faiss

    return faiss.downcast_index(index.index)


def selector(labels: LabelArray) -> Any:
    """A FAISS selector of these labels, ascending; it keeps what it needs alive."""
    import faiss

    mask = np.zeros(int(labels[-1]) + 1, dtype=bool)
    mask[labels] = True
    return faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))


def nearest_among(
    queries: FloatArray, k: int, metric: str, labels: LabelArray, vectors: Callable[[LabelArray], FloatArray]
) -> tuple[FloatArray, LabelArray]:
    """Compare each query with every one of `labels`, whose vectors come a block at a time."""
    best = np.empty((len(queries), 0), dtype=np.float32)
    found = np.empty((len(queries), 0), dtype=np.int64)
    for start in range(0, len(labels), _BLOCK):
        block = labels[start : start + _BLOCK]
        best = np.hstack([best, scores_of(queries, vectors(block), metric)])
        found = np.hstack([found, np.broadcast_to(block, (len(queries), len(block)))])
        order = np.argsort(best if metric == "l2" else -best, axis=1, kind="stable")[:, :k]
        best, found = np.take_along_axis(best, order, 1), np.take_along_axis(found, order, 1)
    return padded(best, found, k, metric)


_BLOCK = 4096  # vectors decoded at once


def scores_of(queries: FloatArray, vectors: FloatArray, metric: str) -> FloatArray:
    """Scores of float32 (m, d) against (n, d): (m, n)."""
    if metric == "l2":
        distances = [np.square(vectors - query).sum(axis=1) for query in queries]
        return np.array(distances, dtype=np.float32).reshape(len(queries), len(vectors))
    return queries @ vectors.T


def padded(scores: FloatArray, labels: LabelArray, k: int, metric: str) -> tuple[FloatArray, LabelArray]:
    """Fill rows up to `k` with label −1 and the worst score, as FAISS does."""
    missing = k - scores.shape[1]
    if missing <= 0:
        return scores, labels
    none, nothing = nothing_found(len(scores), missing, metric)
    return np.hstack([scores, none]), np.hstack([labels, nothing])
