"""An engine whose index is served in shards by the nodes of a Ray cluster.

The engine keeps the documents, in this process, and asks all shards at once for the nearest vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Self, TypeVar

from brein.config import EngineConfig
from brein.engine import Engine
from brein.errors import ClosedError, ClusterError, ConfigError, ShardsMissingError
from brein.index import IndexConfig
from brein.metrics import SHARD_AVAILABLE, SHARD_REPLICAS, Latest, Reading, Source
from brein.reader import Reader, check_vector
from brein.records import Document, FloatArray
from brein.retrieval.fusion import Ranking
from brein.retrieval.pipeline import RetrievalConfig
from brein.scaling.config import ScalingConfig
from brein.scaling.deployment import ShardCluster, ShardHealth, build
from brein.scaling.join import joined, require
from brein.scaling.shards import plan
from brein.storage import Where

Result = TypeVar("Result")
_PATIENCE = 60.0  # seconds a cluster may take to answer at all
_LOOKED_AT = 10.0  # seconds between two looks at the shards: each asks all of them


class ClusterEngine(Engine):
    """An engine whose index is served in shards by a Ray cluster. Its documents cannot be changed meanwhile.

    It answers as an engine with `index.shards = scaling.shards` that has built its index from the same
    documents. Where shards do not answer in time, `search` raises ShardsMissingError with what the others
    found, and a retrieval says so in `missing`. Closing ends the shards, and Ray if it was started for them.
    """

    def __init__(self, config: EngineConfig, scaling: ScalingConfig) -> None:
        if config.path is None:
            raise ConfigError("path = null: shards are served from an engine's folder; name one")
        _check_times(scaling, config.retrieval)
        require(alone=scaling.address is None)
        self.scaling = scaling
        self._folder = (scaling.folder or config.path / "shards").absolute()
        sharded = config.index.model_copy(update={"shards": scaling.shards})
        super().__init__(config.model_copy(update={"index": sharded}))

    @classmethod
    def open(cls, config: EngineConfig | None = None, scaling: ScalingConfig | None = None) -> Self:
        """Open the engine at `config.path`, and serve its index; builds the shards where that is to be done.

        Raises:
            ConfigError: there is no path, no document or no Ray Serve; a search would wait for shards longer
                than it has for vectors; or as `Engine.open`.
            StorageError: as `Engine.open`; or the shards' files cannot be written.
            ClusterError: the cluster does not answer, or a shard does not start in time.
        """
        return cls(config or EngineConfig(), scaling or ScalingConfig(kind="ray"))

    def ingest(self, documents: Sequence[Document], vectors: FloatArray | None = None) -> None:
        """Refuses."""
        raise _read_only()

    def delete(self, ids: Sequence[str]) -> int:
        """Refuses."""
        raise _read_only()

    def retune(self, config: IndexConfig | RetrievalConfig) -> None:
        """Change how texts are retrieved.

        Raises:
            ConfigError: these are parameters of the index; a search would wait for shards longer than it has
                for vectors; or as `Engine.retune`.
        """
        if not isinstance(config, RetrievalConfig):
            raise ConfigError(
                f"index = {config}: shards that are served keep their parameters; serve them anew"
            )
        _check_times(self.scaling, config)
        super().retune(config)

    def health(self) -> list[ShardHealth]:
        """Each shard, asked now; takes up to `scaling.timeout` seconds, and what Ray's controller takes.

        Raises:
            ClusterError: Ray Serve does not answer.
        """
        self._check_open()
        return self._on_ray(self._cluster.health)

    def _on_ray(self, call: Callable[..., Result], *arguments: Any) -> Result:
        try:
            calling = self._ray.submit(call, *arguments)
        except RuntimeError:  # its thread has ended meanwhile
            raise ClosedError("the engine is closed; open it again") from None
        return calling.result()

    def _open_reader(self, opened: ExitStack) -> Reader:
        documents, scaling, path = self._documents, self.scaling, self.config.path
        if documents.dimension is None or path is None:
            raise ConfigError(f"path = {path}: there are no documents to serve; ingest some first")
        cores = scaling.shards * scaling.replicas * scaling.cores
        # Ray is joined and left by one thread, which outlives both: left by another, it waits half a minute.
        self._ray = opened.enter_context(ThreadPoolExecutor(1, "ray"))
        joining = joined(scaling.address, cores, min(scaling.start_timeout, _PATIENCE))
        self._on_ray(joining.__enter__)
        opened.callback(self._on_ray, joining.__exit__, None, None, None)
        planned = plan(documents, self.config.index, self._folder)
        if not planned.is_built:
            self._on_ray(build, documents, planned, path / "index")
        self._cluster = ShardCluster(scaling, planned, documents.identity, documents.dimension)
        opened.callback(self._on_ray, self._cluster.close)
        self._on_ray(self._cluster.start)
        planned.sweep()
        embed = self._queries.embed_query
        return _Reader(self._cluster, self._reading, documents, self._index, embed)


class _Reader(Reader):
    """Reads documents here, one call at a time, and vectors on the cluster, many at once."""

    def __init__(self, cluster: ShardCluster, *parts: Any) -> None:
        super().__init__(*parts)
        self._cluster = cluster

    def neighbours(self, vectors: FloatArray, k: int) -> list[list[str]]:
        """Ids of the `k` documents nearest to each of float32 (n, d), best first."""
        found = self._cluster.search(vectors, k)
        if found.missing:
            raise ShardsMissingError(found.missing, [])
        return found.neighbours.ids

    def nearest(self, vector: FloatArray, k: int, where: Where | None) -> Ranking:
        """The `k` documents nearest to float32 (d,) that fulfil `where`, best first.

        Raises:
            DataError: the vector's shape is wrong, or it is not finite.
            ShardsMissingError: some shards did not answer; it carries what the others found.
        """
        check_vector(vector)
        among = None if where is None else self.find(where)
        (scores, ids), missing = self._cluster.search(vector[None, :], min(k, len(self)), among)
        ranking = list(zip(ids[0], scores[0].tolist(), strict=False))
        if missing:
            raise ShardsMissingError(missing, ranking)
        return ranking


def shard_readings(health: Callable[[], Sequence[ShardHealth]]) -> Source:
    """A source of whether each shard answers and how many replicas of it run, as `ClusterEngine.health` says.

    That is asked beside the scrape, every 10 s at most.
    """
    shards = Latest(health, every=_LOOKED_AT)

    def read() -> Iterator[Reading]:
        for shard in shards.get() or ():
            labels = (str(shard.shard),)
            yield SHARD_AVAILABLE, labels, shard.problem is None
            yield SHARD_REPLICAS, labels, shard.running

    return read


def _check_times(scaling: ScalingConfig, retrieval: RetrievalConfig) -> None:
    vectors = retrieval.vectors
    if vectors.enabled and scaling.timeout >= vectors.budget:
        raise ConfigError(
            f"scaling.timeout = {scaling.timeout:g} s: must be below retrieval.vectors.budget = "
            f"{vectors.budget:g} s, or a missing shard costs what the others found, too; lower it"
        )


def _read_only() -> ClusterError:
    return ClusterError(
        "documents cannot be changed while their index is served in shards; open the engine without scaling, "
        "change them, and serve it anew"
    )
