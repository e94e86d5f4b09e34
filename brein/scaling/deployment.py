"""The shards of an index on Ray Serve: each an application with its replicas, all asked at once.

A replica loads its shard from files, so one that is lost starts anew on any node that reaches them. What
passes between processes passes through Ray, which pickles: see docs/scaling.md for whom that trusts.
"""

from __future__ import annotations

import asyncio
import logging
import math
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from brein.errors import ClusterError, DataError
from brein.index import Neighbours
from brein.index.sharded import merged
from brein.records import FloatArray
from brein.scaling.config import ScalingConfig
from brein.scaling.join import last_line
from brein.scaling.loop import LoopThread
from brein.scaling.shards import Builder, Part, Plan, Shard, batches, train
from brein.sharding import shard_of
from brein.storage import DocumentStore

_PAUSE = 0.02  # seconds before a shard is asked again whose replica was lost on the way
_QUEUED = 256  # requests that wait for a replica of a shard; more are refused


class Found(NamedTuple):
    """What the shards found, and which did not answer: each one's number, and why."""

    neighbours: Neighbours
    missing: Mapping[int, str]


class ShardHealth(NamedTuple):
    """One shard: the node that answered for it just now, or the problem; replicas that run, and should."""

    shard: int
    node: str | None
    problem: str | None
    running: int
    wanted: int


class _Replica:
    """A shard in a process that Ray Serve starts; it searches for one caller at a time."""

    def __init__(self, planned: Plan, number: int) -> None:
        _listen_on_the_node_alone()
        self._shard = Shard(planned, number)

    async def search(self, queries: FloatArray, k: int, among: Sequence[str] | None) -> Part:
        return self._shard.search(queries, k, among)

    async def node(self) -> str:
        import ray

        return str(ray.get_runtime_context().get_node_id())


class ShardCluster:
    """The shards of a plan that is built, for vectors of `dimension`; `owner` says whose they are.

    Safe to use from several threads. Ray is joined, and stays so until `close`.
    """

    def __init__(self, config: ScalingConfig, planned: Plan, owner: str, dimension: int) -> None:
        self._config = config
        self._plan = planned
        # With the generation: a replica of another one is never asked.
        self._prefix = f"brein-{owner}-"
        self._names = [f"{self._prefix}{planned.folder.name}-{number}" for number in range(planned.shards)]
        self._dimension = dimension
        self._handles: list[Any] = []
        self._serve_is_ours = False
        self._closed = False
        self._loop = LoopThread("shards")

    def start(self) -> None:
        """Have every shard served; what an earlier process left of this owner's is ended.

        Raises:
            ClusterError: a shard does not answer within `start_timeout`.
        """
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        self._serve_is_ours = not _is_serving()
        if self._serve_is_ours:
            serve.start(proxy_location="Disabled")  # nothing of it listens for HTTP
        for left in serve.status().applications:
            if left.startswith(self._prefix):
                serve.delete(left)
        shard = serve.deployment(
            _Replica,
            name="shard",
            num_replicas=self._config.replicas,
            max_replicas_per_node=math.ceil(self._config.replicas / max(1, _nodes())),
            max_queued_requests=_QUEUED,
            ray_actor_options={"num_cpus": self._config.cores},
            health_check_period_s=2.0,
            health_check_timeout_s=10.0,
            graceful_shutdown_wait_loop_s=0.1,
            graceful_shutdown_timeout_s=5.0,
        )
        targets = [
            serve.RunTarget(shard.bind(self._plan, number), name, route_prefix=None)
            for number, name in enumerate(self._names)
        ]
        self._handles = serve.run_many(targets, wait_for_applications_running=False)
        _, silent = self._ask(dict.fromkeys(range(len(self._names)), ()), "node", self._config.start_timeout)
        if silent:
            number, reason = next(iter(silent.items()))
            status = self._status()[number]
            problem = (status and _first_line(status.message)) or reason
            raise ClusterError(
                f"scaling.start_timeout = {self._config.start_timeout:g} s: {len(silent)} shards are silent; "
                f"shard {number}: {problem}; see that the nodes have the cores, the memory and the files"
            )

    def search(self, queries: FloatArray, k: int, among: Collection[str] | None = None) -> Found:
        """Find the `k` nearest vectors of each query, float32 (m, d), `among` these ids or all.

        Every shard has `timeout` seconds; one whose replica is lost is asked again within them.

        Raises:
            DataError: the queries have the wrong shape.
            ClosedError: it is closed.
        """
        if queries.ndim != 2 or queries.shape[1] != self._dimension:
            raise DataError(f"vectors have shape {queries.shape}; this index takes (n, {self._dimension})")
        allowed: Mapping[int, Sequence[str] | None] = dict.fromkeys(range(len(self._names)))
        if among is not None:  # a shard that holds none of these is not asked
            allowed = self._by_shard(among)
        asked = {number: (queries, k, own) for number, own in allowed.items()}
        parts, missing = self._ask(asked, "search", self._config.timeout)
        if not parts:
            nothing = Neighbours(np.empty((len(queries), 0), dtype=np.float32), [[] for _ in queries])
            return Found(nothing, missing)
        neighbours, orders = zip(*(parts[number] for number in sorted(parts)), strict=True)
        return Found(merged(neighbours, orders, k, self._plan.config.metric), missing)

    def health(self) -> list[ShardHealth]:
        """Each shard, asked now.

        Raises:
            ClusterError: Ray Serve does not answer.
            ClosedError: it is closed.
        """
        numbers = range(len(self._names))
        nodes, silent = self._ask(dict.fromkeys(numbers, ()), "node", self._config.timeout)
        running = {
            number: 0 if status is None else int(status.replica_states.get("RUNNING", 0))
            for number, status in self._status().items()
        }
        wanted = self._config.replicas
        return [ShardHealth(n, nodes.get(n), silent.get(n), running[n], wanted) for n in numbers]

    def close(self) -> None:
        """End the shards, and Ray Serve where it was started for them. Closing twice does nothing."""
        from ray import serve

        if self._closed:
            return
        self._closed = True
        self._loop.close()
        for handle in self._handles:
            handle.shutdown()
        if self._serve_is_ours:
            serve.shutdown()
            return
        for name in serve.status().applications:
            if name in self._names:
                serve.delete(name)

    # --- asking --------------------------------------------------------------------------------------

    def _by_shard(self, ids: Collection[str]) -> dict[int, list[str]]:
        parts: dict[int, list[str]] = {}
        for id_ in ids:
            parts.setdefault(shard_of(id_, len(self._names)), []).append(id_)
        return parts

    def _ask(
        self, arguments: Mapping[int, tuple[Any, ...]], method: str, seconds: float
    ) -> tuple[dict[int, Any], dict[int, str]]:
        """Call a method of each of these shards; their answers, and why others gave none, by number."""

        async def ask() -> list[Any]:
            calls = (self._ask_one(number, method, of, seconds) for number, of in arguments.items())
            return await asyncio.gather(*calls)

        found: dict[int, Any] = {}
        missing: dict[int, str] = {}
        for number, answer in zip(arguments, self._loop.run(ask), strict=True):
            if isinstance(answer, _Silence):
                missing[number] = answer.reason
            else:
                found[number] = answer
        return found, missing

    async def _ask_one(self, number: int, method: str, arguments: tuple[Any, ...], seconds: float) -> Any:
        from ray.exceptions import RayError, RayTaskError
        from ray.serve.exceptions import RayServeException

        lost = ""
        response: Any = None
        try:
            async with asyncio.timeout(seconds):
                while True:
                    response = getattr(self._handles[number], method).remote(*arguments)
                    try:
                        return await response
                    except RayTaskError:
                        raise
                    except RayError as error:  # the replica ended; there may be another, or will be
                        lost = f", after a replica was lost ({last_line(error)})"
                    await asyncio.sleep(_PAUSE)
        except TimeoutError:
            with suppress(RayError, RayServeException):
                response.cancel()
            return _Silence(f"no answer in {seconds:g} s{lost}")
        except (RayError, RayServeException) as error:
            return _Silence(last_line(error))

    def _status(self) -> dict[int, Any]:
        """What Ray Serve's controller says of each shard's deployment; None where it knows none."""
        from ray import serve
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        try:
            applications = serve.status().applications
        except (RayError, RayServeException) as error:
            raise ClusterError(
                f"Ray Serve's controller does not answer: {last_line(error)}; see that the cluster runs"
            ) from None
        return {
            number: applications[name].deployments.get("shard") if name in applications else None
            for number, name in enumerate(self._names)
        }


