"""Composed YAML → one frozen `ExperimentConfig`. Nothing below this file sees Hydra's config object."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from bench.errors import UsageError, one_line
from brein.agents import AgentsConfig, GenerationConfig
from brein.cache import CacheConfig
from brein.config import EngineConfig
from brein.embedding import EmbeddingConfig
from brein.errors import ConfigError
from brein.index import IndexConfig, Metric
from brein.retrieval.pipeline import RetrievalConfig
from brein.settings import Settings
from brein.storage import StorageConfig

if TYPE_CHECKING:
    from omegaconf import DictConfig  # only the parent of a run composes: its children load neither

_HERE = Path(__file__).resolve().parent
# Beside the package in a checkout, inside it once installed from a wheel.
CONF = next(path for path in (_HERE / "conf", _HERE.parent / "conf") if path.is_dir())


# --- datasets ------------------------------------------------------------------------------------


class SyntheticConfig(Settings):
    """Vectors drawn from clusters with a stated intrinsic dimension."""

    kind: Literal["synthetic"] = "synthetic"
    vectors: int = Field(ge=1, le=100_000_000, description="vectors to index")
    queries: int = Field(ge=1, le=1_000_000, description="query vectors, drawn from the same distribution")
    dimension: int = Field(ge=2, le=65_536, description="components of a vector")
    clusters: int = Field(ge=1, le=1_000_000, description="clusters, of Zipf-distributed sizes")
    cluster_spread: float = Field(gt=0, description="spread of a cluster over the spread of the centres")
    intrinsic_dimension: int = Field(ge=1, description="directions that carry the variance")
    seed: int = Field(ge=0, description="seed of the generator")


class PydocsConfig(Settings):
    """The docstrings of the installed libraries, as a retrieval corpus."""

    kind: Literal["pydocs"] = "pydocs"
    documents: int | None = Field(ge=1, description="documents to keep; null keeps all")
    queries: int | None = Field(ge=1, description="queries to keep; null keeps all")
    max_tokens: int | None = Field(ge=1, description="each document is cut to so many tokens; null: uncut")
    memory_vectors: SyntheticConfig | None = Field(
        description="vectors the memory suite searches; null: the documents' own embeddings"
    )


class BeirConfig(Settings):
    """A BEIR folder: corpus.jsonl, queries.jsonl, qrels/<split>.tsv."""

    kind: Literal["beir"] = "beir"
    path: Path = Field(description="the folder")
    split: str = Field(min_length=1, description="which judgements: the name of a file in qrels/")
    documents: int | None = Field(ge=1, description="documents to keep; null keeps all")
    queries: int | None = Field(ge=1, description="queries to keep; null keeps all that have judgements")
    max_tokens: int | None = Field(ge=1, description="each document is cut to so many tokens; null: uncut")
    memory_vectors: SyntheticConfig | None = Field(
        description="vectors the memory suite searches; null: the documents' own embeddings"
    )


class VectorFileConfig(Settings):
    """Vectors from files.

    `path` is a folder with one base, one query and perhaps one truth file, or the base file alone
    (its last `queries` rows are then held out as queries).
    """

    kind: Literal["fvecs", "fbin", "hdf5", "npy"]
    path: Path = Field(description="a folder, or the file that holds the vectors")
    metric: Metric | None = Field(description="metric of the published ground truth; null: unknown")
    vectors: int | None = Field(ge=1, description="vectors to keep, first rows first; null keeps all")
    queries: int | None = Field(ge=1, description="query vectors to keep; null keeps all")


class RecipeConfig(Settings):
    """A public data set fetched by a recipe of `datasets/recipes/`."""

    kind: Literal["recipe"] = "recipe"
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", description="a recipe: `python -m bench data list`")


DatasetConfig = Annotated[
    PydocsConfig | SyntheticConfig | BeirConfig | VectorFileConfig | RecipeConfig, Field(discriminator="kind")
]
TextConfig = PydocsConfig | BeirConfig


# --- workloads -----------------------------------------------------------------------------------


class Repetition(Settings):
    """Requests that come back soon."""

    repetition: float = Field(
        ge=0, lt=1, description="probability that a request repeats one of the last `window` requests"
    )
    window: int = Field(ge=1, le=1_000_000, description="requests back that may be repeated")


class UniformPopularity(Repetition):
    """Every query is as likely as any other."""

    kind: Literal["uniform"] = "uniform"


class ZipfPopularity(Repetition):
    """The query of rank r is asked with probability proportional to r^-exponent."""

    kind: Literal["zipf"] = "zipf"
    exponent: float = Field(ge=0, le=10, description="popularity skew; 0 is uniform")
    drift: float = Field(
        ge=0, le=10, description="share of the ranks that exchange queries in 1,000 requests, on average"
    )


class TracePopularity(Settings):
    """Requests of a file, in their order: cut to as many as are asked for, or begun again."""

    kind: Literal["trace"] = "trace"
    path: Path = Field(description="a text file, one entry a line, or a CSV file")
    column: str | None = Field(min_length=1, description="the CSV file's column; null: it is a text file")


Popularity = Annotated[UniformPopularity | ZipfPopularity | TracePopularity, Field(discriminator="kind")]


class ChangeStep(Settings):
    """Insert or delete vectors `start` up to, but not including, `end`."""

    operation: Literal["insert", "delete"]
    start: float = Field(ge=0, description="in the runbook's unit")
    end: float = Field(gt=0, description="in the runbook's unit")


class SearchStep(Settings):
    """Search what is there."""

    operation: Literal["search"] = "search"


class RunbookConfig(Settings):
    """Steps that change an index and search it, as those of big-ann-benchmarks' streaming track."""

    name: str = Field(min_length=1)
    unit: Literal["share", "row"] = Field(
        description="whether start and end are shares of the vectors, or row numbers"
    )
    steps: tuple[Annotated[ChangeStep | SearchStep, Field(discriminator="operation")], ...] = Field(
        min_length=1
    )


