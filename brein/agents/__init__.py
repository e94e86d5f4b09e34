"""Agents: memory, emotion and reasoning, each behind a bounded queue, and the coordinator that asks them."""

from brein.agents.agent import Agent
from brein.agents.base import AgentStats, Batch, Call, Times
from brein.agents.coordinator import Coordinator, Evidence, Response, Trace
from brein.agents.hippocampus import Hippocampus, Ingest, Memory, Search, open_hippocampus
from brein.agents.limits import AgentConfig, AgentsConfig
from brein.agents.workers import InThreads, OnLoop, one_by_one

__all__ = [
    "Agent",
    "AgentConfig",
    "AgentStats",
    "AgentsConfig",
    "Batch",
    "Call",
    "Coordinator",
    "Evidence",
    "Hippocampus",
    "InThreads",
    "Ingest",
    "Memory",
    "OnLoop",
    "Response",
    "Search",
    "Times",
    "Trace",
    "one_by_one",
    "open_hippocampus",
]
