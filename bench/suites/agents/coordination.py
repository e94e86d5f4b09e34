"""What every trial of the suite opens: the agents over an engine, and the event loop they live on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from bench.suites import ingested
from brein import Engine
from brein.agents import Agent, Coordinator, Evidence, InThreads, Response, generation, one_by_one
from brein.agents import open_hippocampus as hippocampus
from brein.agents.amygdala import Amygdala
from brein.agents.prefrontal_cortex import PrefrontalCortex
from brein.records import Answer, Emotion

Agents: TypeAlias = Coordinator[Emotion, Answer]
Reply: TypeAlias = Response[Emotion, Answer]


@contextmanager
def opened(argument: Mapping[str, Any]) -> Iterator[tuple[asyncio.Runner, Agents]]:
    """In a child: the agents over the configured engine, and what runs coroutines where they live."""
    with ingested.opened(argument) as engine, asyncio.Runner() as runner:
        agents = runner.run(_over(engine))
        try:
            yield runner, agents
        finally:
            runner.run(agents.close())


async def _over(engine: Engine) -> Agents:
    """The coordinator of an engine's agents, for the running event loop."""
    limits, embedder = engine.config.agents, engine._model
    cortex = PrefrontalCortex(generation.create(generation.GenerationConfig(), embedder))

    def reason(evidence: Evidence[Emotion]) -> Answer:
        return cortex.answer(evidence.query, evidence.hits, 0.5)

    return Coordinator(
        hippocampus(engine, limits.hippocampus),
        Agent("amygdala", limits.amygdala, InThreads(one_by_one(Amygdala(embedder).analyse), "amygdala")),
        Agent("prefrontal_cortex", limits.prefrontal_cortex, InThreads(one_by_one(reason), "reasoning")),
    )
