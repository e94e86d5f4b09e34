"""Settings of the balancer, and of index shards on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from brein.settings import Settings


class BalancerConfig(Settings):
    """How instances are checked, and how much may be asked of them."""

    interval: float = Field(
        1.0,
        ge=0.05,
        le=3600,
        description="seconds between two checks of an instance, shortened by up to a fifth",
    )
    check_timeout: float = Field(
        1.0, gt=0, le=60, description="seconds a check may take, and a connection to be made"
    )
    key_variable: str | None = Field(
        None,
        min_length=1,
        description="environment variable with the API key of /metrics; requests bring their own",
    )
    failures: int = Field(2, ge=1, le=100, description="failures in a row that eject an instance")
    successes: int = Field(2, ge=1, le=100, description="passed checks in a row that bring it back")
    timeout: float = Field(
        60.0, gt=0, le=86_400, description="seconds a request may take, its repeats among them"
    )
    max_in_flight: int = Field(
        1000, ge=1, le=100_000, description="requests in hand at once; more are refused"
    )
    max_body: int = Field(
        16 * 2**20,
        ge=1024,
        le=2**30,
        description="bytes a request or an answer may have, each held in memory",
    )
    max_held: int = Field(
        256 * 2**20,
        ge=1024,
        le=2**50,
        description="bytes of bodies held at once, at least max_body; what would be more is refused",
    )
    retry_share: float = Field(0.1, ge=0, le=1, description="repeats that each request adds to the budget")
    retry_floor: int = Field(
        100, ge=0, le=100_000, description="repeats in the budget at first, and at most; 0 repeats nothing"
    )

    @model_validator(mode="after")
    def _holds_a_body(self) -> BalancerConfig:
        if self.max_held < self.max_body:
            raise ValueError(
                f"max_held = {self.max_held}: must be at least max_body = {self.max_body}; raise it"
            )
        return self


class ScalingConfig(Settings):
    """Whether, and how, an engine's index is served beyond its process; the word "ray" is {"kind": "ray"}."""

    kind: Literal["none", "ray"] = Field("none", description="ray: as shards on the nodes of a Ray cluster")
    address: str | None = Field(
        None,
        pattern=r"^(auto|[^\s:]+:\d+)$",
        description="of the cluster, host:port; auto: the one this machine is in; null: one is started here",
    )
    shards: int = Field(4, ge=1, le=256, description="parts of the index, in the place of index.shards")
    replicas: int = Field(1, ge=1, le=16, description="of each shard, on different nodes where there are any")
    cores: float = Field(1.0, gt=0, le=256, description="that Ray is to reserve for a replica")
    timeout: float = Field(
        0.4, gt=0, le=60, description="seconds a search waits for the shards; below retrieval.vectors.budget"
    )
    start_timeout: float = Field(300.0, gt=0, le=86_400, description="seconds until all shards must answer")
    folder: Path | None = Field(
        None, description="of the shards' files; every node reaches it under this path; null: path/shards"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_its_kind(cls, given: Any) -> Any:
        return {"kind": given} if isinstance(given, str) else given
