"""Settings of the balancer."""

from __future__ import annotations

from pydantic import Field

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
    retry_share: float = Field(0.1, ge=0, le=1, description="repeats that each request adds to the budget")
    retry_floor: int = Field(
        100, ge=0, le=100_000, description="repeats in the budget at first, and at most; 0 repeats nothing"
    )
