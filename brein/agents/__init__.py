"""Agents: memory, emotion and reasoning, each behind a bounded queue, and the coordinator that asks them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from brein.agents.agent import Agent
from brein.agents.amygdala import Amygdala, open_amygdala
from brein.agents.base import AgentStats, Batch, Call, Times
from brein.agents.coordinator import Coordinator, Evidence, Response, Trace
from brein.agents.generation import GenerationConfig
from brein.agents.hippocampus import Delete, Get, Hippocampus, Ingest, Memory, Search, open_hippocampus
from brein.agents.limits import AgentConfig, AgentsConfig
from brein.agents.prefrontal_cortex import PrefrontalCortex, open_prefrontal_cortex
from brein.agents.workers import InThreads, OnLoop, Threads, one_by_one
from brein.records import Answer, Emotion

_SWITCH_INTERVAL = 1e-4  # seconds


def open_coordinator(
    memory: Memory,
    amygdala: Amygdala,
    prefrontal_cortex: PrefrontalCortex,
    config: AgentsConfig,
    clock: Callable[[], float] = time.monotonic,
) -> Coordinator[Emotion, Answer]:
    """The coordinator of three agents, made for the running event loop.

    What they work with may be that of other coordinators, too: `memory`, `amygdala` and `prefrontal_cortex`
    are safe to use from several threads. Lowers the interpreter's switch interval to 0.1 ms for this process.
    """
    # By default a thread that computes keeps others from beginning for up to 5 ms.
    sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_INTERVAL))
    threads = Threads("agent")
    return Coordinator(
        open_hippocampus(memory, config.hippocampus, clock, threads),
        open_amygdala(amygdala, config.amygdala, clock, threads),
        open_prefrontal_cortex(prefrontal_cortex, config.prefrontal_cortex, clock, threads),
        clock,
    )


__all__ = [
    "Agent",
    "AgentConfig",
    "AgentStats",
    "AgentsConfig",
    "Amygdala",
    "Batch",
    "Call",
    "Coordinator",
    "Delete",
    "Evidence",
    "GenerationConfig",
    "Get",
    "Hippocampus",
    "InThreads",
    "Ingest",
    "Memory",
    "OnLoop",
    "PrefrontalCortex",
    "Response",
    "Search",
    "Threads",
    "Times",
    "Trace",
    "one_by_one",
    "open_amygdala",
    "open_coordinator",
    "open_hippocampus",
    "open_prefrontal_cortex",
]
