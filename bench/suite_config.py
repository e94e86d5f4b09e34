"""Settings of the suites: what each does in a trial."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from bench.arrivals import Closed, Load
from bench.data_config import SyntheticConfig
from brein.settings import Settings

MemoryPart = Literal["search", "ingest", "cache", "shards", "storage", "coding", "mixed", "streaming"]
Share = Annotated[float, Field(gt=0, le=1)]
IndexShards = Annotated[int, Field(ge=1, le=256)]
StorageShards = Annotated[int, Field(ge=1, le=64)]


class MemoryConfig(Settings):
    """What the memory suite does in each trial."""

    parts: tuple[MemoryPart, ...] = Field(min_length=1, description="which parts run")
    k: int = Field(ge=10, le=1000, description="neighbours a search asks for; quality is judged at 10")
    searches: int = Field(ge=1, description="timed single-query searches, from a cold start")
    batch_seconds: float = Field(
        gt=0, le=3600, description="seconds of timed searches of many queries at once"
    )
    filter_shares: tuple[Share, ...] = Field(description="shares of all ids that filtered searches allow")
    filtered_searches: int = Field(ge=1, description="timed searches for each of these shares")
    ingest_documents: int = Field(
        ge=1, description="documents ingested afresh in one call, the same in every trial"
    )
    cache_keys: int = Field(ge=1, le=1_000_000, description="different requests to the search cache")
    cache_requests: int = Field(ge=1, description="requests of the stream over them")
    cache_rate: float = Field(
        gt=0, description="requests in a second of the virtual clock by which the entries of the cache age"
    )
    shard_counts: tuple[IndexShards, ...] = Field(
        min_length=1, description="numbers of shards of the index; costs are over 1, where that is among them"
    )
    shard_vectors: int = Field(ge=1, description="vectors in these indexes, at most")
    shard_searches: int = Field(ge=1, description="timed searches for each of these numbers")
    storage_shards: tuple[StorageShards, ...] = Field(min_length=1, description="numbers of SQLite files")
    storage_documents: int = Field(ge=10, description="documents written for each of these numbers")
    storage_reads: int = Field(ge=1, description="reads of ten documents for each of these numbers")
    coding_vectors: int = Field(ge=1, description="vectors coded and searched exactly, at most")
    coding_queries: int = Field(ge=1, description="queries that search them, at most")
    mixed_vectors: int = Field(ge=2, description="vectors taken, at most; the index begins with half of them")
    mixed_operations: int = Field(ge=1, description="searches, inserts and deletes, one vector each")
    mixed_inserts: float = Field(ge=0, lt=1, description="share of the operations that insert")
    mixed_deletes: float = Field(ge=0, lt=1, description="share of the operations that delete")
    mixed_stages: int = Field(ge=1, le=100, description="equal stretches of the stream, reported apart")
    streaming_vectors: int = Field(ge=1, description="vectors that the runbook is about, at most")
    streaming_searches: int = Field(ge=1, description="timed searches in each search step")

    @model_validator(mode="after")
    def _mixed_leaves_room_for_searches(self) -> MemoryConfig:
        writes = self.mixed_inserts + self.mixed_deletes
        if writes >= 1:
            raise ValueError(f"mixed_inserts + mixed_deletes = {writes:g}: must be below 1; the rest search")
        return self


QueryPart = Literal["cold", "popular", "filtered", "ablation", "batching"]


class QueryConfig(Settings):
    """What the query suite does in each trial."""

    parts: tuple[QueryPart, ...] = Field(min_length=1, description="which parts run")
    k: int = Field(ge=10, le=1000, description="hits a search asks for; quality is judged at 10")
    requests: int = Field(ge=1, description="requests of the stream that `popularity` describes")
    filter_shares: tuple[Share, ...] = Field(description="shares of documents that filtered queries allow")
    filtered_queries: int = Field(ge=1, description="queries asked for each of these shares, at most")
    batching_clients: tuple[Annotated[int, Field(ge=1, le=256)], ...] = Field(
        min_length=1, description="clients that embed queries at once"
    )
    batching_queries: int = Field(ge=1, description="queries embedded by each number of them, four times")


AgentsPart = Literal["idle", "load"]
CapacityShare = Annotated[float, Field(gt=0, le=10)]


class AgentsSuiteConfig(Settings):
    """What the agents suite does in each trial."""

    parts: tuple[AgentsPart, ...] = Field(min_length=1, description="which parts run")
    k: int = Field(ge=1, le=1000, description="hits a question is answered from")
    questions: int = Field(ge=1, description="questions asked one at a time, at most")
    loads: tuple[CapacityShare, ...] = Field(
        min_length=1, description="shares of the capacity at which questions arrive, ascending"
    )
    seconds: float = Field(
        gt=0,
        le=3600,
        description="seconds of work at capacity that each load is: at half of it, twice",
    )
    objective_p95: float = Field(
        gt=0, le=3600, description="seconds of the 95th percentile of latency that a load is to keep"
    )

    @model_validator(mode="after")
    def _loads_ascend(self) -> AgentsSuiteConfig:
        percent = [round(100 * load) for load in self.loads]
        if percent != sorted(set(percent)) or percent[0] == 0:
            raise ValueError(f"loads = {list(self.loads)}: must ascend, by whole percents, from 0.01")
        return self


SystemPart = Literal["load", "processes", "http"]


class SystemConfig(Settings):
    """What the system suite does in each trial."""

    parts: tuple[SystemPart, ...] = Field(min_length=1, description="which parts run")
    k: int = Field(ge=1, le=1000, description="hits a search asks for")
    rate: float = Field(gt=0, le=100_000, description="searches a second that arrive, in the part load")
    seconds: float = Field(gt=0, le=3600, description="seconds that each load is measured")
    processes: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
        min_length=1, description="services side by side, in the part processes"
    )
    clients: int = Field(
        ge=1, le=1000, description="that wait for their answers, for each service, in processes and http"
    )


LabPart = Literal["known_answers", "aa", "cost"]
HnswM = Annotated[int, Field(ge=2, le=512)]
HnswEfSearch = Annotated[int, Field(ge=1, le=100_000)]


class LabConfig(Settings):
    """What the lab suite does in each trial."""

    parts: tuple[LabPart, ...] = Field(min_length=1, description="which parts run")
    data: SyntheticConfig = Field(description="vectors it measures on")
    planted_bytes: int = Field(
        ge=2**20, description="bytes of memory to find again, the process's own and as many of a file"
    )
    searches: int = Field(ge=20, description="timed single-query searches of a process; p50 needs 20")
    comparisons: int = Field(ge=1, description="A/A comparisons in each trial")
    pairs: int = Field(
        ge=6, multiple_of=2, description="pairs of processes in a comparison, half of them in either order"
    )
    grid_vectors: int = Field(ge=1, description="vectors of the sweep, drawn as `data`'s are")
    grid_M: tuple[HnswM, ...] = Field(min_length=1, description="HNSW builds of the sweep")
    grid_efSearch: tuple[HnswEfSearch, ...] = Field(min_length=1, description="what each is searched with")
    grid_repeats: int = Field(ge=1, le=1000, description="processes for each of these groups")


Scalar = bool | int | float | str
Sweep = dict[str, Annotated[tuple[Scalar, ...], Field(min_length=1)]]


class PeerConfig(Settings):
    """One that takes part in the peers suite."""

    adapter: str = Field(
        min_length=1, description="a name of bench/suites/peers/adapters, or the path of a .py file"
    )
    build: dict[str, Any] = Field({}, description="what it is built with")
    search: Sweep = Field({}, description="what its searches go through: every combination of these values")
    python: Path | None = Field(None, description="interpreter of an environment of its own; null: this one")


PeerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class PeersConfig(Settings):
    """What the peers suite does in each trial."""

    k: int = Field(ge=10, le=1000, description="neighbours a search asks for; recall is judged at 10")
    searches: int = Field(ge=1, description="timed searches, one by one, with each setting")
    batch_seconds: float = Field(
        gt=0, le=3600, description="seconds of timed searches of many queries at once, with each setting"
    )
    dsn: str | None = Field(description="a PostgreSQL with pgvector; null: the wheel pgserver's is started")
    sweeps: dict[str, Sweep] = Field(description="by index kind, what the engine's index is searched with")
    adapters: dict[PeerName, PeerConfig | str] = Field(
        min_length=1, description="who takes part, by name; a bare text is an adapter with no settings"
    )

    @property
    def peers(self) -> dict[str, PeerConfig]:
        """Who takes part, by name."""
        return {
            name: PeerConfig(adapter=given) if isinstance(given, str) else given
            for name, given in self.adapters.items()
        }


class SuitesConfig(Settings):
    """The settings of every suite, whether it runs or not; the field names are the suites' names."""

    memory: MemoryConfig
    query: QueryConfig
    agents: AgentsSuiteConfig
    system: SystemConfig
    lab: LabConfig
    peers: PeersConfig


