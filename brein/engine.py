"""The engine: embeds texts, indexes the vectors, keeps the documents, caches, searches."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from secrets import token_hex
from threading import Lock, RLock
from typing import Any, Self, get_args

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
from brein.encoder import QueryEmbedder
from brein.errors import (
    ClosedError,
    ConfigError,
    DataError,
    MemoryLimitError,
    ModelError,
    ShardsMissingError,
    StorageError,
)
from brein.index import IndexConfig
from brein.memory import MemoryBudget
from brein.reader import Reader
from brein.records import Analysis, Answer, Document, Emotion, FloatArray, Hit, Retrieval, Strategy
from brein.retrieval import rerank
from brein.retrieval.mesh import MeshConfig
from brein.retrieval.pipeline import Pipeline, RetrievalConfig
from brein.retrieval.rerank import AnyReranker, Reranker
from brein.storage import Where
from brein.texts import check_question, shown
from brein.upkeep import KeptIndex, KeptMesh

_MOST_HITS = 1_000_000  # of one question


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
        self._loading = Lock()  # over the model alone: texts are embedded while documents are written
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
            self._queries = QueryEmbedder(lambda: self._model, self._caches.embedding, self._space)
            self._reader = self._open_reader(opened)
            self._reranker: tuple[AnyReranker, Reranker] | None = None  # the last that was configured
            self._mesh: KeptMesh | None = None
            if config.retrieval.mesh.enabled:
                self._mesh = KeptMesh(
                    config.retrieval.mesh,
                    self._documents,
                    config.path,
                    self._reader.neighbours,
                    self._budget.make_room,
                )
                opened.callback(self._mesh.close)
                self._mesh.catch_up()
            self._pipeline = self._make_pipeline()
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
            if self._mesh is not None:
                self._mesh.add(ids)

    def delete(self, ids: Sequence[str]) -> int:
        """Forget the documents with these ids; return how many were there."""
        with self._writing():
            deleted = self._documents.delete(ids)
            self._index.remove(ids)
            if self._mesh is not None:
                self._mesh.remove(ids)
        return deleted

    def search(self, query: str | FloatArray, k: int = 10, where: Where | None = None) -> list[Hit]:
        """Find the `k` documents that fit a text best, or are nearest to a vector, float32 (d,); best first.

        A text goes through the caches and the stages of `retrieve`, a vector straight to the index. `where`
        leaves only documents with such metadata to be found: {"lang": "en", "year": {"gte": 2020}} (see
        `brein.storage.Where`). Fewer than `k` hits come back where there are fewer documents, or an
        approximate index reached fewer.

        Raises:
            DataError: k is below 1 or above 1,000,000, the text is empty or too long, the filter malformed,
                or the vector's shape wrong.
            ShardsMissingError: the index is served from several places, and not all have answered; it carries
                the hits that the others found.
        """
        if not isinstance(query, np.ndarray):
            found = self.retrieve(query, k, where)
            if found.missing:
                raise ShardsMissingError(found.missing, found.hits)
            return list(found.hits)
        _check_k(k)
        self._check_open()
        try:
            return self._hits(self._reader.nearest(query, k, where))
        except ShardsMissingError as partial:
            raise ShardsMissingError(partial.missing, self._hits(partial.found)) from None

    def retrieve(
        self, query: str, k: int = 10, where: Where | None = None, strategy: Strategy | None = None
    ) -> Retrieval:
        """Find the `k` documents that fit a text best, and say how, stage by stage (see `brein.retrieval`).

        `strategy` None takes the configured one. What is degraded is neither cached nor learnt from by the
        mesh, nor what a change of documents or settings overtook.

        Raises:
            DataError: k is below 1 or above 1,000,000, the text is empty or too long, the filter malformed,
                or the strategy unknown.
        """
        if strategy not in (None, *get_args(Strategy)):
            known = ", ".join(get_args(Strategy))
            raise DataError(f"strategy = {strategy!r} is unknown; known: {known}; None: the configured one")
        text, state = self._check_asked(query, k), self._state

        def compute() -> bytes:
            found = self._pipeline.retrieve(text, k, where, strategy)
            self._budget.watch()
            if found.degraded is not None or self._state != state:
                raise _NotKeptError(found)
            return codec.encode_retrieval(found)

        try:
            kept, _ = self._caches.search.get_or_compute(_key(state, text, k, where, strategy), compute)
        except _NotKeptError as given:
            return given.retrieval
        found = codec.decode_retrieval(kept)
        self.strengthen([hit.id for hit in found.hits[: self.config.retrieval.mesh.co_retrieved]])
        return found

    def recall(self, query: str, k: int = 10, where: Where | None = None) -> bytes | None:
        """What `retrieve` finds in memory, as `codec.encode_retrieval` writes it; None where it would have to
        look further.

        It waits for nothing, so an event loop may ask it; None, too, where use teaches a mesh.

        Raises:
            DataError: as `retrieve`.
        """
        text = self._check_asked(query, k)
        if self._taught is not None:
            return None
        return self._caches.search.peek(_key(self._state, text, k, where, None))

    def analyse(self, query: str) -> Analysis:
        """What a retrieval finds out about a text: its complexity, strategy, and how long it will take."""
        self._check_open()
        return self._pipeline.analyse(check_question(query))

    def strengthen(self, ids: Sequence[str]) -> None:
        """Tell the mesh that documents were of use together, as it learns itself of the best hits of a text;
        without a mesh, or while it is switched off, this does nothing."""
        self._check_open()
        if self._taught is not None:
            self._taught.strengthen(ids)

    def ask(self, question: str, k: int = 10, where: Where | None = None) -> Response[Emotion, Answer]:
        """Answer a question from the `k` documents that answer it best and fulfil `where`.

        One question at a time, on an event loop of its own: use `coordinator` for many at once, and where an
        event loop runs already.

        Raises:
            DataError: the question is no text, blank or too long, k is below 1 or above 1,000,000, or the
                filter malformed.
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

        The caller closes it, before the engine. The first question waits seconds for the embedding model:
        `warm_up` loads it beforehand, in another thread say.

        Raises:
            ConfigError: the environment variable of an API key is not set.
            ModelError: a language model's file, or the extra that runs it, is missing.
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

    def retune(self, config: IndexConfig | RetrievalConfig) -> None:
        """Change query parameters of the index (nprobe, efSearch, k_factor, …), or how texts are retrieved,
        without rebuilding anything.

        Raises:
            ConfigError: `config` differs from the index's in a build parameter, or in the mesh's settings;
                but a mesh can be switched off, and on again.
        """
        with self._reading():
            if isinstance(config, RetrievalConfig):
                self._check_mesh(config.mesh)
                self.config = self.config.model_copy(update={"retrieval": config})
                self._pipeline = self._make_pipeline()
            else:
                self._index.retune(config)
                self.config = self.config.model_copy(update={"index": config})
                self._pipeline = self._make_pipeline()  # how long a search takes is to be learnt anew
            self._changed()

    def backup(self, folder: Path) -> None:
        """Copy all documents, as they are now, into a new folder that `Engine.open` opens.

        Raises:
            StorageError: the folder is not empty or cannot be written.
        """
        with self._reading():
            self._documents.backup(folder)

    def index_bytes(self) -> dict[str, int]:
        """Bytes the index holds in main memory, by part: codes, links, ids, …; empty while there is none."""
        with self._reading():
            return self._index.resident()

    def cache_stats(self) -> dict[str, dict[str, CacheStats]]:
        """Counts of each cache, by its name and its level's."""
        return self._caches.stats()

    def clear_caches(self) -> None:
        """Forget everything cached; the counts stay."""
        self._caches.embedding.clear()
        self._caches.search.clear()

    def warm_up(self) -> None:
        """Load the models, and what else the first texts and questions would wait for, now.

        A language model's missing key, file or extra is left for `coordinator` to tell: searches need none.
        """
        self._check_open()
        self._model.embed(["warm up"])
        self._pipeline.warm_up()
        self._amygdala.warm_up()
        with suppress(ConfigError, ModelError):
            _ = self._prefrontal_cortex

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
        with self._loading:
            if self._embedder is None:
                config = self.config.embedding
                self._embedder = Batcher(embedding.create(config), config.shared_batch)
            return self._embedder

    @cached_property
    def _amygdala(self) -> Amygdala:
        return Amygdala(self._queries)

    @cached_property
    def _prefrontal_cortex(self) -> PrefrontalCortex:
        config = self.config.generation
        return PrefrontalCortex(generation.create(config, self._reader.likeness), config.max_tokens)

    def _open_reader(self, opened: ExitStack) -> Reader:
        """What reads documents and index; `opened` closes what it opens."""
        self._index.open()
        return Reader(self._reading, self._documents, self._index, self._queries.embed_query)

    def _hits(self, ranking: Sequence[tuple[str, float]]) -> list[Hit]:
        """With their texts; what was deleted since it was found is left out."""
        texts = self._reader.texts([id_ for id_, _ in ranking])
        return [Hit(id_, score, texts[id_]) for id_, score in ranking if id_ in texts]

    def _make_pipeline(self) -> Pipeline:
        config = self.config.retrieval
        return Pipeline(
            config,
            self._reader,
            None if config.reranker is None else self._reranker_of(config.reranker),
            None if self._taught is None else self._taught.mesh,
        )

    def _reranker_of(self, config: AnyReranker) -> Reranker:
        """The one that is there, if it is such a one: it may have loaded a model."""
        if self._reranker is None or self._reranker[0] != config:
            self._reranker = config, rerank.create(config, self._queries)
        return self._reranker[1]

    @property
    def _taught(self) -> KeptMesh | None:
        """The mesh that use teaches, if there is one and it is not switched off."""
        return self._mesh if self.config.retrieval.mesh.enabled else None

    def _check_mesh(self, config: MeshConfig) -> None:
        now = self.config.retrieval.mesh
        same = config == now.model_copy(update={"enabled": config.enabled})
        if not same or (config.enabled and self._mesh is None):
            raise ConfigError(f"retrieval.mesh = {config}: the open engine has {now}; open it anew")

    def _changed(self) -> None:
        """Name the state that results belong to from now on."""
        self._version = self._documents.version
        parts = (self.config.index, self.config.retrieval)
        settings = [part.model_dump(mode="json") for part in parts]
        state = [codec.RETRIEVAL_FORM, self._documents.identity, self._version, *settings]
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
            if self._mesh is not None:
                self._mesh.catch_up()
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
            if self._mesh is not None:
                needed += self.config.retrieval.mesh.bytes_to_add(len(documents))
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

    def _check_asked(self, query: str, k: int) -> str:
        """The text that is asked, where all is as it should be."""
        self._check_open()
        _check_k(k)
        return check_question(query)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the engine is closed; open it again")


class _NotKeptError(Exception):
    """Carries a retrieval past the cache that computed it."""

    def __init__(self, retrieval: Retrieval) -> None:
        self.retrieval = retrieval


def _key(state: str, text: str, k: int, where: Where | None, strategy: Strategy | None) -> str:
    """What a retrieval is kept under.

    Whatever changes a result changes what is looked up, so none is found after it in any level; but for what
    use teaches the mesh, since almost every use teaches it something.
    """
    return json.dumps([state, k, storage.canonical(where), strategy, text])


def _check_k(k: int) -> None:
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= _MOST_HITS:
        raise DataError(f"k = {shown(k)}: must be an integer of at least 1 and at most {_MOST_HITS:,}")


def _check_documents(documents: Sequence[Document], vectors: FloatArray | None) -> None:
    storage.check(documents, vectors)
    seen: set[str] = set()
    for document in documents:
        if not document.id or not document.text.strip():
            raise DataError(f"document {document.id!r}: id and text must not be empty")
        if document.id in seen:
            raise DataError(f"document {document.id!r} is given twice; ids are unique")
        seen.add(document.id)
