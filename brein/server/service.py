"""The engine as the routes ask it, and why it cannot be asked while it cannot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from brein.agents import Coordinator, Response
from brein.cache import codec
from brein.config import EngineConfig
from brein.engine import Engine
from brein.metrics import CONNECTIONS_CLOSED, Kind, Reading, outcome_of
from brein.monitoring import Monitoring, MonitoringConfig
from brein.records import Answer, Document, Emotion
from brein.scaling.cluster import ClusterEngine, shard_readings
from brein.scaling.config import ScalingConfig
from brein.server.connections import LEFT
from brein.server.problems import RefusedError
from brein.storage import Where


class Service:
    """Opens the engine beside the event loop, watches it, and closes it. `draining`: it was told to stop.

    `connections` says how many are open, `closed` how many it closed itself, by reason; `probe` asks over the
    network whether this lives.
    """

    def __init__(
        self,
        config: EngineConfig,
        watched: MonitoringConfig | None = None,
        scaling: ScalingConfig | None = None,
    ) -> None:
        self.draining = False
        self.engine: Engine | None = None
        self.monitoring: Monitoring | None = None
        self.connections: Callable[[], int] = int
        self.closed: Mapping[str, int] = {}
        self.probe: Callable[[], object] | None = None
        self._config = config
        self._watched = watched
        self._scaling = scaling or ScalingConfig()
        self._coordinator: Coordinator[Emotion, Answer] | None = None
        self._opening: str | None = "the engine is being opened"

    @property
    def obstacle(self) -> str | None:
        """Why it is not ready; None where it is."""
        return "the service was told to stop and is draining" if self.draining else self._opening

    @property
    def coordinator(self) -> Coordinator[Emotion, Answer]:
        """The agents, which take requests while the service drains, too.

        Raises:
            RefusedError: they are not there yet.
        """
        if self._coordinator is None:
            raise RefusedError(503, f"{self.obstacle}; ask again later")
        return self._coordinator

    async def open(self) -> None:
        """Open the engine and warm it up, unless it is told to stop meanwhile.

        Raises what `Engine.open` and `Engine.coordinator` raise.
        """
        self.engine = await asyncio.to_thread(self._opened)
        if self.draining:
            return
        self._opening = "the engine warms up"
        await asyncio.to_thread(self.engine.warm_up)
        self._coordinator = coordinator = self.engine.coordinator()
        self.monitoring = Monitoring(
            self.engine, coordinator.stats, self.connections, self.probe, config=self._watched
        )
        self.monitoring.metrics.watch(self._closed_readings)
        if isinstance(self.engine, ClusterEngine):
            self.monitoring.metrics.watch(shard_readings(self.engine.health))
        self.monitoring.start()
        self._opening = None

    def _opened(self) -> Engine:
        if self._scaling.kind == "none":
            return Engine.open(self._config)
        return ClusterEngine.open(self._config, self._scaling)

    async def close(self) -> None:
        """Let the agents end what they have begun, then close the engine."""
        if self.monitoring is not None:
            await asyncio.to_thread(self.monitoring.close)
        if self._coordinator is not None:
            await self._coordinator.close()
        if self.engine is not None:
            await asyncio.to_thread(self.engine.close)

    # --- what is asked, and counted ------------------------------------------------------------------

    async def search(self, query: str, k: int, where: Where | None) -> bytes:
        """What the engine recalls, else what `Coordinator.search` finds, as `codec.encode_retrieval` does it.

        No agent hears of what is recalled: to wake a thread up takes longer than to recall.
        """
        with self._counted("search"):
            coordinator = self.coordinator
            recalled = None if self.engine is None else self.engine.recall(query, k, where)
            if recalled is not None:
                return recalled
            return codec.encode_retrieval(await coordinator.search(query, k, where))

    async def ask(self, query: str, k: int, where: Where | None) -> Response[Emotion, Answer]:
        """As `Coordinator.ask`."""
        with self._counted("ask"):
            return await self.coordinator.ask(query, k, where)

    async def ingest(self, documents: Sequence[Document]) -> None:
        """As `Coordinator.ingest`."""
        with self._counted():
            await self.coordinator.ingest(documents)
        if self.monitoring is not None:
            self.monitoring.metrics.ingested(len(documents))

    async def get(self, id_: str) -> Document | None:
        """As `Coordinator.get`."""
        with self._counted():
            return await self.coordinator.get(id_)

    async def delete(self, ids: Sequence[str]) -> int:
        """As `Coordinator.delete`."""
        with self._counted():
            return await self.coordinator.delete(ids)

    def answered(self, route: str | None, status: int) -> None:
        """Count a request; no route where it found none."""
        if self.monitoring is not None:
            self.monitoring.metrics.request(route or "none", status)

    @contextmanager
    def _counted(self, kind: Kind | None = None) -> Iterator[None]:
        """Count the error that this ends with; of a query, its outcome and how long it took."""
        started, failed = time.perf_counter(), None
        try:
            yield
        except BaseException as error:
            failed = _meant(error)
            if self.monitoring is not None and isinstance(failed, Exception):
                self.monitoring.metrics.error(failed)
            raise
        finally:
            if self.monitoring is not None and kind is not None:
                self.monitoring.query(kind, outcome_of(failed), time.perf_counter() - started)

    def _closed_readings(self) -> Iterator[Reading]:
        for reason, count in self.closed.items():
            yield CONNECTIONS_CLOSED, (reason,), count


def _meant(error: BaseException) -> BaseException:
    """Of a cancellation, what it is for: unless the client left, its time was over, or that to drain."""
    is_late = isinstance(error, asyncio.CancelledError) and LEFT not in error.args
    return TimeoutError() if is_late else error