class _Silence(NamedTuple):
    """In the place of a shard's answer."""

    reason: str


def build(documents: DocumentStore, planned: Plan, saved: Path) -> None:
    """Build all shards of a plan, side by side on the cluster's nodes; see `shards.batches` for `saved`.

    Raises:
        StorageError: what all shards start from cannot be written.
        ClusterError: a node was lost, or does not reach the files.
    """
    import ray
    from ray.exceptions import RayError

    shutil.rmtree(planned.folder, ignore_errors=True)  # a build that did not end
    train(documents, planned)
    make = ray.remote(Builder).options(num_cpus=0, scheduling_strategy="SPREAD")
    builders = [make.remote(planned, number) for number in range(planned.shards)]
    try:
        sent: list[Any] = []
        for parts in batches(documents, saved, planned.shards):
            ray.get(sent)  # one batch is added while the next is read: no more are in memory
            sent = [to.add.remote(part) for to, part in zip(builders, parts, strict=True) if part.ids]
        ray.get(sent)
        ray.get([builder.save.remote() for builder in builders])
    except RayError as error:
        raise ClusterError(
            f"the shards cannot be built in {planned.folder}: {last_line(error)}; start again"
        ) from None
    finally:
        for builder in builders:
            ray.kill(builder)


def _is_serving() -> bool:
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    try:
        ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return False
    return True


def _nodes() -> int:
    import ray

    return sum(bool(node["Alive"] and node["Resources"].get("CPU")) for node in ray.nodes())


def _listen_on_the_node_alone() -> None:
    """Have the replica in this process listen at the address that the rest of Ray has on its node.

    Ray Serve would have it listen on every interface, and it unpickles what comes. Where Ray has changed,
    this fails, and the replica does not start.
    """
    import ray
    from ray.serve._private import replica

    bind, here = replica.add_port_to_grpc_server, ray.util.get_node_ip_address()
    host = f"[{here}]" if ":" in here else here
    replica.add_port_to_grpc_server = lambda server, address: bind(server, address.replace("[::]", host))


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")