class HoldoutConfig(Settings):
    """Parts of the data set that are kept apart, the same ones every time: see `bench.workload.holdout`."""

    queries: float = Field(ge=0, lt=1, description="share of the queries on the side tune; the rest is test")
    side: Literal["tune", "test"] = Field(description="which of the queries are asked")
    documents: float = Field(ge=0, lt=1, description="share of the documents, or vectors, never searched")


# --- suites and trials ---------------------------------------------------------------------------


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
Load = Annotated[float, Field(gt=0, le=10)]


class AgentsSuiteConfig(Settings):
    """What the agents suite does in each trial."""

    parts: tuple[AgentsPart, ...] = Field(min_length=1, description="which parts run")
    k: int = Field(ge=1, le=1000, description="hits a question is answered from")
    questions: int = Field(ge=1, description="questions asked one at a time, at most")
    loads: tuple[Load, ...] = Field(
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


class TrialConfig(Settings):
    """How a trial is run."""

    repeats: int = Field(ge=1, le=1000, description="processes per suite; an interval needs at least 5")
    seed: int = Field(ge=0, description="seed from which every trial's own seed is derived")
    threads: int | None = Field(ge=1, description="compute threads of a trial; null: one per usable core")
    timeout: float = Field(
        gt=0, le=86_400, description="seconds after which a trial is stopped and recorded as failed"
    )
    memory: int | None = Field(
        ge=1, description="bytes that each process of a trial may allocate for itself; null: no limit"
    )
    cores: int | None = Field(ge=1, description="cores a trial may use, the first usable ones; null: all")
    noise: float | None = Field(
        gt=0,
        description="a trial beside which the calibration loop took longer than when the run began by more "
        "than this share met a noisy machine; null: noise is recorded, not judged",
    )


class TierConfig(Settings):
    """The hardware a run is meant for; what the machine lacks skips the run, what it has more is not used."""

    cores: int | None = Field(ge=1, description="cores; null: whatever there is")
    memory: int | None = Field(ge=1, description="bytes of main memory; null: whatever there is")


class LauncherConfig(Settings):
    """Where trials run."""

    place: Literal["local", "ray"] = Field(description="this machine, or the nodes of a Ray cluster")
    address: str | None = Field(
        pattern=r"^[^\s:/]+:\d+$",
        description="host:port of the cluster; null: RAY_ADDRESS, or the one that this machine is in",
    )


class ObjectiveConfig(Settings):
    """What the cheapest configuration of a sweep must meet; null: no bound. It changes nothing measured."""

    recall: float | None = Field(ge=0, le=1, description="recall@10, at least")
    p95: float | None = Field(gt=0, description="seconds of the 95th percentile of latency, at most")
    memory: float | None = Field(gt=0, description="bytes per vector the index holds in memory, at most")


class ProfilerConfig(Settings):
    """What is recorded beside the samples."""

    kind: Literal["none"] = "none"


# --- the documented baseline ---------------------------------------------------------------------


class BaselineFigure(Settings):
    """One documented figure, as a named metric."""

    section: str = Field(description="where the guide has it")
    title: str = Field(description="what the guide calls it")
    documented: str = Field(description="the figure in the guide's own words")
    metric: str = Field(description="a name of bench/metrics.py")
    labels: dict[str, str] = Field(description="which of the metric's series is meant")
    value: float = Field(gt=0, description="the figure in `unit`")
    unit: str
    better: Literal["lower", "higher"]
    suite: str = Field(description="the suite that measures it")
    scenario: str = Field(description="the situation the figure means")


class BaselineConfig(Settings):
    """Figures a run is judged against."""

    name: str
    source: str = Field(description="where the figures come from")
    figures: tuple[BaselineFigure, ...]


# --- the experiment ------------------------------------------------------------------------------


class ArtifactsConfig(Settings):
    """What is kept of what runs share."""

    max_bytes: int | None = Field(
        ge=0, description="bytes they may take; the least recently used go first; null: no limit"
    )


class PathsConfig(Settings):
    """Where a run writes, relative to the working directory."""

    runs: Path = Field(description="folder of run folders")
    artifacts: Path = Field(description="embeddings, ground truth and indexes that runs share")
    datasets: Path = Field(description="fetched data sets")


class ExperimentConfig(Settings):
    """Everything a run is asked to do."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="names the run's folder")
    suites: tuple[str, ...] = Field(min_length=1, description="what is measured, in order")
    suite: SuitesConfig
    dataset: DatasetConfig
    holdout: HoldoutConfig
    popularity: Popularity
    runbook: RunbookConfig
    embedding: EmbeddingConfig
    index: IndexConfig
    cache: CacheConfig
    storage: StorageConfig
    retrieval: RetrievalConfig
    agents: AgentsConfig
    generation: GenerationConfig
    memory_limit: int | None = Field(ge=1, description="bytes of memory the engine may hold; null: no limit")
    tier: TierConfig
    trial: TrialConfig
    launcher: LauncherConfig
    profiler: ProfilerConfig
    objective: ObjectiveConfig
    baseline: BaselineConfig
    paths: PathsConfig
    artifacts: ArtifactsConfig
    inert: dict[str, int | float | bool | str] = Field(
        description="keys of the guide's JSON profile that change nothing here, kept for the record"
    )

    @model_validator(mode="after")
    def _suites_are_known(self) -> ExperimentConfig:
        known = tuple(SuitesConfig.model_fields)
        for suite in self.suites:
            if suite not in known:
                raise ValueError(f"suites = {suite!r} is unknown; known suites: {', '.join(known)}")
        if len(set(self.suites)) != len(self.suites):
            raise ValueError(f"suites = {list(self.suites)} names a suite twice")
        return self

    @property
    def engine(self) -> EngineConfig:
        """The engine this experiment measures, with no path of its own."""
        return EngineConfig(
            embedding=self.embedding,
            index=self.index,
            cache=self.cache,
            storage=self.storage,
            retrieval=self.retrieval,
            agents=self.agents,
            generation=self.generation,
            memory_limit=self.memory_limit,
        )


def read(composed: DictConfig) -> ExperimentConfig:
    """Turn Hydra's composed configuration into an `ExperimentConfig`.

    Raises:
        UsageError: a value is missing, unknown or out of bounds; the line names field, bound and value.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    try:
        plain: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
        return ExperimentConfig.read(json.dumps(plain))
    except MissingMandatoryValue as error:
        raise UsageError(f"{error.full_key} is missing; give it a value") from None
    except (ConfigError, OmegaConfBaseException) as error:
        raise UsageError(one_line(error)) from None


def from_overrides(overrides: list[str]) -> ExperimentConfig:
    """Compose `conf/` with command-line overrides and read the result; nothing is written.

    Raises:
        UsageError: the overrides do not compose, or the result is not a valid experiment.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3", job_name="bench"):
            return read(compose("config", overrides=overrides))
    except Exception as error:
        raise refusal(error) from None


def refusal(error: Exception) -> Exception:
    """An error of composing, Hydra's own put in the lab's words."""
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException

    if isinstance(error, MissingConfigException):
        options = f"; known: {', '.join(error.options)}" if error.options else ""
        return UsageError(f"{error.missing_cfg_file} is unknown{options}")
    if isinstance(error, OverrideParseException):
        return UsageError(f"{error.override!r} cannot be read as KEY=VALUE or GROUP=OPTION")
    if isinstance(error, HydraException):
        return UsageError(_unknown_key(error) or one_line(error))
    return error


def _unknown_key(error: Exception) -> str | None:
    """Hydra answers an unknown key with advice to force it in, which the models below would refuse."""
    found = re.match(r"Could not override '([^']+)'", str(error))
    if found and found[1] in ("profile", "sweep", "tier"):
        return f"presets are added, not overridden: write +{found[1]}=NAME"
    return found and f"{found[1]} is not a setting of the options chosen; `--cfg job` prints those that are"
