"""The engine: embeds texts, indexes the vectors, keeps the documents, caches, searches."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from secrets import token_hex
from threading import RLock
from typing import Any, Self

import numpy as np

from brein import embedding, storage
from brein.agents import (
    Amygdala,
    Coordinator,
    PrefrontalCortex,
    Response,
    generation,
    open_coordinator,
)
from brein.cache import CacheStats, codec, open_caches
from brein.config import EngineConfig
from brein.embedding import Embedder
from brein.embedding.batcher import Batcher
from brein.errors import ClosedError, ConfigError, DataError, MemoryLimitError, StorageError
from brein.index import IndexConfig
from brein.memory import MemoryBudget
from brein.records import (
    Analysis,
    Answer,
    Complexity,
    Document,
    Emotion,
    FloatArray,
    Hit,
    Retrieval,
    Stage,
    Strategy,
)
from brein.storage import Where
from brein.texts import check_question
from brein.upkeep import KeptIndex


class Engine:
    """A semantic memory. Make one with `Engine.open`; it is a context manager that closes itself.

    Documents are the truth and live in SQLite; the index is derived from them (`upkeep.KeptIndex`). The model
    is loaded when the first text needs it. Safe to use from several threads: short texts are embedded
    together, long ones in parallel, index and store one call at a time. One engine at a time may have a
    folder open.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self._lock = RLock()
        self._embedder: Embedder | None = None
        self._closed = False
        self._space = json.dumps(embedding.space(config.embedding), sort_keys=True)
        with ExitStack() as opened:  # closes what is open already where the next part cannot be
            if config.path is not None:
                opened.callback(os.close, storage.claim(config.path))
            self._documents = storage.create(config.storage, config.path)
            opened.callback(self._documents.close)
            self._check_space()
            self._caches = open_caches(config.cache, config.path)
            opened.callback(self._caches.close)
            self._budget = MemoryBudget(config.memory_limit, self._caches)
            folder = config.path and config.path / "index"
            self._index = KeptIndex(config.index, self._documents, folder, self._budget.make_room)
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
        _check_documents(documents, vectors)
        if not documents:
            return
        self._make_room(documents, None if vectors is None else vectors.shape[-1])
        if vectors is None:
            vectors = self._model.embed([document.text for document in documents])
        ids = [document.id for document in documents]
        with self._writing():
            self._index.check_dimension(vectors.shape[1])
            replaced = self._documents.existing(ids)
            self._documents.add(documents, vectors, self._space)
            self._index.add(ids, vectors, replaced)

    def delete(self, ids: Sequence[str]) -> int:
        """Forget the documents with these ids; return how many were there."""
        with self._writing():
            deleted = self._documents.delete(ids)
            self._index.remove(ids)
        return deleted

    def search(self, query: str | FloatArray, k: int = 10, where: Where | None = None) -> list[Hit]:
        """Find the `k` documents nearest to a text, or to a vector, float32 (d,); best first.

        `where` leaves only documents with such metadata to be found: {"lang": "en", "year": {"gte": 2020}}
        (see `brein.storage.Where`). Texts go through the caches, vectors straight to the index. Fewer than
        `k` hits come back where there are fewer documents, or an approximate index reached fewer.

        Raises:
            DataError: k is below 1, the filter malformed, the text empty or too long, or the vector's shape
                wrong.
        """
        if not isinstance(query, np.ndarray):
            return list(self.retrieve(query, k, where).hits)
        self._check_open()
        _check_k(k)
        return self._nearest(query, k, where)

    def retrieve(
        self, query: str, k: int = 10, where: Where | None = None, strategy: Strategy | None = None
    ) -> Retrieval:
        """Find the `k` documents nearest to a text, best first, and say how: in a single stage for now.

        Raises:
            DataError: k is below 1, the filter malformed, or the query no text, empty or too long.
        """
        self._check_open()
        _check_k(k)
        query = check_question(query)
        begun = time.perf_counter()

        def compute() -> bytes:
            hits = self._nearest(self._embed_query(query), k, where)
            self._budget.watch()
            return codec.encode_hits(hits)

        # Whatever changes a result changes what is looked up, so none is found after it in any level.
        key = json.dumps([self._state, k, storage.canonical(where), query])
        hits = codec.decode_hits(self._caches.search.get_or_compute(key, compute)[0])
        stage = Stage("vectors", time.perf_counter() - begun, len(hits), len(hits))
        analysis = Analysis(query, query, Complexity(0.5, 0.5, 0.5, 0.5), "two_stage")
        return Retrieval(tuple(hits), analysis, strategy or "single_stage", (stage,))

    def ask(self, question: str, k: int = 10, where: Where | None = None) -> Response[Emotion, Answer]:
        """Answer a question from the `k` documents that answer it best and fulfil `where`.

        One question at a time, on an event loop of its own: use `coordinator` for many at once, and where an
        event loop runs already.

        Raises:
            DataError: the question is no text, blank or too long, k is below 1, or the filter malformed.
            AgentTimeoutError: memory or reasoning had no answer in time.
            ConfigError: the environment variable of an API key is not set.
            ModelError: a model is missing or cannot be loaded.
            GenerationError: the language model cannot be reached, refuses, is too slow or answers nonsense.
        """

        async def answer() -> Response[Emotion, Answer]:
            async with self.coordinator() as coordinator:
                return await coordinator.ask(question, k, where)

        return asyncio.run(answer())

    def coordinator(self) -> Coordinator[Emotion, Answer]:
        """The agents of this engine, as `config.agents` limits them, for the running event loop.

        The caller closes it, before the engine. It loads the embedding model, which takes seconds: `warm_up`
        does so beforehand, in another thread say.

        Raises:
            ConfigError: the environment variable of an API key is not set.
            ModelError: a model is missing or cannot be loaded.
        """
        self._check_open()
        return open_coordinator(self, self._amygdala, self._prefrontal_cortex, self.config.agents)

    def get(self, id_: str) -> Document | None:
        """The document with this id, or None."""
        with self._reading():
            return self._documents.get(id_)

    def query(
        self,
        fields: Sequence[str],
        where: Where | None = None,
        order_by: Sequence[str] = (),
        limit: int | None = None,
        offset: int = 0,
    ) -> list[tuple[Any, ...]]:
        """Rows of fields of the documents that fulfil `where`: see `brein.storage.DocumentStore.query`."""
        with self._reading():
            return self._documents.query(fields, where, order_by, limit, offset)

    def aggregate(
        self, functions: Sequence[tuple[str, str]], where: Where | None = None, group_by: Sequence[str] = ()
    ) -> list[tuple[Any, ...]]:
        """Counts, sums, extremes and means of fields: see `brein.storage.DocumentStore.aggregate`."""
        with self._reading():
            return self._documents.aggregate(functions, where, group_by)

    def __len__(self) -> int:
        with self._reading():
            return len(self._documents)

    def retune(self, config: IndexConfig) -> None:
        """Change query parameters of the index (nprobe, efSearch, k_factor, …) without rebuilding it.

        Raises:
            ConfigError: `config` differs from the index's in a build parameter.
        """
        with self._reading():
            self._index.retune(config)
            self.config = self.config.model_copy(update={"index": config})
            self._changed()

    def backup(self, folder: Path) -> None:
        """Copy all documents, as they are now, into a new folder that `Engine.open` opens.

        Raises:
            StorageError: the folder is not empty or cannot be written.
        """
        with self._reading():
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
        self._check_open()
        self._model.embed(["warm up"])

    def close(self) -> None:
        """Save the index and close everything. Closing twice does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            with self._parts:
                self._index.save()
            self._index.drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # --- parts ---------------------------------------------------------------------------------------

    @property
    def _model(self) -> Embedder:
        with self._lock:
            if self._embedder is None:
                config = self.config.embedding
                self._embedder = Batcher(embedding.create(config), config.shared_batch)
            return self._embedder

    @cached_property
    def _amygdala(self) -> Amygdala:
        return Amygdala(self._model)

    @cached_property
    def _prefrontal_cortex(self) -> PrefrontalCortex:
        config = self.config.generation
        return PrefrontalCortex(generation.create(config, self._model), config.max_tokens)

    def _embed_query(self, query: str) -> FloatArray:
        def compute() -> bytes:
            return codec.encode_vector(self._model.embed([query])[0])

        data, _ = self._caches.embedding.get_or_compute(json.dumps([self._space, query]), compute)
        return codec.decode_vector(data)

    def _nearest(self, vector: FloatArray, k: int, where: Where | None) -> list[Hit]:
        if vector.ndim != 1 or not np.isfinite(vector).all():
            raise DataError(f"a query vector is finite and of shape (d,); got {vector!r}")
        with self._reading():
            among = None if where is None else self._documents.find(where)
            scores, ids = self._index.search(vector, k, among)
            texts = self._documents.texts(ids)
        return [Hit(id_, float(score), texts[id_]) for id_, score in zip(ids, scores, strict=False)]

    def _changed(self) -> None:
        """Name the state that results belong to from now on."""
        self._version = self._documents.version
        state = [self._documents.identity, self._version, self.config.index.model_dump(mode="json")]
        self._state = blake2b(json.dumps(state).encode(), digest_size=16).hexdigest()
        self._caches.search.levels["l1"].clear()  # what it holds is never asked for again

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Have index and store to oneself."""
        with self._lock:
            self._check_open()
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Have index and store to oneself; the index follows what is stored of a write that failed."""
        with self._reading():
            try:
                yield
            except BaseException:
                self._recover()
                raise
            self._changed()

    def _recover(self) -> None:
        try:
            if self._documents.version == self._version:
                return  # nothing was written
            self._index.drop()
            self._changed()
        except StorageError:  # what is stored cannot be told now: the caller hears why the write failed
            self._index.drop()
            self._state = token_hex()

    def _make_room(self, documents: Sequence[Document], dimension: int | None) -> None:
        if self._budget.limit is None:
            return
        with self._reading():
            dimension = dimension or self._documents.dimension or self._model.dimension
            text = sum(len(document.text) + len(str(document.metadata)) for document in documents)
            work = 3 * (4 * dimension * len(documents) + 4 * text)  # prepared, encoded and written
            needed = work + self._index.bytes_to_add(len(documents), dimension)
            purpose = f"ingesting {len(documents):,} documents"
            try:
                self._budget.make_room(needed, purpose)
            except MemoryLimitError:
                if not self._index.compact():
                    raise
                self._budget.make_room(needed, purpose)

    def _check_space(self) -> None:
        if self._documents.dimension is not None and self._documents.space != self._space:
            raise ConfigError(
                f"the documents in {self.config.path} were embedded in the space {self._documents.space}, "
                f"the configured one is {self._space}; configure that embedding, or use another path"
            )

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the engine is closed; open it again")


def _check_k(k: int) -> None:
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise DataError(f"k = {k!r}: must be an integer of at least 1")


def _check_documents(documents: Sequence[Document], vectors: FloatArray | None) -> None:
    storage.check(documents, vectors)
    seen: set[str] = set()
    for document in documents:
        if not document.id or not document.text.strip():
            raise DataError(f"document {document.id!r}: id and text must not be empty")
        if document.id in seen:
            raise DataError(f"document {document.id!r} is given twice; ids are unique")
        seen.add(document.id)
