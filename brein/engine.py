"""The engine: embeds texts, indexes the vectors, keeps the documents, caches, searches."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path
from threading import RLock
from typing import Self

from brein import embedding, index
from brein.cache import CacheStats, MemoryCache, codec
from brein.config import EngineConfig
from brein.embedding import Embedder
from brein.errors import ClosedError, ConfigError, DataError, StorageError
from brein.index import Index
from brein.index.flat import FlatConfig
from brein.records import Document, FloatArray, Hit
from brein.storage import DocumentStore


class Engine:
    """A semantic memory. Make one with `Engine.open`; it is a context manager that closes itself.

    Documents are the truth and live in SQLite; the index is derived from them, saved by `close()`, and
    rebuilt by `open()` when it is missing, damaged, older than the documents or built otherwise. As long as
    there are fewer documents than the index needs to train, an exact index stands in for it. The model is
    loaded when the first text needs it. Safe to use from several threads: embedding runs in parallel, index
    and store one call at a time. One engine at a time may have a folder open.
    """

    def __init__(self, config: EngineConfig) -> None:
        cache = config.cache
        self.config = config
        self._lock = RLock()
        self._embedder: Embedder | None = None
        self._index: Index | None = None
        self._closed = False
        self._embeddings = MemoryCache(cache.embedding.maxsize, cache.embedding.ttl, cache.max_bytes)
        self._results = MemoryCache(cache.search.maxsize, cache.search.ttl, cache.max_bytes)
        self._space = json.dumps(embedding.space(config.embedding), sort_keys=True)
        self._folder = None if config.path is None else _claim(config.path)
        self._documents = DocumentStore(config.storage, config.path and config.path / "documents.sqlite")
        self._generation = self._documents.generation
        self._saved_generation: int | None = None  # that of the index on disk

    @classmethod
    def open(cls, config: EngineConfig | None = None) -> Self:
        """Open the engine at `config.path`, creating it if nothing is there.

        Raises:
            StorageError: the folder is not an engine's, is open in another engine, or cannot be used.
            ConfigError: its documents were embedded with another model.
        """
        engine = cls(config or EngineConfig())
        try:
            engine._open_index()
        except BaseException:
            engine._release()
            raise
        return engine

    def ingest(self, documents: Sequence[Document], vectors: FloatArray | None = None) -> None:
        """Remember `documents`; when this returns they are on disk. An id that is there already is replaced.

        `vectors`, float32 (n, d), spares the embedding of documents embedded before with the same model.

        Raises:
            DataError: a text or id is empty or not storable, an id is given twice, or the vectors have the
                wrong shape. Nothing is ingested then.
        """
        self._check_open()
        if not documents:
            return
        _check_documents(documents)
        if vectors is None:
            vectors = self._model.embed([document.text for document in documents])
        ids = [document.id for document in documents]
        with self._lock:
            self._check_vectors(len(documents), vectors)  # can fail, so it comes before any change
            replaced = self._documents.existing(ids)
            self._documents.add(documents, vectors, self._space)
            if self._index is None or (self._stands_in and len(self._documents) >= self._training_minimum):
                self._rebuild_index()
            else:
                self._index.remove(replaced)
                self._index.add(ids, vectors)
            self._changed()

    def delete(self, ids: Sequence[str]) -> int:
        """Forget the documents with these ids; return how many were there."""
        self._check_open()
        with self._lock:
            deleted = self._documents.delete(ids)
            if self._index is not None:
                self._index.remove(ids)
            self._changed()
        return deleted

    def search(self, query: str | FloatArray, k: int = 10) -> list[Hit]:
        """Find the `k` documents nearest to a text, or to a vector, float32 (d,); best first.

        Texts go through both caches, vectors straight to the index. Fewer than `k` hits come back where
        there are fewer documents, or an approximate index reached fewer.

        Raises:
            DataError: k is below 1, the text is empty, or the vector has the wrong shape.
        """
        self._check_open()
        if k < 1:
            raise DataError(f"k = {k}: must be at least 1")
        if not isinstance(query, str):
            return self._nearest(query, k)
        if not query.strip():
            raise DataError("the query is empty; give it a text")
        # A write in another thread moves the generation on, so a result can never be found after it.
        key = f"{self._generation}:{k}:{query}"
        if (cached := self._results.get(key)) is not None:
            return codec.decode_hits(cached)
        hits = self._nearest(self._embed_query(query), k)
        self._results.set(key, codec.encode_hits(hits, self.config.cache.search.compression))
        return hits

    def get(self, id_: str) -> Document | None:
        """The document with this id, or None."""
        self._check_open()
        return self._documents.get(id_)

    def __len__(self) -> int:
        return len(self._documents)

    def cache_stats(self) -> dict[str, CacheStats]:
        """Counts of each cache, by name."""
        return {"embedding": self._embeddings.stats(), "search": self._results.stats()}

    def clear_caches(self) -> None:
        """Forget everything cached; the counts stay."""
        self._embeddings.clear()
        self._results.clear()

    def warm_up(self) -> None:
        """Load the model now instead of at the first text."""
        self._model.embed(["warm up"])

    def close(self) -> None:
        """Save the index and close the store. Closing twice does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                self._save_index()
            finally:
                self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # --- parts ---------------------------------------------------------------------------------------

    @property
    def _model(self) -> Embedder:
        with self._lock:
            if self._embedder is None:
                self._embedder = embedding.create(self.config.embedding)
            return self._embedder

    def _embed_query(self, query: str) -> FloatArray:
        if (cached := self._embeddings.get(query)) is not None:
            return codec.decode_vector(cached)
        vector: FloatArray = self._model.embed([query])[0]
        self._embeddings.set(query, codec.encode_vector(vector))
        return vector

    def _nearest(self, vector: FloatArray, k: int) -> list[Hit]:
        if vector.ndim != 1:
            raise DataError(f"a query vector has shape (d,); got {vector.shape}")
        with self._lock:
            if self._index is None or not len(self._index):
                return []
            scores, ids = self._index.search(vector[None, :], min(k, len(self._index)))
            texts = self._documents.texts(ids[0])
        return [Hit(id_, float(score), texts[id_]) for id_, score in zip(ids[0], scores[0], strict=False)]

    def _check_vectors(self, count: int, vectors: FloatArray) -> None:
        if vectors.ndim != 2 or len(vectors) != count:
            raise DataError(f"{count} documents take vectors of shape ({count}, d); got {vectors.shape}")
        if self._index is not None:
            if vectors.shape[1] != self._index.dimension:
                raise DataError(
                    f"vectors have {vectors.shape[1]} components; this engine's {self._index.dimension}"
                )
        else:
            index.create(self.config.index, vectors.shape[1])  # refuses a dimension it cannot have

    def _changed(self) -> None:
        self._generation = self._documents.generation
        self._results.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the engine is closed; open it again")

    # --- the index on disk -----------------------------------------------------------------------------

    def _open_index(self) -> None:
        """Load the saved index if it belongs to the documents; else rebuild it from their vectors."""
        if not len(self._documents):
            return
        if self._documents.space != self._space:
            raise ConfigError(
                f"the documents in {self.config.path} were embedded in the space {self._documents.space}, "
                f"the configured one is {self._space}; configure that embedding, or use another path"
            )
        self._index = self._saved_index()
        if self._index is None:
            self._rebuild_index()

    @property
    def _training_minimum(self) -> int:
        return self.config.index.training_minimum[0]

    @property
    def _stands_in(self) -> bool:
        return self._index is not None and self._index.config.kind != self.config.index.kind

    def _rebuild_index(self) -> None:
        ids, vectors = self._documents.vectors()
        enough = len(ids) >= self._training_minimum
        config = self.config.index if enough else FlatConfig(metric=self.config.index.metric)
        rebuilt = index.create(config, vectors.shape[1])
        rebuilt.add(ids, vectors)
        self._index = rebuilt

    def _saved_index(self) -> Index | None:
        if self.config.path is None:
            return None
        try:
            saved = index.load(self.config.index, self.config.path / "index", str(self._generation))
        except StorageError:
            return None  # the index can always be made again from the documents
        self._saved_generation = self._generation
        return saved

    def _save_index(self) -> None:
        if self.config.path is None or self._index is None or self._stands_in:
            return
        if self._saved_generation != self._generation:
            index.save(self._index, self.config.path / "index", str(self._generation))

    def _release(self) -> None:
        self._documents.close()
        if self._folder is not None:
            os.close(self._folder)


def _claim(path: Path) -> int:
    """Make the folder and lock it for this engine; the lock ends with the process, however that ends."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        folder = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise StorageError(f"path = {path}: {error.strerror}; choose a folder you can write") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(folder)
        raise StorageError(f"path = {path} is open in another engine; close that one first") from None
    return folder


def _check_documents(documents: Sequence[Document]) -> None:
    seen: set[str] = set()
    for document in documents:
        if not document.id or not document.text.strip():
            raise DataError(f"document {document.id!r}: id and text must not be empty")
        if document.id in seen:
            raise DataError(f"document {document.id!r} is given twice; ids are unique")
        seen.add(document.id)
        try:
            document.id.encode(), document.text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"document {document.id!r}: {error.reason} at character {error.start}") from None