# --- the load, a group of its own ------------------------------------------------------------------


class LoadObjective(Settings):
    """What a service is to meet under a load; a capacity is the highest rate at which it does."""

    p95: float = Field(
        gt=0, le=3600, description="seconds of the 95th percentile of latency, from the intended start"
    )
    errors: float = Field(ge=0, le=1, description="share of the requests without an answer, at most")
    recall: float | None = Field(
        ge=0, le=1, description="recall@10 of the answers, at least; null: it is measured, not asked for"
    )


_GUIDES_USERS = 50, 0.267  # and the seconds each thinks


class LoadConfig(Settings):
    """What the load suite puts to a service."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", description="label of its figures")
    requests: Literal["search", "ask", "ingest", "mixed"] = Field(
        description="what is asked; mixed: eight searches, a question and an ingest of every ten"
    )
    model: Load = Field(description="when requests come: at times of their own, or from users who wait")
    search: Literal["none", "capacity"] = Field(
        description="capacity: the highest rate that meets the objective, beginning with the model's"
    )
    objective: LoadObjective
    k: int = Field(ge=10, le=100, description="hits a request asks for; recall is judged at 10")
    sample: int = Field(ge=0, description="one of so many searches has its answer judged; 0: none has")
    timeout: float = Field(gt=0, le=3600, description="seconds after which a request has failed")
    workers: int = Field(ge=1, le=64, description="processes that send the requests")
    host: str | None = Field(
        pattern=r"^https?://[^/]+$", description="URL of a service that runs; null: one is started"
    )
    key_variable: str | None = Field(
        min_length=1, description="environment variable that holds that service's API key; null: it has none"
    )

    @model_validator(mode="after")
    def _documented_is_the_guides(self) -> LoadConfig:
        """Figures of that name are judged beside those of the guide, so they are to be of its scenario."""
        model = self.model
        thinks = (model.users, model.think_time) if isinstance(model, Closed) else None
        if self.name == "documented" and (self.requests, thinks) != ("search", _GUIDES_USERS):
            raise ValueError(
                "name = 'documented' is for searches by the guide's 50 users with 0.267 s think time; give "
                "another load by a name of its own: load.name=NAME"
            )
        return self

    @model_validator(mode="after")
    def _capacity_is_of_poisson_arrivals(self) -> LoadConfig:
        if self.search == "capacity" and self.model.kind != "poisson":
            raise ValueError(
                f"search = 'capacity' needs Poisson arrivals, model.kind is {self.model.kind!r}; choose "
                "load=capacity or load=poisson"
            )
        return self
