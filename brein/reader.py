"""The documents and their index as the retrieval pipeline reads them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np

from brein.errors import DataError
from brein.records import FloatArray, Hit
from brein.retrieval.fusion import Ranking
from brein.retrieval.pipeline import Embedded
from brein.storage import DocumentStore, Where
from brein.upkeep import KeptIndex
from brein.vectors import unit


class Reader:
    """Reads store and index, one call at a time: `reading` has both to oneself. See `pipeline.Memory`."""

    def __init__(
        self,
        reading: Callable[[], AbstractContextManager[None]],
        documents: DocumentStore,
        index: KeptIndex,
        embed_query: Callable[[str], Embedded],
    ) -> None:
        self._reading = reading
        self._documents = documents
        self._index = index
        self.embed_query = embed_query

    def __len__(self) -> int:
        with self._reading():
            return len(self._documents)

    def match(self, text: str, limit: int, where: Where | None = None) -> Ranking:
        """See `brein.storage.DocumentStore.match`."""
        with self._reading():
            return self._documents.match(text, limit, where)

    def frequencies(self, text: str) -> Mapping[str, int]:
        """See `brein.storage.DocumentStore.frequencies`."""
        with self._reading():
            return self._documents.frequencies(text)

    def stems(self, text: str) -> Mapping[str, str]:
        """See `brein.storage.DocumentStore.stems`."""
        with self._reading():
            return self._documents.stems(text)

    def texts(self, ids: Sequence[str]) -> Mapping[str, str]:
        """See `brein.storage.DocumentStore.texts`."""
        with self._reading():
            return self._documents.texts(ids)

    def vectors(self, ids: Sequence[str]) -> tuple[list[str], FloatArray]:
        """See `brein.storage.DocumentStore.vectors`."""
        with self._reading():
            return self._documents.vectors(ids)

    def likeness(self, question: str, hits: Sequence[Hit]) -> FloatArray:
        """Cosines of a question and the hits' documents, float32 (n,); 0 where one is not there any more.

        Waits while documents are written. Raises ClosedError once the engine is closed.
        """
        ids, vectors = self.vectors([hit.id for hit in hits])
        if not ids:
            return np.zeros(len(hits), dtype=np.float32)
        cosines = unit(vectors) @ unit(self.embed_query(question).vector[None, :])[0]
        found = dict(zip(ids, cosines.tolist(), strict=True))
        return np.array([found.get(hit.id, 0.0) for hit in hits], dtype=np.float32)

    def find(self, where: Where) -> Collection[str]:
        """See `brein.storage.DocumentStore.find`."""
        with self._reading():
            return self._documents.find(where)

    def neighbours(self, vectors: FloatArray, k: int) -> list[list[str]]:
        """Ids of the `k` documents nearest to each of float32 (n, d), best first."""
        with self._reading():
            return self._index.nearest(vectors, k)

    def nearest(self, vector: FloatArray, k: int, where: Where | None) -> Ranking:
        """The `k` documents nearest to float32 (d,) that fulfil `where`, best first.

        Raises:
            DataError: the vector's shape is wrong, or it is not finite.
        """
        check_vector(vector)
        with self._reading():
            among = None if where is None else self._documents.find(where)
            scores, ids = self._index.search(vector, k, among)
        return list(zip(ids, scores.tolist(), strict=False))


def check_vector(vector: FloatArray) -> None:
    """Raise DataError where this is no query, float32 (d,)."""
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise DataError(f"a query vector is finite and of shape (d,); got {vector!r}")
