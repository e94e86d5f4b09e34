"""The engine's whole configuration, and the reading of the performance guide's JSON profiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError

from brein.agents import AgentsConfig, GenerationConfig
from brein.cache import CacheConfig
from brein.embedding import EmbeddingConfig
from brein.embedding.transformer import TransformerConfig
from brein.errors import ConfigError
from brein.index import INDEXES, IndexConfig
from brein.index.hnsw import HNSWConfig
from brein.settings import Settings, explain
from brein.storage import StorageConfig


class EngineConfig(Settings):
    """One field per part of the engine; without a file it is the guide's large-data-set engine."""

    path: Path | None = Field(None, description="folder the engine lives in; null: in memory only")
    embedding: EmbeddingConfig = Field(default_factory=TransformerConfig)
    index: IndexConfig = Field(default_factory=HNSWConfig)
    cache: CacheConfig = Field(default_factory=CacheConfig)
    storage: StorageConfig = Field(default_factory=StorageConfig)
    agents: AgentsConfig = Field(default_factory=AgentsConfig)
    generation: GenerationConfig = Field(default_factory=GenerationConfig)
    memory_limit: int | None = Field(
        None, ge=1, description="bytes of anonymous memory the process may hold; null: as many as there are"
    )


@dataclass(frozen=True)
class GuideProfile:
    """An engine configuration read from a JSON profile, and the profile's keys that change nothing."""

    engine: EngineConfig
    inert: Mapping[str, Any]


def _of_each_agent(setting: str) -> tuple[str, ...]:
    return tuple(f"agents.{agent}.{setting}" for agent in AgentsConfig.model_fields)


# Where each key of the guide's JSON profiles goes; index parameters go to the index of their own name.
_KEYS = {
    "memory.cache_size": ("cache.max_bytes",),
    "caching.l1_size": ("cache.embedding.maxsize", "cache.search.maxsize"),
    "caching.ttl": ("cache.embedding.ttl", "cache.search.ttl"),
    "caching.compression": ("cache.search.compression",),
    "caching.l2_enabled": ("cache.l2.enabled",),
    "agents.concurrency": _of_each_agent("max_concurrent"),
    "agents.queue_size": _of_each_agent("queue_size"),
    "agents.timeout": _of_each_agent("timeout"),
    "agents.batch_size": _of_each_agent("batch_size"),
}
# The index kind decides how vectors are compressed, so this key has nothing left to say.
_INERT_KEYS = {"memory.compression"}


def read_guide_profile(profile: Mapping[str, Any]) -> GuideProfile:
    """Read a profile of the form `{"performance": {"memory": …, "agents": …, "caching": …}}`.

    What the profile leaves out keeps the engine's default. A key that the chosen index does not have, such
    as nprobe with IndexHNSW, is listed as inert instead of being refused.

    Raises:
        ConfigError: the profile's form, a key or a value is not one of the guide's.
    """
    flat = _flatten(profile)
    parts: dict[str, Any] = {"index": {"kind": flat.pop("memory.index_type", "IndexHNSW")}}
    inert = {}
    for name, value in flat.items():
        section, _, key = name.partition(".")
        if name in _KEYS:
            for target in _KEYS[name]:
                _put(parts, target, value)
        elif section == "memory" and key in _parameters(parts["index"]["kind"]):
            parts["index"][key] = value
        elif name in _INERT_KEYS or (
            section == "memory" and any(key in _parameters(kind) for kind in INDEXES)
        ):
            inert[f"performance.{name}"] = value
        else:
            raise ConfigError(
                f"performance.{name} = {value!r} is not a key of the guide's profiles; remove it"
            )
    try:
        return GuideProfile(EngineConfig.model_validate(parts), inert)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def _flatten(profile: Mapping[str, Any]) -> dict[str, Any]:
    sections = profile.get("performance")
    if set(profile) != {"performance"} or not isinstance(sections, Mapping):
        raise ConfigError(f"a profile is one object named 'performance'; found {sorted(profile)}")
    flat: dict[str, Any] = {}
    for section, values in sections.items():
        if section not in ("memory", "agents", "caching") or not isinstance(values, Mapping):
            raise ConfigError(f"performance.{section}: expected one of the objects memory, agents, caching")
        flat |= {f"{section}.{key}": value for key, value in values.items()}
    return flat


def _parameters(kind: str) -> set[str]:
    adapter: TypeAdapter[Any] = TypeAdapter(IndexConfig)
    try:
        return set(type(adapter.validate_python({"kind": kind})).model_fields) - {"kind", "metric"}
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[last] = value
