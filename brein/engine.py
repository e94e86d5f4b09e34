"""The engine: embeds texts, indexes the vectors, keeps the documents, caches, searches."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path
from threading import RLock
from typing import Self

from brein import embedding, storage
from brein.cache import CacheStats, codec, open_caches
from brein.config import EngineConfig
from brein.embedding import Embedder
from brein.errors import ClosedError, ConfigError, DataError, StorageError
from brein.index import IndexConfig
from brein.memory import MemoryBudget
from brein.records import Document, FloatArray, Hit
from brein.storage import Where
from brein.upkeep import KeptIndex


class Engine:
    """A semantic memory. Make one with `Engine.open`; it is a context manager that closes itself.

    Documents are the truth and live in SQLite; the index is derived from them (`upkeep.KeptIndex`). The model
    is loaded when the first text needs it. Safe to use from several threads: embedding runs in parallel,
    index and store one call at a time. One engine at a time may have a folder open.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self._lock = RLock()
        self._embedder: Embedder | None = None
        self._closed = False
        self._space = json.dumps(embedding.space(config.embedding), sort_keys=True)
        with ExitStack() as opened:  # closes what is open already where the next part cannot be
            if config.path is not None:
                opened.callback(os.close, _claim(config.path))
            self._documents = storage.create(config.storage, config.path)
            opened.callback(self._documents.close)
            self._check_space()
            self._caches = open_caches(config.cache, config.path)
            opened.callback(self._caches.close)
            self._budget = MemoryBudget(config.memory_limit, self._caches)
            folder = config.path and config.path / "index"
            self._index = KeptIndex(config.index, self._documents, folder)
            self._index.open()
            self._changed()
            self._parts = opened.pop_all()

    @classmethod
    def open(cls, config: EngineConfig | None = None) -> Self:
        """Open the engine at `config.path`, creating it if nothing is there.

        Raises:
            StorageError: the folder is not an engine's, is open in another engine, or cannot be used.
            ConfigError: its documents were embedded with another model.
        """
        return cls(config or EngineConfig())

    def ingest(self, documents: Sequence[Document], vectors: FloatArray | None = None) -> None:
        """Remember `documents`; when this returns they are on disk. An id that is there already is replaced.

        `vectors`, float32 (n, d), spares the embedding of documents embedded before with the same model.

        Raises:
            DataError: a text or id is empty or not storable, an id is given twice, or the vectors have the
                wrong shape. Nothing is ingested then.
            MemoryLimitError: they do not fit into `memory_limit`. Nothing is ingested then.
            StorageError: they cannot be written.
        """
        self._check_open()
        if not documents:
            return
        _check_documents(documents)
        if vectors is None:
            vectors = self._model.embed([document.text for document in documents])
        ids = [document.id for document in documents]
        with self._lock:
            self._check_vectors(len(documents), vectors)
            self._make_room(documents, vectors)
            replaced = self._documents.existing(ids)
            try:
                self._documents.add(documents, vectors, self._space)
                self._index.add(ids, vectors, replaced)
            except BaseException:
                self._recover()
                raise
            self._changed()

    def delete(self, ids: Sequence[str]) -> int:
        """Forget the documents with these ids; return how many were there."""
        self._check_open()
        with self._lock:
            try:
                deleted = self._documents.delete(ids)
                self._index.remove(ids)
            except BaseException:
                self._recover()
                raise
            self._changed()
        return deleted

    def search(self, query: str | FloatArray, k: int = 10, where: Where | None = None) -> list[Hit]:
        """Find the `k` documents nearest to a text, or to a vector, float32 (d,); best first.

        `where` leaves only documents with such metadata to be found: {"lang": "en", "year": {"gte": 2020}}
        (see `brein.storage.Where`). Texts go through the caches, vectors straight to the index. Fewer than
        `k` hits come back where there are fewer documents, or an approximate index reached fewer.

        Raises:
            DataError: k is below 1, the text is empty, the filter malformed, or the vector's shape wrong.
        """
        self._check_open()
        if k < 1:
            raise DataError(f"k = {k}: must be at least 1")
        if not isinstance(query, str):
            return self._nearest(query, k, where)
        if not query.strip():
            raise DataError("the query is empty; give it a text")

        def compute() -> bytes:
            hits = self._nearest(self._embed_query(query), k, where)
            self._budget.watch()
            return codec.encode_hits(hits)

        # Whatever changes a result changes what is looked up, so none is found after it in any level.
        key = json.dumps([self._state, k, where and dict(where), query])
        return codec.decode_hits(self._caches.search.get_or_compute(key, compute)[0])

    def get(self, id_: str) -> Document | None:
        """The document with this id, or None."""
        self._check_open()
        return self._documents.get(id_)

    def __len__(self) -> int:
        return len(self._documents)

    def retune(self, config: IndexConfig) -> None:
        """Change query parameters of the index (nprobe, efSearch, k_factor, …) without rebuilding it.

        Raises:
            ConfigError: `config` differs from the index's in a build parameter.
        """
        self._check_open()
        with self._lock:
            self._index.retune(config)
            self.config = self.config.model_copy(update={"index": config})
            self._changed()

    def backup(self, folder: Path) -> None:
        """Copy all documents, as they are now, into a new folder that `Engine.open` opens.

        Raises:
            StorageError: the folder is not empty or cannot be written.
        """
        self._check_open()
        self._documents.backup(folder)

    def cache_stats(self) -> dict[str, dict[str, CacheStats]]:
        """Counts of each cache, by its name and its level's."""
        return self._caches.stats()

    def clear_caches(self) -> None:
        """Forget everything cached; the counts stay."""
        self._caches.embedding.clear()
        self._caches.search.clear()

    def warm_up(self) -> None:
        """Load the model now instead of at the first text."""
        self._model.embed(["warm up"])

    def close(self) -> None:
        """Save the index and close everything. Closing twice does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            with self._parts:
                self._index.save()

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
        def compute() -> bytes:
            return codec.encode_vector(self._model.embed([query])[0])

        data, _ = self._caches.embedding.get_or_compute(json.dumps([self._space, query]), compute)
        return codec.decode_vector(data)

    def _nearest(self, vector: FloatArray, k: int, where: Where | None) -> list[Hit]:
        if vector.ndim != 1:
            raise DataError(f"a query vector has shape (d,); got {vector.shape}")
        with self._lock:
            among = None if where is None else self._documents.find(where)
            scores, ids = self._index.search(vector, k, among)
            texts = self._documents.texts(ids)
        return [Hit(id_, float(score), texts[id_]) for id_, score in zip(ids, scores, strict=False)]

    def _changed(self) -> None:
        """Name the state that results belong to from now on."""
        state = [self._documents.identity, self._documents.version, self.config.index.model_dump(mode="json")]
        self._state = blake2b(json.dumps(state).encode(), digest_size=16).hexdigest()
        self._caches.search.levels["l1"].clear()  # what it holds is never asked for again

    def _recover(self) -> None:
        """After a write that failed: whatever of it is stored, let the index follow the documents."""
        self._index.drop()
        self._changed()

    def _make_room(self, documents: Sequence[Document], vectors: FloatArray) -> None:
        text = sum(len(document.text) for document in documents)
        work = 3 * (vectors.nbytes + 4 * text)  # prepared, encoded and written
        needed = work + self._index.bytes_to_grow(len(documents), vectors.shape[1])
        self._budget.make_room(needed, f"ingesting {len(documents):,} documents", self._index.compact)

    def _check_vectors(self, count: int, vectors: FloatArray) -> None:
        if vectors.ndim != 2 or len(vectors) != count:
            raise DataError(f"{count} documents take vectors of shape ({count}, d); got {vectors.shape}")
        self._index.check_dimension(vectors.shape[1])

    def _check_space(self) -> None:
        if len(self._documents) and self._documents.space != self._space:
            raise ConfigError(
                f"the documents in {self.config.path} were embedded in the space {self._documents.space}, "
                f"the configured one is {self._space}; configure that embedding, or use another path"
            )

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the engine is closed; open it again")


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
