"""Composed YAML → one frozen `ExperimentConfig`. Nothing below this file sees Hydra's config object."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from bench.data_config import DatasetConfig, HoldoutConfig, Popularity, RunbookConfig
from bench.errors import UsageError, one_line
from bench.suite_config import LoadConfig, SuitesConfig
from brein.agents import AgentsConfig, GenerationConfig
from brein.cache import CacheConfig
from brein.config import EngineConfig
from brein.embedding import EmbeddingConfig
from brein.errors import ConfigError
from brein.index import IndexConfig
from brein.retrieval.pipeline import RetrievalConfig
from brein.settings import Settings
from brein.storage import StorageConfig

if TYPE_CHECKING:
    from omegaconf import DictConfig  # only the parent of a run composes: its children load neither

_HERE = Path(__file__).resolve().parent
# Beside the package in a checkout, inside it once installed from a wheel.
CONF = next(path for path in (_HERE / "conf", _HERE.parent / "conf") if path.is_dir())


# --- trials -----------------------------------------------------------------------------------


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
    load: LoadConfig
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
        known = (*SuitesConfig.model_fields, "load")  # whose settings are a group of their own
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
