"""Settings of the agents: how much each takes on. The defaults are the performance guide's."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from brein.settings import Settings

Slots = Annotated[
    int, Field(ge=1, le=256, description="requests it works on at once; batches, where it takes several")
]
QueueSize = Annotated[int, Field(ge=1, le=1_000_000, description="requests that may wait for it")]
Timeout = Annotated[
    float, Field(gt=0, le=86_400, description="seconds from admission until a request is given up")
]
BatchSize = Annotated[int, Field(ge=1, le=1024, description="waiting requests it takes at once")]


class AgentConfig(Settings):
    """Limits of one agent."""

    max_concurrent: Slots
    queue_size: QueueSize
    timeout: Timeout
    batch_size: BatchSize = 1


class HippocampusConfig(AgentConfig):
    """Memory."""

    max_concurrent: Slots = 3
    queue_size: QueueSize = 100
    timeout: Timeout = 30


class PrefrontalCortexConfig(AgentConfig):
    """Reasoning."""

    max_concurrent: Slots = 2
    queue_size: QueueSize = 50
    timeout: Timeout = 60


class AmygdalaConfig(AgentConfig):
    """Emotional analysis."""

    max_concurrent: Slots = 4
    queue_size: QueueSize = 200
    timeout: Timeout = 15


class AgentsConfig(Settings):
    """Limits of every agent."""

    hippocampus: HippocampusConfig = Field(default_factory=HippocampusConfig)
    prefrontal_cortex: PrefrontalCortexConfig = Field(default_factory=PrefrontalCortexConfig)
    amygdala: AmygdalaConfig = Field(default_factory=AmygdalaConfig)
